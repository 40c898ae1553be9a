"""What Linux's control groups leave to this process: a container sees its whole machine, whatever its limits are.

    version 2   /sys/fs/cgroup/<group>/{memory.max, memory.current, memory.stat, cpu.max}
    version 1   /sys/fs/cgroup/memory/<group>/{memory.limit_in_bytes, memory.usage_in_bytes, memory.stat}
                /sys/fs/cgroup/cpu/<group>/{cpu.cfs_quota_us, cpu.cfs_period_us}

A group's limits hold for the groups inside of it, so that all from its own up to the root count.
Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


_MEMORY_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_MEMORY_V2 = ("memory.max", "memory.current", "inactive_file")
"""Where a limit stands, what is used, and in memory.stat the files' pages in it that can be dropped."""


def free_memory(root: Path = ROOT, own_groups: Path = OWN_GROUPS) -> int | None:
    """Bytes that this process may still take before its groups are full; None without a limit."""
    rooms = [
        room
        for controller, names in (("memory", _MEMORY_V1), ("", _MEMORY_V2))
        for folder in _folders(root, own_groups, controller)
        if (room := _room(folder, names)) is not None
    ]
    return min(rooms, default=None)


def processors(root: Path = ROOT, own_groups: Path = OWN_GROUPS) -> float | None:
    """The processor time that this process may take, in processors; None without a limit."""
    words = [
        [_text(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        for folder in _folders(root, own_groups, "cpu")
    ]
    words += [_text(folder / "cpu.max").split() for folder in _folders(root, own_groups, "")]
    pairs = [[int(word) for word in pair] for pair in words if all(word.strip().isdigit() for word in pair)]
    return min((pair[0] / pair[1] for pair in pairs if len(pair) == 2 and all(pair)), default=None)


def _folders(root: Path, own_groups: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' group and of those around it. controller: of version 1; "" for version 2.

    In a container the group may be told as the machine sees it, where the container's own tree does not have it: the
    tree's root is then the container's group.
    """
    top = root / controller
    for line in _text(own_groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controller in controllers.split(",") and ".." not in Path(group).parts:
            own = Path(group.lstrip("/"))
            yield from (top / each for each in (own, *own.parents) if (top / each).is_dir())


def _room(folder: Path, names: tuple[str, str, str]) -> int | None:
    limit, used = _number(folder / names[0]), _number(folder / names[1])
    if limit is None or used is None:
        return None
    lines = (line.split() for line in _text(folder / "memory.stat").splitlines())
    cache = next((int(words[1]) for words in lines if words[:1] == [names[2]] and words[1].isdigit()), 0)
    return max(limit - max(used - cache, 0), 0)


def _number(file: Path) -> int | None:
    """What a file says; None if it is not there, or says "max" or -1: no limit."""
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
