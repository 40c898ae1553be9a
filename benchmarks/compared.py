"""What a run compares: one model's weights, in the forms that contestants read, and what each form takes on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.environments import OURS, PeerUnavailableError
from benchmarks.hf_folder import write_hf_folder
from benchmarks.protocol import LoadOptions
from genai import models
from genai.build.gguf.file_names import parts_of

READ_GGUF = frozenset({"llama-cpp-python", "xllamacpp", "openvino-genai"})
"""Peers that read a GGUF file; the others, ours apart, read a Hugging Face folder."""


class Compared:
    """A known name, a GGUF file, a Hugging Face folder or a hub id, as files.

    label: a short name for files and folders; folder: where forms of it are kept.
    Raises: what `models.checkpoint` raises.
    """

    def __init__(self, model: str, kept: Path) -> None:
        self.model = model
        self.path = models.checkpoint(model)
        self.label = label_of(model)
        self.folder = kept / self.label

    def gguf(self) -> Path:
        """The GGUF file. Raises: PeerUnavailableError if there is none."""
        if self.path.is_dir():
            raise PeerUnavailableError(f"it reads GGUF files, and {self.path} is a folder")
        return self.path

    def hf_folder(self) -> Path:
        """The Hugging Face folder, written in float32 where the weights are a GGUF file.

        Raises: PeerUnavailableError for an architecture whose folder cannot be written.
        """
        if self.path.is_dir():
            return self.path
        try:
            return write_hf_folder(self.path, self.folder / "hf")
        except KeyError as error:
            raise PeerUnavailableError(f"it reads Hugging Face folders, and of {error} none is written here") from None

    def disk_bytes(self, peer: str, options: LoadOptions) -> int:
        """What a contestant that has loaded the model reads of it."""
        if peer == OURS:
            return _total(Path(options.package).glob("model.onnx*"))
        if peer in READ_GGUF:
            return _total(parts_of(Path(options.gguf)))
        built = Path(options.work) / options.precision
        return _total((built if built.is_dir() else Path(options.hf_folder)).rglob("*"))


def label_of(model: str) -> str:
    """A model's name for files: the last part of a path or a hub id, without `.gguf`."""
    return model.rstrip("/").rsplit("/", maxsplit=1)[-1].removesuffix(".gguf").replace(":", "-")


def _total(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())
