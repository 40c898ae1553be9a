"""What is in a graph and where its memory goes, read from the model file alone: external data is not loaded."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper

from genai import contract
from genai.config import ModelConfig
from genai.contract import GraphShape, TensorType
from genai.errors import ContractError, ModelNotFoundError

PARTS = ("embedding", "attention", "mlp", "norms", "head", "other")
"""The parts of a model that weights are counted by. A head that shares the embedding's tensor is counted there."""

_HINTS = (
    ("norms", ("norm", "ln_", ".ln", "/ln")),
    ("other", ("rotary", "rope", "cos_cache", "sin_cache")),
    ("head", ("lm_head", "output.weight", "embed_out")),
    ("embedding", ("embed", "embd", "wte", "wpe")),
    ("attention", ("attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj", "qkv")),
    ("mlp", ("mlp", "ffn", "feed_forward", "gate", "up_proj", "down_proj", "expert")),
)
_OPERATOR_HINTS = {
    "Gather": "embedding",
    "GatherBlockQuantized": "embedding",
    "RMSNormalization": "norms",
    "LayerNormalization": "norms",
    "SimplifiedLayerNormalization": "norms",
    "SkipSimplifiedLayerNormalization": "norms",
    "RotaryEmbedding": "other",
}
_SMALL_TYPES: Mapping[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
}
_CACHE_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """What `inspect` found.

    operators: how many nodes of each type, by domain, those of subgraphs and functions included; shape: the decoder's
    dimensions, or None if the signature does not follow the contract; differences: what does not follow it;
    weight_bytes: by part of the model; config: the package's own description, if the graph lies in one.
    """

    path: Path
    ir_version: int
    opsets: Mapping[str, int]
    operators: Mapping[str, Mapping[str, int]]
    shape: GraphShape | None
    differences: tuple[str, ...]
    weight_bytes: Mapping[str, int]
    config: ModelConfig | None

    @property
    def num_weight_bytes(self) -> int:
        """Bytes of all weights, each stored tensor counted once."""
        return sum(self.weight_bytes.values())

    @property
    def cache_bytes_per_token(self) -> int | None:
        """Bytes of keys and values that one token takes in all layers; None if the graph has no such caches."""
        if self.shape is None:
            return None
        return 2 * self.shape.num_layers * self.shape.kv_size * _CACHE_ITEM_BYTES[self.shape.cache_dtype]


def inspect(path: Path) -> GraphReport:
    """Read a package folder's graph, or any .onnx file.

    Raises: ModelNotFoundError; ContractError if the file is not a readable ONNX model.
    """
    file = _graph_file(path)
    model = _read(file)
    shape, differences = _check(model)
    return GraphReport(
        path=file,
        ir_version=model.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        operators=_operators(model),
        shape=shape,
        differences=(*differences, *_missing_data(model.graph, file.parent)),
        weight_bytes=_weight_bytes(model.graph),
        config=ModelConfig.read(file.parent) if (file.parent / "genai.json").is_file() else None,
    )


def _graph_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelNotFoundError(f"no such file or folder: {path}")
    files = sorted(path.glob("*.onnx"))
    usual = [file for file in files if file.name == "model.onnx"] or files
    if len(usual) != 1:
        raise ModelNotFoundError(
            f"{path} holds {'several' if files else 'no'} .onnx files; give one: "
            + (", ".join(file.name for file in files) or "a package folder or an .onnx file")
        )
    return usual[0]


def _read(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ContractError(f"{file} is not a readable ONNX model: {error}") from None
    if not model.graph.node:
        raise ContractError(f"{file} is not an ONNX model: it has no graph")
    return model


def _operators(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    counted = Counter((node.domain or "ai.onnx", node.op_type) for node in _nodes(model))
    domains = sorted({domain for domain, _ in counted})
    return {
        domain: {kind: number for (other, kind), number in counted.most_common() if other == domain}
        for domain in domains
    }


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            pending.extend(attribute.g.node)
            pending.extend(inner for graph in attribute.graphs for inner in graph.node)


def _check(model: onnx.ModelProto) -> tuple[GraphShape | None, list[str]]:
    """The decoder's dimensions, and what differs from the contract."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found: list[str] = []
    shape = None
    try:
        shape = contract.check_signature(
            [_tensor_type(value) for value in model.graph.input if value.name not in weights],
            [_tensor_type(value) for value in model.graph.output],
        )
    except ContractError as error:
        text = str(error).removeprefix("the graph does not follow the decoder contract: ")
        found += re.split(r"; (?=input |output |the caches )", text)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < contract.OPSET:
        found.append(f"opset {opset}, not {contract.OPSET}: TensorScatter is not in it")
    return shape, found


def _tensor_type(value: onnx.ValueInfoProto) -> TensorType:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim)
    return TensorType(name=value.name, dtype=_type_name(kind.elem_type), shape=shape)


def _type_name(elem_type: int) -> str:
    try:
        return str(helper.tensor_dtype_to_np_dtype(elem_type).name)
    except KeyError:
        return "no tensor"


def _missing_data(graph: onnx.GraphProto, folder: Path) -> list[str]:
    """External data files that are absent or too short."""
    needed: dict[str, int] = {}
    for tensor in graph.initializer:
        if place := _place(tensor):
            location, offset, length = place
            needed[location] = max(needed.get(location, 0), offset + (length or _num_bytes(tensor)))
    found = []
    for location, end in needed.items():
        file = folder / location
        if not file.is_file():
            found.append(f"the external data file {location!r} is missing")
        elif file.stat().st_size < end:
            found.append(f"the external data file {location!r} has {file.stat().st_size:,} bytes of at least {end:,}")
    return found


def _weight_bytes(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes of the weights by part; tensors that lie in the same place of the external data are counted once."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    sizes = dict.fromkeys(PARTS, 0)
    seen = set()
    for tensor in graph.initializer:
        place = _place(tensor)
        if place and place[2] and place in seen:
            continue
        seen.add(place)
        sizes[_part(tensor.name, users.get(tensor.name, []))] += _num_bytes(tensor)
    return sizes


def _place(tensor: onnx.TensorProto) -> tuple[str, int, int] | None:
    """An external tensor's file, offset and length."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        return entries.get("location", ""), int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError:
        raise ContractError(
            f"the external data of tensor {tensor.name!r} has an offset or length that is no number"
        ) from None


def _num_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    bits = _SMALL_TYPES.get(tensor.data_type)
    if bits is None:
        try:
            bits = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        except KeyError:
            raise ContractError(f"tensor {tensor.name!r} has the unknown type {tensor.data_type}") from None
    return (int(math.prod(tensor.dims)) * bits + 7) // 8


def _part(name: str, users: list[onnx.NodeProto]) -> str:
    """The part of the model that a weight belongs to: by its name, its users' names, or what they do."""
    for text in (name, *(node.name for node in users)):
        for part, hints in _HINTS:
            if any(hint in text.lower() for hint in hints):
                return part
    return next((_OPERATOR_HINTS[node.op_type] for node in users if node.op_type in _OPERATOR_HINTS), "other")
