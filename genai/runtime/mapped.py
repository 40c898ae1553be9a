"""Giving back the memory of mapped files that have been read: a package's when it is loaded, a checkpoint's when built.

What ONNX Runtime has read of `model.onnx.data` stays resident, the file's pages beside its packed copy, until the
mapping goes; those of weights that have a second reader, an embedding that is the head, too, never go. They are clean
pages of a file: given back, they are read again from the page cache where they are needed.

Pages are told by their addresses. Between looking these up and giving back what lies there a mapping must not go: the
memory that another thread gets at the same place would be emptied. So nothing is given back while ONNX Runtime loads,
which maps and unmaps as it packs, but once when it is done; and who unmaps a checkpoint does it in `unmapping`.
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
_lock = threading.RLock()
"""Held from looking up addresses to having given back what lies there."""


@contextmanager
def given_back(files: Iterable[Path]) -> Iterator[None]:
    """Again and again while something reads these files by mapping them, and once at the end: give back their pages.

    Their mappings stay, or go in `unmapping`. Where the system does not tell what is mapped (it is not Linux) nothing
    happens.
    """
    names = frozenset(str(file.resolve()) for file in files)
    if not names or _madvise() is None or not _MAPS.is_file():
        yield
        return
    is_read = threading.Event()
    thread = threading.Thread(target=_until, args=(is_read, names), name="given-back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_read.set()
        thread.join()
        _give_back(names)


@contextmanager
def unmapping() -> Iterator[None]:
    """While a mapping of a file goes that may be one of those in `given_back`."""
    with _lock:
        yield


def data_files(model: Path) -> list[Path]:
    """The large files beside a model."""
    try:
        return [file for file in model.parent.iterdir() if file.is_file() and file.stat().st_size > _SMALLEST_BYTES]
    except OSError:
        return []


def give_back(files: Iterable[Path]) -> int:
    """Give back the pages of these files that this process has mapped; returns how many bytes the mappings span.

    They are those of somebody who keeps them meanwhile, or lets them go in `unmapping`.
    """
    return _give_back(frozenset(str(file.resolve()) for file in files))


def _give_back(names: frozenset[str]) -> int:
    advise, total = _madvise(), 0
    if advise is None or not names or not _MAPS.is_file():
        return 0
    with _lock:
        for start, stop in _mappings(_MAPS.read_text(encoding="utf-8", errors="replace"), names):
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


def _until(is_read: threading.Event, names: frozenset[str]) -> None:
    while not is_read.wait(_INTERVAL_SECONDS):
        _give_back(names)


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
