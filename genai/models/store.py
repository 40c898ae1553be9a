"""Where models live on disk, and what is remembered about them.

    $GENAI_HOME/
      weights/<name>/<file>.gguf                 verified weights of models known by name
      packages/<label>-<precision>-<key>/        model packages, built on demand
      downloads/<name>/                          wheels on their way; empty but for what an interrupted pull left
      locks/<name>.lock                          one process at a time pulls, or builds, one thing
      answers/<digest>.json                      what was asked of processors (`runtime/kept_answers.py`)
      index.json                                 what need not be worked out again; may be deleted at any time

Everything appears under its final name by a rename, when it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from genai import config
from genai.build.gguf.file_names import parts_of
from genai.errors import DownloadError
from genai.progress import Progress


def weights_folder(name: str) -> Path:
    """Where a known model's weights are kept."""
    return config.genai_home() / "weights" / name


def downloads_folder(name: str) -> Path:
    """Where a known model's wheels arrive."""
    return config.genai_home() / "downloads" / name


def packages_folder() -> Path:
    """Where built packages are kept."""
    return config.genai_home() / "packages"


def label_of(name: str) -> str:
    """A name, hub id or path as part of a folder name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "model"


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 if there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def locked(name: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of a name against other processes; it is let go when the process ends, however it ends.

    Raises: DownloadError if the lock file cannot be made.
    """
    import filelock

    path = config.genai_home() / "locks" / f"{label_of(name)}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(f"waiting for another process that fetches or builds {name}", 0, 0)
            lock.acquire()
    except OSError as error:
        raise DownloadError(f"cannot write to {path.parent}: {error.strerror or error}; check GENAI_HOME") from None
    try:
        yield
    finally:
        lock.release()


def fingerprint(source: Path, files: Sequence[Path] | None = None) -> str:
    """Changes when a file or one of its parts, or a file directly inside a folder, changes its size or its time.

    files: what counts instead. No contents are read. Raises: WeightsError if parts are missing.
    """
    if files is None:
        files = sorted(source.iterdir()) if source.is_dir() else parts_of(source)
    facts = [(file.name, info.st_size, info.st_mtime_ns) for file in files if file.is_file() for info in [file.stat()]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def recall(key: str, stamp: str) -> str | None:
    """What was remembered under a key, if its stamp is still the same."""
    entry = _index().get(key)
    return entry[1] if entry and entry[0] == stamp else None


def remember(key: str, stamp: str, value: str) -> None:
    """Remember a value under a key and a stamp. Losing one in a race, or to a full disk, only costs time later."""
    path = _index_path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".index-", ignore_cleanup_errors=True) as folder:
            written = Path(folder, path.name)
            written.write_text(json.dumps({**_index(), key: [stamp, value]}, indent=1), encoding="utf-8")
            os.replace(written, path)


def _index_path() -> Path:
    return config.genai_home() / "index.json"


def _index() -> Mapping[str, tuple[str, str]]:
    """The index; entries that are damaged count as absent."""
    try:
        entries = json.loads(_index_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {
        key: (entry[0], entry[1])
        for key, entry in entries.items()
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
    }
