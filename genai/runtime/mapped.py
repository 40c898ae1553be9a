"""Giving back the memory of a checkpoint's mapped files while it is built from: what has been read of them.

What has been read of a mapped file stays resident until the mapping goes; these are clean pages, read again from the
page cache where they are needed. The mappings are others', so their pages are told by their addresses. Between looking
these up and giving back what lies there a mapping must not go: the memory that another thread gets at the same place
would be emptied. So who unmaps a checkpoint does it in `unmapping`. Packages are mapped otherwise (`weight_files.py`).
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
    with again_and_again(functools.partial(_give_back, names)):
        yield


@contextmanager
def again_and_again(give_back: Callable[[], None]) -> Iterator[None]:
    """Give back pages on a thread of its own while the work inside reads them, and once more at the end."""
    is_read = threading.Event()

    def until_read() -> None:
        while not is_read.wait(_INTERVAL_SECONDS):
            give_back()

    thread = threading.Thread(target=until_read, name="given-back", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_read.set()
        thread.join()
        give_back()


@contextmanager
def unmapping() -> Iterator[None]:
    """While a mapping of a file goes that may be one of those in `given_back`."""
    with _lock:
        yield


def _give_back(names: frozenset[str]) -> None:
    advise = _madvise()
    if advise is None:
        return
    with _lock:
        for start, stop in _mappings(_MAPS.read_text(encoding="utf-8", errors="replace"), names):
            advise(start, stop - start, mmap.MADV_DONTNEED)


def _mappings(text: str, names: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Where the lines of a `/proc/…/maps` say that these files lie: start and end."""
    for line in text.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in names:
            start, stop = fields[0].split("-")
            yield int(start, 16), int(stop, 16)


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
