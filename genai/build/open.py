"""Opening weights, whatever they are, and fingerprinting them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from genai.build.checkpoint_config import CONFIG_FILE
from genai.build.embedding import embedding_files
from genai.build.gguf.file_names import models_among, parts_of
from genai.build.gguf.source import GgufSource
from genai.build.safetensors import INDEX_FILE, SINGLE_FILE, SafetensorsSource, weight_files
from genai.errors import ModelNotFoundError, WeightsError
from genai.progress import Progress, silent

_CHUNK_BYTES = 1 << 22


def open_source(path: str | Path) -> GgufSource | SafetensorsSource:
    """Open a GGUF file (or any part of a split one), a folder with one, or a Hugging Face folder; close it when done.

    Raises: ModelNotFoundError, WeightsError, UnsupportedModelError.
    """
    place = _located(Path(path))
    return GgufSource(place) if place.is_file() else SafetensorsSource(place)


def source_files(path: str | Path) -> list[Path]:
    """Everything that `open_source` would read: a model's parts, or a folder's configuration and weight files."""
    place = _located(Path(path))
    return [place / CONFIG_FILE, *weight_files(place), *embedding_files(place)] if place.is_dir() else parts_of(place)


def source_digest(path: str | Path, progress: Progress = silent) -> str:
    """A SHA-256 over everything `open_source` would read, in hexadecimal.

    Of a single file it is the file's own; of a folder that of a listing, as `sha256sum` prints it.
    """
    return files_digest(source_files(path), progress)


def files_digest(files: Iterable[Path], progress: Progress = silent) -> str:
    """A SHA-256 over files: one file's own, of several that of their listing as `sha256sum` prints it.

    Raises: WeightsError for one that cannot be read.
    """
    ordered, done = sorted(files), 0
    total = sum(file.stat().st_size for file in ordered if file.is_file())

    def report(size: int) -> None:
        nonlocal done
        done += size
        progress("checking", done, total)

    if len(ordered) == 1:
        return _file_digest(ordered[0], report)
    listing = "".join(f"{_file_digest(file, report)}  {file.name}\n" for file in ordered)
    return hashlib.sha256(listing.encode()).hexdigest()


def _located(path: Path) -> Path:
    """The GGUF file or the Hugging Face folder that a path means."""
    if path.is_file():
        if path.suffix == ".safetensors":
            raise WeightsError(f"{path} is only the weights; give the folder with its {CONFIG_FILE}")
        return path
    if not path.is_dir():
        raise ModelNotFoundError(f"{path}: no such file or folder")
    if (path / SINGLE_FILE).is_file() or (path / INDEX_FILE).is_file():
        return path
    models = models_among(path.glob("*.gguf"))
    if len(models) > 1:
        raise WeightsError(
            f"{path} has {len(models)} models; give one of them: {', '.join(f.name for f in models[:8])}"
        )
    return models[0] if models else path


def _file_digest(path: Path, report: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                report(len(chunk))
        return digest.hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from None
