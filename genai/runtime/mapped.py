"""Giving back the memory of mapped files that have been read: a package's when it is loaded, a checkpoint's when built.

What ONNX Runtime has read of `model.onnx.data` stays resident, the file's pages beside its packed copy, until the
mapping goes; those of weights that have a second reader, an embedding that is the head, too, never go. They are clean
pages of a file: given back, they are read again from the page cache where they are needed.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_INTERVAL_SECONDS = 0.02
_SMALLEST_BYTES = 1 << 20
_MAPS = Path("/proc/self/maps")


@contextmanager
def given_back(files: Iterable[Path]) -> Iterator[None]:
    """Again and again while something reads these files by mapping them, and once at the end: give back their pages.

    Where the system does not tell what is mapped (it is not Linux) nothing happens.
    """
    names = frozenset(str(file.resolve()) for file in files)
    if not names or _madvise() is None or not _MAPS.is_file():
        yield
        return
    is_loaded = threading.Event()
    thread = threading.Thread(target=_until, args=(is_loaded, names), name="given-back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_loaded.set()
        thread.join()
        give_back(names)


def data_files(model: Path) -> list[Path]:
    """The large files beside a model."""
    try:
        return [file for file in model.parent.iterdir() if file.is_file() and file.stat().st_size > _SMALLEST_BYTES]
    except OSError:
        return []


def give_back(names: Iterable[str]) -> int:
    """Give back the pages of these files that this process has mapped; returns how many bytes the mappings span."""
    advise, total = _madvise(), 0
    if advise is None:
        return 0
    wanted = frozenset(names)
    for start, stop in _mappings(_MAPS.read_text(encoding="utf-8", errors="replace"), wanted):
        if advise(start, stop - start, mmap.MADV_DONTNEED) == 0:
            total += stop - start
    return total


def _mappings(text: str, names: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Where the lines of a `/proc/…/maps` say that these files lie: start and end."""
    for line in text.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, stop = fields[0].split("-")
            yield int(start, 16), int(stop, 16)


def _until(is_loaded: threading.Event, names: frozenset[str]) -> None:
    while not is_loaded.wait(_INTERVAL_SECONDS):
        give_back(names)


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The C library's madvise, None where there is none."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    call: Callable[[int, int, int], int] = function
    return call
