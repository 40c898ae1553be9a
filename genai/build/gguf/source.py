"""A GGUF file as a `WeightSource`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from genai.build.gguf import names
from genai.build.gguf.blocks import read_block_weight
from genai.build.gguf.file import GgufFile, TensorInfo
from genai.build.gguf.numbers import named_numbers
from genai.build.gguf.reranker import check_reranker
from genai.build.gguf.tensors import named_tensors
from genai.build.source import JSON, BlockWeight, FloatArray
from genai.errors import UnsupportedModelError, WeightsError


class GgufSource(AbstractContextManager["GgufSource"]):
    """A GGUF file, whole or split, under Hugging Face names and conventions.

    Experts that the file holds stacked have a name each, see `tensors.py`; one is read without the others.
    path: the file, or its first part; config: the keys of Hugging Face's `config.json`, see `names.config_from_gguf`;
    metadata: all of the file's metadata under its own keys (`tokenizer.ggml.tokens`, `tokenizer.chat_template`, …).
    Raises: ModelNotFoundError, WeightsError, UnsupportedModelError.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = GgufFile(path)
        self.path, self.metadata = self._file.path, self._file.metadata
        try:
            _refuse_what_is_no_model(self._file)
            self._arch = names.architecture_of(self._file)
            check_reranker(self._file)
            self._tensors = named_tensors(self._file, self._arch)
            self._numbers = named_numbers(self._file, self._arch)
            self.config: Mapping[str, JSON] = names.config_from_gguf(self._file)
        except BaseException:
            self._file.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def names(self) -> Collection[str]:
        """Every tensor's name, in the file's order, and then those that stand in the metadata (`numbers.py`)."""
        return [*self._tensors, *self._numbers]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape without reading its data. Raises: WeightsError if it is missing."""
        return () if name in self._numbers else self._place(name).shape

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """A tensor, or these rows of it, as float32, [out, in] for matrices.

        Raises: WeightsError if it is missing or damaged.
        """
        if name in self._numbers:
            return np.array(self._numbers[name], np.float32)
        place, order = self._located(name, rows)
        weight = self._file.read(place)
        if offset := names.norm_offset(self._arch, name):
            weight -= np.float32(offset)
        return weight if order is None else weight[order]

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        """The own integer blocks of a tensor, or of these rows, exact, or None if the file does not hold it so."""
        place, order = self._located(name, rows)
        block = read_block_weight(self._file, place)
        return block if block is None or order is None else block.take_rows(order)

    def _located(self, name: str, rows: slice | None) -> tuple[TensorInfo, npt.NDArray[np.int64] | None]:
        """Where a tensor's rows lie, and which of what lies there to take, in which order; None for all as they are."""
        place = self._place(name)
        if (heads := names.paired_heads(self._arch, name, self.config)) is not None:
            order = names.unpaired_rows(place.shape[0], heads)
            return place, order if rows is None else order[rows]
        return place if rows is None else place.rows(rows.start, rows.stop), None

    def _place(self, name: str) -> TensorInfo:
        try:
            return self._tensors[name]
        except KeyError:
            raise WeightsError(f"{self.path}: no tensor {name!r} in this file") from None


def _refuse_what_is_no_model(file: GgufFile) -> None:
    kind, arch = file.metadata.get("general.type", "model"), file.metadata.get("general.architecture")
    if str(kind) == "mmproj" or str(arch) == "clip":
        raise UnsupportedModelError(
            f"{file.path} is the part of a model that sees or hears (mmproj), not the model: give the GGUF file that "
            "belongs to it; pictures and sound are not supported"
        )
    if str(kind) != "model":
        raise UnsupportedModelError(f"{file.path} holds no model (general.type is {str(kind)[:40]!r})")
