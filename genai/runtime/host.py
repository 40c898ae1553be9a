"""What this process may take of the machine that it runs on."""

from __future__ import annotations

import os
from pathlib import Path

from genai.runtime import cgroups


def default_threads() -> int:
    """Physical cores that this process may use, in a container its share: more threads only wait for each other."""
    import psutil

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cgroups.processors()
    return max(1, min(available, psutil.cpu_count(logical=False) or available, int(share or available)))


def free_host_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container."""
    import psutil

    available, left = int(psutil.virtual_memory().available), cgroups.free_memory()
    return available if left is None else min(available, left)


def cpu_info() -> dict[str, str]:
    """What Linux tells of the first processor, by name; nothing elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    entries = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in entries}


def processor() -> str | None:
    """What kernels choose by: the processor's name and what it can do, of which a virtual machine may hide some.

    None where the system does not tell it: two that share a name may be different.
    """
    info = cpu_info()
    told = [f"{name}: {info[name]}" for name in _PROCESSOR if name in info]
    return "; ".join(told) or None


_PROCESSOR = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
)
"""Of what Linux tells, what stays the same: of x86, and of Arm."""
