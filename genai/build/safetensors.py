"""Hugging Face checkpoints: a folder with `config.json` and safetensors files, read through memory maps.

Format: https://github.com/huggingface/safetensors#format. Its own reader checks all that a header claims.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import ml_dtypes  # noqa: F401 (without it safetensors has no bfloat16)
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from genai.build import towers
from genai.build.checkpoint_config import CONFIG_FILE, decoder_config, read_json_object
from genai.build.source import JSON, BlockWeight, FloatArray
from genai.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from genai.runtime.mapped import unmapping

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
_DTYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64"}


class SafetensorsFile:
    """One open safetensors file: `shapes` by name, data mapped and read on demand.

    Raises: WeightsError (missing, damaged), UnsupportedModelError (a number type that is not known).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if file.read(64).startswith(b"version https://git-lfs"):
                    raise WeightsError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
                self._file: Any = safe_open(path, framework="numpy")
                file.seek(0)
                header = read_json_object(path, file.read(int.from_bytes(file.read(8), "little")))
        except FileNotFoundError:
            raise WeightsError(f"{path} is missing; the checkpoint is incomplete") from None
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error})") from None
        except SafetensorError as error:
            raise WeightsError(f"{path} is damaged or cut off, or no safetensors file ({str(error)[:200]})") from None
        header.pop("__metadata__", None)
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in header:
            entry = self._file.get_slice(name)  # type: ignore[no-untyped-call]
            if (dtype := entry.get_dtype()) not in _DTYPES:
                raise UnsupportedModelError(f"{path}: tensor {name!r} is of type {dtype!r}, which is not read here")
            self.shapes[name] = tuple(entry.get_shape())

    def close(self) -> None:
        """Let the mapping go."""
        with unmapping():
            self._file.__exit__(None, None, None)

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """A tensor, or these rows of it, as float32, a copy."""
        try:
            stored = self._file.get_tensor(name) if rows is None else self._file.get_slice(name)[rows]
        except SafetensorError as error:
            raise WeightsError(f"{self.path}: tensor {name!r} cannot be read ({error})") from None
        return _as_float(stored)

    def read_item(self, name: str, index: int) -> FloatArray:
        """One item along a tensor's first axis, as float32, a copy."""
        try:
            return _as_float(self._file.get_slice(name)[index])
        except SafetensorError as error:
            raise WeightsError(f"{self.path}: tensor {name!r} cannot be read ({error})") from None


class SafetensorsSource(AbstractContextManager["SafetensorsSource"]):
    """A Hugging Face folder: `config.json` with `model.safetensors`, or with an index and its shards.

    Of a model of several parts only the text decoder is shown, under the names it would have alone (`towers.py`). What
    was saved without a head has names that lack their beginning; they are shown whole.
    config: the keys of `config.json`, the text decoder's if there are several.
    Raises: ModelNotFoundError, WeightsError, UnsupportedModelError (quantized checkpoints among others).
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        stored_config = read_json_object(self.path / CONFIG_FILE)
        self.config: Mapping[str, JSON] = decoder_config(stored_config, self.path)
        self._shards: dict[str, SafetensorsFile] = {}
        try:
            self._places = self._open_shards()
            if towers.is_tower(stored_config):
                stored_names = towers.text_tensors(self._places, self.path)
                self._places = {name: self._places[stored] for name, stored in stored_names.items()}
            elif "embed_tokens.weight" in self._places:
                self._places = {_whole_name(name): place for name, place in self._places.items()}
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go."""
        for shard in self._shards.values():
            shard.close()

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape without reading its data. Raises: WeightsError if it is missing."""
        shard, stored = self._place(name)
        return shard.shapes[stored]

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """A tensor, or these rows of it, as float32, [out, in] for matrices. Raises: WeightsError if it is missing."""
        shard, stored = self._place(name)
        return shard.read(stored, rows)

    def read_item(self, name: str, index: int) -> FloatArray:
        """One item along a tensor's first axis, as float32. Raises: WeightsError if it is missing."""
        shard, stored = self._place(name)
        return shard.read_item(stored, index)

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        """Always None: these files hold floats, or what `mxfp4.py` reads."""
        self._place(name)
        return None

    def read_item_blocks(self, name: str, index: int) -> BlockWeight | None:
        """Always None, as `read_blocks`."""
        return self.read_blocks(name)

    def _place(self, name: str) -> tuple[SafetensorsFile, str]:
        try:
            return self._places[name]
        except KeyError:
            raise WeightsError(f"{self.path}: no tensor {name!r} in this checkpoint") from None

    def _open_shards(self) -> dict[str, tuple[SafetensorsFile, str]]:
        """Every tensor's file and its name there."""
        if (self.path / SINGLE_FILE).is_file():
            only = self._shards[SINGLE_FILE] = SafetensorsFile(self.path / SINGLE_FILE)
            return {name: (only, name) for name in only.shapes}
        weight_map = _weight_map(self.path)
        for shard_name in sorted(set(weight_map.values())):
            self._shards[shard_name] = SafetensorsFile(self.path / shard_name)
        places = {}
        for name, shard_name in weight_map.items():
            shard = self._shards[shard_name]
            if name not in shard.shapes:
                raise WeightsError(f"{self.path}: the index places tensor {name!r} in {shard_name}, which has none")
            places[name] = (shard, name)
        return places


def _as_float(stored: npt.NDArray[np.generic]) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float32, copy=False)


def _whole_name(stored: str) -> str:
    """The name that a tensor of a model saved without a head has in one with a head."""
    return stored if stored.startswith("lm_head.") else f"model.{stored}"


def weight_files(folder: Path) -> list[Path]:
    """The checkpoint's weight files, index included. Raises: ModelNotFoundError, WeightsError."""
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    return [folder / INDEX_FILE, *(folder / name for name in sorted(set(_weight_map(folder).values())))]


def _weight_map(folder: Path) -> dict[str, str]:
    """The index: tensor name -> file name, none of which leaves the folder."""
    index = folder / INDEX_FILE
    if not index.is_file():
        hint = "; pickled weights (.bin, .pth) are not read: convert them" if list(folder.glob("*.bin")) else ""
        raise ModelNotFoundError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}{hint}")
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no weight_map")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise WeightsError(f"{index} names {str(shard)[:80]!r}, not a safetensors file in the same folder")
    return cast(dict[str, str], weight_map)
