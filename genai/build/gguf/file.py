"""Reading GGUF files: header, metadata and tensors, with every number in the header checked before it is used.

    magic "GGUF" | version u32 | tensor count u64 | metadata count u64
    metadata:      key, type, value                          (times metadata count)
    tensor table:  name, dimensions (fastest first), type, offset in the data   (times tensor count)
    padding to general.alignment, then the tensors' data

Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2 and 3, little-endian.
A damaged file gives a `WeightsError`; memory and time stay proportional to the file's size whatever it claims.

A file may be split: each part has a header and a tensor table of its own, the first one has all metadata, and each
says which one it is (`split.no`, from 0), of how many (`split.count`), and how many tensors all of them have
(`split.tensors.count`). Parts that were merged again say that they are one of 0.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.gguf_reader import GGUFReader

from genai.build.gguf.file_names import parts_of
from genai.build.source import FloatArray
from genai.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from genai.runtime.mapped import unmapping

ByteArray: TypeAlias = npt.NDArray[np.uint8]
NumberArray: TypeAlias = npt.NDArray[np.generic]
MetadataValue: TypeAlias = "bool | int | float | str | list[str] | NumberArray"

MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
_SPLIT_TENSORS = "split.tensors.count"
MAX_NAME_BYTES = 65_535

_SCALARS = {int(kind): np.dtype(kept).newbyteorder("<") for kind, kept in GGUFReader.gguf_scalar_to_np.items()}
_PLAIN_TYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_LENGTH = struct.Struct("<Q")
_CHUNK_ELEMENTS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies in the file.

    shape: in NumPy's order, [out, in] for matrices; ggml_type: "F32", "Q4_K", …; offset: from the start of the file;
    part: which of a split file's parts, from 0.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: str
    offset: int
    nbytes: int
    part: int = 0

    def rows(self, start: int, stop: int) -> TensorInfo:
        """Where a stretch of the first axis lies. Raises: WeightsError if there is none, or it is no whole blocks."""
        is_whole = len(self.shape) > 1 or self.ggml_type in _PLAIN_TYPES
        if not 0 <= start < stop <= self.shape[0] or not is_whole:
            raise WeightsError(f"tensor {self.name!r} of {self.shape} ({self.ggml_type}) has no part {start}:{stop}")
        each = self.nbytes // self.shape[0]
        return replace(
            self,
            name=f"{self.name}[{start}:{stop}]",
            shape=(stop - start, *self.shape[1:]),
            offset=self.offset + start * each,
            nbytes=each * (stop - start),
        )

    def flat(self) -> TensorInfo:
        """The same numbers as a vector."""
        return replace(self, shape=(math.prod(self.shape),))

    def item(self, index: int) -> TensorInfo:
        """Where one tensor of a stack lies: `tensor[index]`. Raises: WeightsError if there is none."""
        if len(self.shape) < 2:
            raise WeightsError(f"tensor {self.name!r} of {self.shape} is no stack")
        return replace(self.rows(index, index + 1), name=f"{self.name}[{index}]", shape=self.shape[1:])


class GgufFile(contextlib.AbstractContextManager["GgufFile"]):
    """An open GGUF file: `metadata` and `tensors` are in memory, tensor data is mapped and read on demand.

    Any part of a split file means the whole of it; `path` is then its first part.
    Numbers in `metadata` are Python numbers, arrays of numbers NumPy arrays, arrays of strings lists. Bytes of a
    string value that are not UTF-8 become U+FFFD.
    Raises: ModelNotFoundError, WeightsError (damaged, parts missing), UnsupportedModelError (version, byte order,
    tensor type).
    """

    metadata: Mapping[str, MetadataValue]
    tensors: Mapping[str, TensorInfo]

    def __init__(self, path: str | Path) -> None:
        self.parts = parts_of(_existing(Path(path)))
        self.path = self.parts[0]
        self._maps: list[mmap.mmap] = []
        try:
            parsed = []
            for part in self.parts:
                self._maps.append(_map_file(part))
                parsed.append(_parse(_Cursor(self._maps[-1], part)))
            self.metadata, self.tensors = _joined(self.parts, parsed)
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the mappings go; arrays from `raw` that are still in use keep theirs alive. Closing twice is fine."""
        while self._maps:
            with unmapping(), contextlib.suppress(BufferError):
                self._maps.pop().close()

    def info(self, name: str) -> TensorInfo:
        """A tensor's entry. Raises: WeightsError if the file has no such tensor."""
        try:
            return self.tensors[name]
        except KeyError:
            raise WeightsError(f"{self.path}: no tensor {name!r} in this file") from None

    def raw(self, tensor: str | TensorInfo) -> ByteArray:
        """The bytes of a tensor, or of a part of one, as [rows, bytes per row]: read-only, the file's own memory."""
        info = self._located(tensor)
        if not self._maps:
            raise WeightsError(f"{self.path}: the file is closed")
        flat = np.frombuffer(self._maps[info.part], dtype=np.uint8, count=info.nbytes, offset=info.offset)
        return flat.reshape(math.prod(info.shape[:-1]), -1)

    def read(self, tensor: str | TensorInfo) -> FloatArray:
        """A tensor, or a part of one, as float32, dequantized.

        Raises: WeightsError, UnsupportedModelError for an unknown block format.
        """
        info = self._located(tensor)
        raw = self.raw(info)
        if info.ggml_type in _PLAIN_TYPES:
            with np.errstate(over="ignore", invalid="ignore"):
                return raw.reshape(-1).view(_PLAIN_TYPES[info.ggml_type]).astype(np.float32).reshape(info.shape)
        return self._dequantized(info, raw.reshape(-1)).reshape(info.shape)

    def _located(self, tensor: str | TensorInfo) -> TensorInfo:
        return tensor if isinstance(tensor, TensorInfo) else self.info(tensor)

    def _dequantized(self, info: TensorInfo, raw: ByteArray) -> FloatArray:
        from gguf.quants import dequantize

        kind = GGMLQuantizationType[info.ggml_type]
        block, block_bytes = GGML_QUANT_SIZES[kind]
        step = max(1, _CHUNK_ELEMENTS // block)
        weights = np.empty(math.prod(info.shape), dtype=np.float32)
        try:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                for start in range(0, raw.size // block_bytes, step):
                    # One long row at a time: the package loops in Python over groups of 16 rows.
                    chunk = raw[start * block_bytes : (start + step) * block_bytes]
                    weights[start * block : (start + step) * block] = dequantize(chunk, kind)
        except NotImplementedError:
            raise UnsupportedModelError(
                f"{self.path}: tensor {info.name!r} has type {info.ggml_type}, which cannot be dequantized here"
            ) from None
        return weights


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ModelNotFoundError(f"{path}: no such file")
    return path


def _joined(
    parts: Sequence[Path], parsed: Sequence[tuple[dict[str, MetadataValue], dict[str, TensorInfo]]]
) -> tuple[dict[str, MetadataValue], dict[str, TensorInfo]]:
    """The metadata of the first part and the tensors of all. Raises: WeightsError if they are not of one file."""
    metadata = parsed[0][0]
    total = _split_value(parts[0], metadata, _SPLIT_TENSORS)
    tensors: dict[str, TensorInfo] = {}
    for number, (part, (own, found)) in enumerate(zip(parts, parsed, strict=True)):
        _check_part(part, own, number, len(parts))
        if twice := tensors.keys() & found.keys():
            raise WeightsError(f"{part} is of another file than {parts[0]}: both have the tensor {min(twice)!r}")
        tensors |= {name: replace(info, part=number) for name, info in found.items()}
        if (claimed := _split_value(part, own, _SPLIT_TENSORS)) != total:
            raise WeightsError(
                f"{part} is of another file than {parts[0]}: {_SPLIT_TENSORS} is {claimed}, there {total}"
            )
    if len(parts) > 1 and total and total != len(tensors):
        raise WeightsError(
            f"{parts[0]}: its {len(parts)} parts have {len(tensors)} tensors, of {total}: mixed or cut off"
        )
    return metadata, tensors


def _check_part(path: Path, metadata: Mapping[str, MetadataValue], number: int, count: int) -> None:
    """Whether a part is the one that its name says. Raises: WeightsError."""
    own_number = _split_value(path, metadata, "split.no")
    own_count = _split_value(path, metadata, "split.count")
    if (own_number, own_count) == (number, count) or (count == 1 and not own_count):
        return
    if not own_count:
        raise WeightsError(f"{path} is named as part {number + 1} of {count}, but is none (no split.no, split.count)")
    if count == 1:
        raise WeightsError(
            f"{path} is part {own_number + 1} of {own_count}: give it back its name, "
            f"NAME-{own_number + 1:05}-of-{own_count:05}.gguf, by which the others are found"
        )
    raise WeightsError(
        f"{path} is part {own_number + 1} of {own_count} by its metadata, not {number + 1} of {count}: "
        "parts are mixed, or were renamed"
    )


def _split_value(path: Path, metadata: Mapping[str, MetadataValue], key: str) -> int:
    """A number that says how a file was split; 0 where there is none. Raises: WeightsError for what is no number."""
    value = metadata.get(key, 0)
    if not isinstance(value, int):
        raise WeightsError(f"{path} is damaged: {key} is {str(value)[:40]!r}, not a number")
    return value


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            start = file.read(24)
            if start[:4] == b"GGUF" and len(start) == 24:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from None
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    if start[:4] == b"GGUF":
        raise WeightsError(f"{path} is cut off inside its header")
    raise WeightsError(f"{path} is not a GGUF file: it starts with {start[:4]!r}")


class _Cursor:
    """A position in the file; every read is checked against the file's end."""

    __slots__ = ("data", "end", "path", "position")

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = 4
        self.end = len(data)

    def damaged(self, what: str) -> WeightsError:
        return WeightsError(f"{self.path} is damaged or cut off: {what}")

    def take(self, size: int, what: str) -> int:
        """Step over `size` bytes and return where they start."""
        start = self.position
        if size > self.end - start:
            raise self.damaged(f"{what} needs {size} bytes, {self.end - start} are left")
        self.position = start + size
        return start

    def u32(self, what: str) -> int:
        return int.from_bytes(self.data[self.take(4, what) : self.position], "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.data[self.take(8, what) : self.position], "little")

    def name(self, what: str) -> str:
        """A key or a tensor's name: strict UTF-8 of bounded length."""
        size = self.u64(what)
        if size > MAX_NAME_BYTES:
            raise self.damaged(f"{what} is {size} bytes long")
        try:
            return self.data[self.take(size, what) : self.position].decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8") from None

    def strings(self, count: int, what: str) -> list[str]:
        data, position, end = self.data, self.position, self.end
        length_at = _LENGTH.unpack_from
        values = []
        for _ in range(count):
            if end - position < 8:
                raise self.damaged(f"{what} ends early")
            (size,) = length_at(data, position)
            position += 8
            if size > end - position:
                raise self.damaged(f"{what} has a string of {size} bytes, {end - position} are left")
            values.append(data[position : position + size].decode("utf-8", "replace"))
            position += size
        self.position = position
        return values

    def numbers(self, kind: int, count: int, what: str) -> NumberArray:
        dtype = _SCALARS[kind]
        start = self.take(count * dtype.itemsize, what)
        stored = np.dtype("<u1") if dtype == np.bool_ else dtype
        values = np.frombuffer(self.data[start : self.position], dtype=stored)
        return values != 0 if dtype == np.bool_ else values

    def value(self, kind: int, what: str) -> MetadataValue:
        if kind == GGUFValueType.STRING:
            return self.strings(1, what)[0]
        if kind in _SCALARS:
            number: bool | int | float = self.numbers(kind, 1, what)[0].item()
            return number
        if kind != GGUFValueType.ARRAY:
            raise self.damaged(f"{what} has the unknown type {kind}")
        return self.array(what)

    def array(self, what: str) -> MetadataValue:
        kind = self.u32(what)
        count = self.u64(what)
        if kind == GGUFValueType.STRING:
            if count > (self.end - self.position) // 8:
                raise self.damaged(f"{what} claims {count} strings")
            return self.strings(count, what)
        if kind not in _SCALARS:
            raise self.damaged(f"{what} is an array of the unknown or nested type {kind}")
        return self.numbers(kind, count, what)


def _parse(cursor: _Cursor) -> tuple[dict[str, MetadataValue], dict[str, TensorInfo]]:
    _check_version(cursor, cursor.u32("the version"))
    num_tensors = cursor.u64("the tensor count")
    num_entries = cursor.u64("the metadata count")
    metadata: dict[str, MetadataValue] = {}
    for index in range(num_entries):
        key = cursor.name(f"metadata key {index} of {num_entries}")
        if key in metadata:
            raise cursor.damaged(f"metadata key {key!r} is there twice")
        metadata[key] = cursor.value(cursor.u32(f"metadata {key!r}"), f"metadata {key!r}")
    entries: dict[str, TensorInfo] = {}
    for index in range(num_tensors):
        entry = _tensor_entry(cursor, f"{index} of {num_tensors}")
        if entry.name in entries:
            raise cursor.damaged(f"tensor {entry.name!r} is there twice")
        entries[entry.name] = entry
    return metadata, _located(cursor, entries, _alignment(cursor, metadata))


def _check_version(cursor: _Cursor, version: int) -> None:
    if version & 0xFFFF == 0 and version:
        raise UnsupportedModelError(f"{cursor.path} is a big-endian GGUF file; only little-endian files are supported")
    if version not in (2, 3):
        raise UnsupportedModelError(f"{cursor.path} is GGUF version {version}; versions 2 and 3 are supported")


def _alignment(cursor: _Cursor, metadata: Mapping[str, MetadataValue]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment!r}, not a power of two")
    return alignment


def _tensor_entry(cursor: _Cursor, which: str) -> TensorInfo:
    """One line of the tensor table; its offset still counts from the start of the data."""
    name = cursor.name(f"the name of tensor {which}")
    what = f"tensor {name!r}"
    num_dimensions = cursor.u32(what)
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise cursor.damaged(f"{what} has {num_dimensions} dimensions")
    dimensions = [cursor.u64(what) for _ in range(num_dimensions)]
    number = cursor.u32(what)
    try:
        kind = GGMLQuantizationType(number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise UnsupportedModelError(f"{cursor.path}: {what} has the unknown type {number}") from None
    if 0 in dimensions or dimensions[0] % block:
        raise cursor.damaged(f"{what} has dimensions {dimensions}, which {kind.name} blocks of {block} cannot hold")
    nbytes = math.prod(dimensions) // block * block_bytes
    if nbytes > cursor.end:
        raise cursor.damaged(f"{what} needs {nbytes} bytes, the file has {cursor.end}")
    return TensorInfo(
        name=name, shape=tuple(reversed(dimensions)), ggml_type=kind.name, offset=cursor.u64(what), nbytes=nbytes
    )


def _located(cursor: _Cursor, entries: Mapping[str, TensorInfo], alignment: int) -> dict[str, TensorInfo]:
    """The entries with offsets from the start of the file, checked to lie in it and not on each other."""
    data_start = -(-cursor.position // alignment) * alignment
    used = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.offset):
        if entry.offset % alignment:
            raise cursor.damaged(f"tensor {entry.name!r} starts at {entry.offset}, off the alignment of {alignment}")
        if entry.offset < used:
            raise cursor.damaged(f"tensor {entry.name!r} overlaps the one before it")
        used = entry.offset + entry.nbytes
        if used > cursor.end - data_start:
            raise cursor.damaged(f"tensor {entry.name!r} ends {used - (cursor.end - data_start)} bytes past the end")
    return {name: replace(entry, offset=data_start + entry.offset) for name, entry in entries.items()}
