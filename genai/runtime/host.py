"""What this process may take of the machine that it runs on."""

from __future__ import annotations

import os

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
