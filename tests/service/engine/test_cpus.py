"""The processors that a container may use, not those of its host."""

import os

import pytest

from service.engine import cpus


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so many processors by affinity, and cgroup files as given."""

    def machine(
        affinity: int, v2: str | None = None, v1: tuple[str, str] | None = None, around: str | None = None
    ) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        files = {name: tmp_path / name for name in ("quota", "period", "cgroup")}
        (tmp_path / "own" / "inner").mkdir(parents=True)
        for folder, limit in (("own/inner", v2), ("own", around)):
            if limit is not None:
                (tmp_path / folder / "cpu.max").write_text(limit)
        files["cgroup"].write_text("1:cpu:/\n0::/own/inner\n")
        if v1 is not None:
            files["quota"].write_text(v1[0])
            files["period"].write_text(v1[1])
        monkeypatch.setattr(cpus, "_CGROUP_V2", tmp_path)
        monkeypatch.setattr(cpus, "_OWN_CGROUP", files["cgroup"])
        monkeypatch.setattr(cpus, "_CGROUP_V1", (files["quota"], files["period"]))
        return cpus.usable_cpus()

    return machine


@pytest.mark.parametrize(
    ("v2", "expected"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 1), ("20000 100000\n", 1), ("1600000 100000", 8)],
)
def test_cgroup_v2(machine, v2, expected):
    assert machine(8, v2=v2) == expected


@pytest.mark.parametrize(
    ("own", "around", "expected"), [("max 100000", "200000 100000", 2), ("300000 100000", "600000 100000", 3)]
)
def test_the_least_limit_of_the_own_cgroup_and_those_around_it(machine, own, around, expected):
    assert machine(8, v2=own, around=around) == expected


def test_a_process_without_a_cgroup_of_its_own(machine, monkeypatch, tmp_path):
    machine(8, v2="100000 100000")
    monkeypatch.setattr(cpus, "_OWN_CGROUP", tmp_path / "missing")
    (tmp_path / "cpu.max").write_text("300000 100000")
    assert cpus.usable_cpus() == 3


@pytest.mark.parametrize(("v1", "expected"), [(("-1\n", "100000\n"), 8), (("300000\n", "100000\n"), 3)])
def test_cgroup_v1(machine, v1, expected):
    assert machine(8, v1=v1) == expected


def test_without_cgroups(machine):
    assert machine(3) == 3


@pytest.mark.parametrize("v2", ["", "nonsense", "1 2 3", "max"])
def test_files_that_make_no_sense_set_no_limit(machine, v2):
    assert machine(4, v2=v2) == 4


def test_without_affinity(machine, monkeypatch):
    machine(8)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.usable_cpus() == 1
