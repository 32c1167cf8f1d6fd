"""The processors that a container may use, not those of its host."""

import os

import pytest

from service.engine import cpus


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with so many processors by affinity, and cgroup files as given."""

    def machine(affinity: int, v2: str | None = None, v1: tuple[str, str] | None = None) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        files = {name: tmp_path / name for name in ("cpu.max", "quota", "period")}
        if v2 is not None:
            files["cpu.max"].write_text(v2)
        if v1 is not None:
            files["quota"].write_text(v1[0])
            files["period"].write_text(v1[1])
        monkeypatch.setattr(cpus, "_CGROUP_V2", files["cpu.max"])
        monkeypatch.setattr(cpus, "_CGROUP_V1", (files["quota"], files["period"]))
        return cpus.usable_cpus()

    return machine


@pytest.mark.parametrize(
    ("v2", "expected"),
    [("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 1), ("20000 100000\n", 1), ("1600000 100000", 8)],
)
def test_cgroup_v2(machine, v2, expected):
    assert machine(8, v2=v2) == expected


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
