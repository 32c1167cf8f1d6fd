"""The limit of open files goes as high as it may."""

import resource

import pytest

from service.open_files import open_files, raise_open_files


@pytest.fixture
def limits(monkeypatch):
    """What the system says, and is told."""
    limits = {"now": (256, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.update(now=wanted))
    return limits


def test_it_is_raised(limits):
    assert raise_open_files() == open_files() == 4096


def test_without_an_upper_limit(limits):
    limits["now"] = (256, resource.RLIM_INFINITY)
    assert raise_open_files() == 65536


def test_a_system_that_refuses(limits, monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert raise_open_files() == 256
