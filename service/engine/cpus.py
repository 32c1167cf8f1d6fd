"""What processors this process has: how many it may really use, and what they compute in."""

import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CPUINFO = Path("/proc/cpuinfo")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cpus() -> int:
    """Processors by affinity and cgroup quota, at least 1.

    ONNX Runtime's default counts the host's cores, which in a container oversubscribes and stalls
    (microsoft/onnxruntime#29510).
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def _quota() -> float | None:
    """CPUs' worth of time that the cgroup allows, None if it sets no limit."""
    limits = [limit for folder in _own_folders() if (limit := _limit(folder / "cpu.max")) is not None]
    if limits:
        return min(limits)
    try:
        quota, period = (int(path.read_text()) for path in _CGROUP_V1)
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None


def _own_folders() -> list[Path]:
    """Of the cgroup (v2) that the process is in and of those around it; in a container the root is all that is seen."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folder = _CGROUP_V2 / own
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(_CGROUP_V2))]


def _limit(path: Path) -> float | None:
    try:
        limit, window = path.read_text().split()
        return None if limit == "max" else int(limit) / int(window)
    except (OSError, ValueError):
        return None


def computes_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AMX or AVX-512); elsewhere it would only be emulated."""
    return not _flags().isdisjoint({"amx_bf16", "avx512_bf16"})


def computes_int8() -> bool:
    """Whether the processor has products of 8-bit integers that are summed in 32 bits (VNNI)."""
    return not _flags().isdisjoint({"avx512_vnni", "avx_vnni"})


def has_amx() -> bool:
    """Whether the processor multiplies whole tiles of bfloat16."""
    return "amx_bf16" in _flags()


def _flags() -> set[str]:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
