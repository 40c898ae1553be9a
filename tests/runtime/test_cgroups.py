"""Limits of control groups, read from folders that look like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai.runtime import cgroups, host

GIB = 1 << 30


def tree(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """(root, own groups): the kernel's files with these texts."""
    root = folder / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (folder / "self").write_text(own)
    return root, folder / "self"


V2 = "0::/pod/container\n"
V1 = "12:memory:/pod/container\n7:cpu,cpuacct:/pod/container\n1:name=systemd:/\n"
UNLIMITED = "9223372036854771712\n"


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        (V2, {}, None),
        (V2, {"pod/container/memory.max": "max\n", "pod/container/memory.current": "5\n"}, None),
        (V2, {"pod/container/memory.max": "1000\n", "pod/container/memory.current": "300\n"}, 700),
        (V2, {"pod/container/memory.max": "1000\n", "pod/container/memory.current": "1300\n"}, 0),
        # what the group around it leaves is less
        (V2, {"pod/container/memory.max": "1000\n", "pod/container/memory.current": "300\n",
              "pod/memory.max": "1200\n", "pod/memory.current": "1100\n"}, 100),
        # pages of files are dropped before anything else
        (V2, {"pod/container/memory.max": "1000\n", "pod/container/memory.current": "900\n",
              "pod/container/memory.stat": "anon 100\nactive_file 50\ninactive_file 600\n"}, 700),
        # a container that is told its name outside of itself
        (V2, {"memory.max": "1000\n", "memory.current": "300\n"}, 700),
        ("0::/../../escaping\n", {"memory.max": "1000\n", "memory.current": "300\n"}, None),
        (V1, {"memory/pod/container/memory.limit_in_bytes": "1000\n",
              "memory/pod/container/memory.usage_in_bytes": "400\n",
              "memory/pod/container/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
              "memory/memory.limit_in_bytes": UNLIMITED, "memory/memory.usage_in_bytes": "1\n"}, 700),
        (V1, {"memory/memory.limit_in_bytes": "nonsense", "memory/memory.usage_in_bytes": "\n"}, None),
        ("", {"memory.max": "1000\n", "memory.current": "300\n"}, None),
    ],
)  # fmt: skip
def test_free_memory(tmp_path: Path, own: str, files: dict[str, str], free: int | None) -> None:
    assert cgroups.free_memory(*tree(tmp_path, own, files)) == free


@pytest.mark.parametrize(
    ("own", "files", "share"),
    [
        (V2, {}, None),
        (V2, {"pod/container/cpu.max": "max 100000\n"}, None),
        (V2, {"pod/container/cpu.max": "250000 100000\n"}, 2.5),
        (V2, {"pod/container/cpu.max": "250000 100000\n", "pod/cpu.max": "50000 100000\n"}, 0.5),
        (V2, {"pod/container/cpu.max": "0 0\n", "cpu.max": "1\n"}, None),
        (V1, {"cpu/pod/container/cpu.cfs_quota_us": "-1\n", "cpu/pod/container/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu/pod/container/cpu.cfs_quota_us": "150000\n", "cpu/pod/container/cpu.cfs_period_us": "50000\n"}, 3),
    ],
)
def test_processors(tmp_path: Path, own: str, files: dict[str, str], share: float | None) -> None:
    assert cgroups.processors(*tree(tmp_path, own, files)) == share


def test_without_any_groups(tmp_path: Path) -> None:
    assert cgroups.free_memory(tmp_path / "no", tmp_path / "such") is None
    assert cgroups.processors(tmp_path / "no", tmp_path / "such") is None


@pytest.mark.parametrize(("share", "threads"), [(0.5, 1), (1.0, 1), (1.9, 1), (None, 2), (64.0, 2)])
def test_threads(monkeypatch: pytest.MonkeyPatch, share: float | None, threads: int) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(cgroups, "processors", lambda: share)
    assert host.default_threads() == threads


def test_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "free_memory", lambda: 12345)
    assert host.free_host_memory() == 12345
    monkeypatch.setattr(cgroups, "free_memory", lambda: None)
    assert host.free_host_memory() > 12345
