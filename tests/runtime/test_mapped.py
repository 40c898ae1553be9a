"""Pages of mapped checkpoints: given back by the system's name of the file, read again where they are needed."""

from __future__ import annotations

import mmap
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from genai.runtime.mapped import given_back, unmapping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")

SIZE = 4 << 20


def resident_bytes(path: Path) -> int:
    """What of a file is in this process's memory."""
    total, is_wanted = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_wanted = line.endswith(f" {path}")
        elif is_wanted and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[Path, mmap.mmap]:
    """A file that is mapped privately, and all of it read."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(np.arange(SIZE // 8).tobytes())
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert sum(data[:: mmap.PAGESIZE]) >= 0
    return path, data


def test_pages_go_and_come_again(mapped: tuple[Path, mmap.mmap]) -> None:
    path, data = mapped
    assert resident_bytes(path) == SIZE
    with given_back([path]):
        pass
    assert resident_bytes(path) == 0
    assert np.array_equal(np.frombuffer(data, np.int64), np.arange(SIZE // 8))


def test_other_files_keep_theirs(mapped: tuple[Path, mmap.mmap]) -> None:
    path, _data = mapped
    with given_back([path.with_name("another")]):
        pass
    assert resident_bytes(path) == SIZE


def test_what_was_read_is_given_back_however_reading_ends(mapped: tuple[Path, mmap.mmap]) -> None:
    path, _data = mapped
    link = path.parent / "by-another-name"
    link.symlink_to(path.parent)
    with pytest.raises(ValueError, match="no checkpoint"), given_back([link / path.name]):
        raise ValueError("no checkpoint")
    assert resident_bytes(path) == 0


def test_nothing_is_given_back_while_a_mapping_goes(mapped: tuple[Path, mmap.mmap]) -> None:
    path, data = mapped
    with given_back([path]):
        with unmapping():
            assert sum(data[:: mmap.PAGESIZE]) >= 0
            time.sleep(0.1)
            assert resident_bytes(path) == SIZE
        time.sleep(0.1)
    assert resident_bytes(path) == 0
