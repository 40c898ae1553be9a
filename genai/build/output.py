"""A folder that appears whole or not at all.

It is written under a hidden name beside its destination, `.<name>.<random>`, and renamed when it is whole. While it is
being written it holds a locked file; a folder whose lock is free was left by a process that was killed, and is removed
by the next one that writes to the same destination.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from genai.errors import GenAIError, ModelError

_LOCK_FILE = ".building"


@contextmanager
def finished_folder(output: Path, marker: str) -> Iterator[Path]:
    """A new folder that becomes `output` if the block succeeds, and vanishes if it does not.

    output: may exist if it is empty or holds a file `marker`; it is replaced then.
    Raises: ModelError if it is something else, or cannot be written.
    """
    output = output.resolve()
    made = [folder for folder in output.parents if not folder.exists()]
    try:
        if not _may_replace(output, marker):
            raise ModelError(f"{output} exists and is not a model package; choose another output folder")
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(output)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
        try:
            with filelock.FileLock(folder / _LOCK_FILE):
                yield folder
            (folder / _LOCK_FILE).unlink(missing_ok=True)
            folder.chmod(0o755)
            _move(folder, output)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except BaseException as error:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError) and not isinstance(error, GenAIError):  # some are both
            raise _disk_error(error, output) from error
        raise


def _prefix(output: Path) -> str:
    return f".{output.name}."


def _may_replace(output: Path, marker: str) -> bool:
    if not output.exists():
        return True
    return output.is_dir() and ((output / marker).is_file() or not any(output.iterdir()))


def _remove_leftovers(output: Path) -> None:
    """Remove what killed processes left; a folder that is being written is not touched."""
    for folder in output.parent.iterdir():
        if folder.name.startswith(_prefix(output)) and folder.is_dir():
            try:
                with filelock.FileLock(folder / _LOCK_FILE, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
            except (filelock.Timeout, OSError):
                continue


def _move(folder: Path, output: Path) -> None:
    """Rename a folder; what is in its way goes aside first, and comes back if the renaming fails."""
    if not output.exists():
        folder.rename(output)
        return
    aside = folder.with_name(f"{folder.name}.old")
    output.rename(aside)
    try:
        folder.rename(output)
    except OSError:
        aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _disk_error(error: OSError, output: Path) -> ModelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"the disk is full: cannot write {output}; free some space and build again")
    return ModelError(f"cannot write {output}: {error.strerror or error}")
