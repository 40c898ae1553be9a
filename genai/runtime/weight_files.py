"""A model's weights outside of its graph, in files that are mapped here and that ONNX Runtime reads where they lie.

ONNX Runtime packs what products read, and would map the files by itself as long as it packs: at the end each weight is
in memory twice, as the file's pages and packed. Pages of a mapping of our own may be given back at any time, since
nobody else takes it away: they are clean, and read again from the page cache by whoever still needs them. So they are
given back again and again while a session is made (`given_back`), and once more when it is done: what has a second
reader, an embedding that is the head, too, would stay resident otherwise.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from genai.runtime.mapped import again_and_again
from genai.runtime.ort import SessionOptions

_LOCATION = re.compile(rb"\n\x08location\x12(.)", re.DOTALL)
"""Where a serialized graph names a file: the key of an entry of `external_data`, then the length of what follows."""
_LONGEST_NAME = 127
"""Longer ones take a second byte for their length."""


class WeightFiles:
    """Mapped files by their names; they have to outlive the session that is given them."""

    def __init__(self, files: Mapping[str, mmap.mmap]) -> None:
        self._files = files

    @classmethod
    def of(cls, model: Path) -> WeightFiles:
        """Those that a graph names, if all lie beside it; none otherwise, so that ONNX Runtime sees to it."""
        names, files = _named(model), {}
        try:
            for name in names:
                path = model.parent / name
                if Path(name).name != name or path.is_symlink():  # ONNX Runtime looks at where they lead
                    return cls({})
                files[name] = _mapped(path)
        except (OSError, ValueError):  # missing or empty
            return cls({})
        return cls(files)

    def give(self, options: SessionOptions) -> None:
        """Have a session read these instead of the files that its graph names."""
        if self._files:
            lengths = [len(file) for file in self._files.values()]
            options.add_external_initializers_from_files_in_memory([*self._files], [*self._files.values()], lengths)

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Again and again inside, and once at the end: give back the pages that have been read.

        Where the system knows no such thing (it is Windows) nothing happens.
        """
        if not self._files or not hasattr(mmap, "MADV_DONTNEED"):
            yield
            return
        with again_and_again(self._give_back):
            yield

    def _give_back(self) -> None:
        for file in self._files.values():
            file.madvise(mmap.MADV_DONTNEED)


def _named(model: Path) -> set[str]:
    """The files that a graph names; none of one that cannot be read."""
    try:
        graph = _mapped(model)
    except (OSError, ValueError):
        return set()
    with graph:
        names = set()
        for found in _LOCATION.finditer(graph):
            length = found[1][0]
            names.add(
                "" if length > _LONGEST_NAME else graph[found.end() : found.end() + length].decode(errors="replace")
            )
        return names


def _mapped(path: Path) -> mmap.mmap:
    """A file's contents. Raises: OSError, ValueError for an empty file."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
