"""Hugging Face checkpoints: a folder with `config.json` and safetensors files, read through memory maps.

    length of the header u64 | header: JSON, name -> dtype, shape, data_offsets | data

Format: https://github.com/huggingface/safetensors#format. Everything the header claims is checked before it is used.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np

from genai.build.checkpoint_config import CONFIG_FILE, is_multimodal, read_json_object, text_config, text_tensor_name
from genai.build.source import JSON, BlockWeight, FloatArray
from genai.errors import ModelNotFoundError, UnsupportedModelError, WeightsError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_MAX_HEADER_BYTES = 100_000_000  # the reference implementation's limit
_MAX_DIMENSIONS = 8
_SHARD_NAME = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
_DTYPES = {
    "BOOL": "?",
    "U8": "<u1",
    "I8": "<i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a tensor lies in a safetensors file; offset: from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class SafetensorsFile:
    """One open safetensors file: `entries` by name, data mapped and read on demand.

    Raises: ModelNotFoundError, WeightsError (damaged), UnsupportedModelError (a number type that is not known).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _map_file(path)
        try:
            self.entries: Mapping[str, Entry] = _entries(path, self._map)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the mapping go."""
        with contextlib.suppress(BufferError):
            self._map.close()

    def read(self, name: str) -> FloatArray:
        """A tensor as float32, a copy."""
        entry = self.entries[name]
        dtype = np.dtype(_DTYPES[entry.dtype])
        try:
            stored = np.frombuffer(self._map, dtype, count=entry.nbytes // dtype.itemsize, offset=entry.offset)
        except ValueError:
            raise WeightsError(f"{self.path}: the file is closed") from None
        if entry.dtype == "BF16":
            return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(entry.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            return stored.astype(np.float32).reshape(entry.shape)


class SafetensorsSource:
    """A Hugging Face folder: `config.json` with `model.safetensors`, or with an index and its shards.

    Of a multimodal Gemma 3 only the language model is shown, under the names it would have alone.
    Raises: ModelNotFoundError, WeightsError, UnsupportedModelError (quantized checkpoints among others).
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)
        stored_config = read_json_object(self.path / CONFIG_FILE)
        self._config = text_config(stored_config, self.path)
        self._shards: dict[str, SafetensorsFile] = {}
        try:
            self._places = self._open_shards()
            if is_multimodal(stored_config):
                self._places = _text_places(self._places, self.path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go."""
        for shard in self._shards.values():
            shard.close()

    @property
    def config(self) -> Mapping[str, JSON]:
        """The keys of `config.json`, the language model's if there are several."""
        return self._config

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape without reading its data. Raises: WeightsError if it is missing."""
        shard, stored = self._place(name)
        return shard.entries[stored].shape

    def read(self, name: str) -> FloatArray:
        """A tensor as float32, [out, in] for matrices. Raises: WeightsError if it is missing."""
        shard, stored = self._place(name)
        return shard.read(stored)

    def read_blocks(self, name: str) -> BlockWeight | None:
        """Always None: these files hold floats."""
        self._place(name)
        return None

    def _place(self, name: str) -> tuple[SafetensorsFile, str]:
        try:
            return self._places[name]
        except KeyError:
            raise WeightsError(f"{self.path}: no tensor {name!r} in this checkpoint") from None

    def _open_shards(self) -> dict[str, tuple[SafetensorsFile, str]]:
        """Every tensor's file and its name there."""
        if (self.path / SINGLE_FILE).is_file():
            only = self._shards[SINGLE_FILE] = SafetensorsFile(self.path / SINGLE_FILE)
            return {name: (only, name) for name in only.entries}
        weight_map = _weight_map(self.path)
        for shard_name in sorted(set(weight_map.values())):
            self._shards[shard_name] = SafetensorsFile(self.path / shard_name)
        places = {}
        for name, shard_name in weight_map.items():
            shard = self._shards[shard_name]
            if name not in shard.entries:
                raise WeightsError(f"{self.path}: the index places tensor {name!r} in {shard_name}, which has none")
            places[name] = (shard, name)
        return places


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


def _text_places(
    places: Mapping[str, tuple[SafetensorsFile, str]], folder: Path
) -> dict[str, tuple[SafetensorsFile, str]]:
    kept: dict[str, tuple[SafetensorsFile, str]] = {}
    for stored, place in places.items():
        if (name := text_tensor_name(stored)) is None:
            continue
        if name in kept:
            raise WeightsError(f"{folder}: two tensors stand for {name!r}, {kept[name][1]!r} and {stored!r}")
        kept[name] = place
    return kept


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            start = file.read(64)
            if len(start) >= 8 and not start.startswith(b"version https://git-lfs"):
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise WeightsError(f"{path} is missing; the checkpoint is incomplete") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error})") from None
    if len(start) < 8:
        raise WeightsError(f"{path} is cut off inside its header")
    raise WeightsError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")


def _entries(path: Path, data: mmap.mmap) -> dict[str, Entry]:
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, len(data) - 8):
        raise WeightsError(f"{path} is damaged or no safetensors file: a header of {length} bytes in {len(data)}")
    header = read_json_object(path, data[8 : 8 + length])
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, claim, 8 + length, len(data)) for name, claim in header.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].offset):
        if entry.nbytes and entry.offset < end:
            raise WeightsError(f"{path} is damaged: tensor {name!r} overlaps the one before it")
        end = max(end, entry.offset + entry.nbytes)
    return entries


def _entry(path: Path, name: str, claim: JSON, data_start: int, file_size: int) -> Entry:
    claim = claim if isinstance(claim, dict) else {}
    dtype, shape, offsets = claim.get("dtype"), _sizes(claim.get("shape")), _sizes(claim.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise WeightsError(f"{path} is damaged: the entry of tensor {name!r} is {str(claim)[:80]}")
    if dtype not in _DTYPES:
        raise UnsupportedModelError(f"{path}: tensor {name!r} is of type {dtype[:20]!r}, which is not read here")
    start, end = offsets
    nbytes = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if end - start != nbytes or end > file_size - data_start:
        raise WeightsError(
            f"{path} is damaged or cut off: tensor {name!r} needs {nbytes} bytes, its entry says {start} to {end} "
            f"of {file_size - data_start}"
        )
    return Entry(dtype=dtype, shape=shape, offset=data_start + start, nbytes=nbytes)


def _sizes(values: JSON) -> tuple[int, ...] | None:
    """A short list of numbers from 0 up to 2**63, else None."""
    if not isinstance(values, list) or len(values) > _MAX_DIMENSIONS:
        return None
    sizes = tuple(value for value in values if type(value) is int and 0 <= value < 2**63)
    return sizes if len(sizes) == len(values) else None
