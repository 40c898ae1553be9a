"""What is in a GGUF file: tensors, their types, metadata. Read from its header; no tensor's data is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genai.build.gguf.file import GgufFile, MetadataValue, TensorInfo
from genai.build.gguf.names import architecture_of
from genai.errors import ModelError
from genai.inspect.report import PARTS, part_of

_LONGEST_LIST = 8
_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufReport:
    """What `inspect_gguf` found.

    tensors: in the file's order; weight_bytes: by part of the model; metadata: numbers, texts, and lists of them;
    refused: why no package is built from such a file, None if one is.
    """

    path: Path
    architecture: str
    tensors: tuple[TensorInfo, ...]
    weight_bytes: Mapping[str, int]
    metadata: Mapping[str, bool | int | float | str | list[object]]
    refused: str | None

    @property
    def types(self) -> dict[str, list[TensorInfo]]:
        """The tensors of each type, the type that takes most bytes first."""
        found: dict[str, list[TensorInfo]] = {}
        for tensor in self.tensors:
            found.setdefault(tensor.ggml_type, []).append(tensor)
        return dict(sorted(found.items(), key=lambda item: -sum(tensor.nbytes for tensor in item[1])))


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, whatever it is called."""
    try:
        with path.open("rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return False


def inspect_gguf(path: Path) -> GgufReport:
    """Read a GGUF file's header. Raises: WeightsError, UnsupportedModelError for a damaged or foreign one."""
    with GgufFile(path) as file:
        sizes = dict.fromkeys(PARTS, 0)
        for tensor in file.tensors.values():
            sizes[_part(tensor.name)] += tensor.nbytes
        return GgufReport(
            path=path,
            architecture=str(file.metadata.get("general.architecture", "unknown")),
            tensors=tuple(file.tensors.values()),
            weight_bytes=sizes,
            metadata={key: _plain(value) for key, value in file.metadata.items()},
            refused=_refused(file),
        )


def shown(value: bool | int | float | str | list[object]) -> str:
    """A metadata value in one short line."""
    if isinstance(value, list):
        items = ", ".join(str(item) for item in value[:_LONGEST_LIST])
        text = f"[{items}, …] ({len(value):,})" if len(value) > _LONGEST_LIST else f"[{items}]"
    else:
        text = str(value)
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:100]}… ({len(text):,} characters)"


def _part(name: str) -> str:
    return "head" if name == "output.weight" else part_of(name.removesuffix(".weight"))


def _plain(value: MetadataValue) -> bool | int | float | str | list[object]:
    return value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, list) else value


def _refused(file: GgufFile) -> str | None:
    try:
        architecture_of(file)
    except ModelError as error:
        return str(error).removeprefix(f"{file.path}: ")
    return None
