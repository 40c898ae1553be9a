"""What is in a graph and where its memory goes, read from the model file alone: external data is not loaded."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from genai import contract
from genai.config import CONFIG_FILE, EngineConfig, ModelConfig
from genai.contract import Cache, GraphShape, TensorType
from genai.convert.files import choose_graph, graphs_in
from genai.errors import ContractError, ModelNotFoundError
from genai.inspect.blocks import Block, blocks_of
from genai.inspect.experts import Experts, experts_of
from genai.inspect.kernels import without_kernels
from genai.inspect.layers import layer_of
from genai.inspect.tensors import num_bytes, place_of
from genai.runtime.same_bits import MOST_PADDING
from genai.runtime.windows import WindowRoom

PARTS = ("embedding", "attention", "recurrence", "mlp", "experts", "norms", "head", "other")
"""The parts of a model that weights are counted by. A head that shares the embedding's tensor is counted there."""

_HINTS = (
    ("experts", (".experts.", "_exps")),
    ("norms", ("norm", "ln_", ".ln", "/ln")),
    ("other", ("rotary", "rope", "cos_cache", "sin_cache")),
    ("head", ("lm_head", "output.weight", "embed_out")),
    ("embedding", ("embed", "embd", "wte", "wpe")),
    ("recurrence", ("linear_attn", "mamba", "mixer.in", "mixer.out", "conv1d", ".conv.", "shortconv", "ssm_")),
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
_CACHE_NAME = re.compile(r"past|key_cache|value_cache|cache_")
_CACHE_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphReport:
    """What `inspect` found.

    operators: how many nodes of each type, by domain, those of subgraphs and functions included; operator_bytes: the
    weights that each type reads, as (domain, type); shape: the decoder's dimensions, or None if the signature does not
    follow the contract; differences: what does not follow it; weight_bytes: by part of the model; blocks: the layers as
    pictures in the making; experts: None for a graph without mixtures of them; other_cache_bytes: a token's in caches
    that do not follow the contract, if there are such; read_from: layers without keys of their own, and whose they
    read; config: the package's own description, if the graph lies in one.
    """

    path: Path
    ir_version: int
    opsets: Mapping[str, int]
    operators: Mapping[str, Mapping[str, int]]
    operator_bytes: Mapping[tuple[str, str], int]
    shape: GraphShape | None
    differences: tuple[str, ...]
    weight_bytes: Mapping[str, int]
    blocks: tuple[Block, ...]
    experts: Experts | None
    other_cache_bytes: int | None
    read_from: Mapping[int, int]
    config: ModelConfig | None

    @property
    def num_weight_bytes(self) -> int:
        """Bytes of all weights, each stored tensor counted once."""
        return sum(self.weight_bytes.values())

    @property
    def cache_bytes_per_token(self) -> int | None:
        """Bytes of keys and values that one token takes in all layers; None if the graph has no caches."""
        if self.shape is None:
            return self.other_cache_bytes
        return sum(cache.width for cache in self.shape.caches) * _CACHE_ITEM_BYTES[self.shape.cache_dtype]

    @property
    def window_bytes_per_token(self) -> int:
        """Those of them that lie where windows alone are kept."""
        caches = self.shape.caches if self.shape else ()
        item = _CACHE_ITEM_BYTES[self.shape.cache_dtype] if self.shape else 0
        return sum(cache.width for cache in caches if cache.is_windowed) * item

    @property
    def window_slots(self) -> int | None:
        """How much of a row is kept there, with prompts' pieces as long as usual; None where nothing is known of it."""
        window = self.config.kept_window if self.config else None
        if window is None:
            return None
        chunk = EngineConfig().prefill_chunk
        return WindowRoom.of(window, chunk, spare=MOST_PADDING, reserved_slots=self.reserved_slots).slots

    def cache_bytes(self, batch: int, length: int) -> int:
        """Bytes of keys and values of so many rows of so many tokens; 0 if the graph has no caches."""
        near = min(length, self.window_slots or length)
        per_token, of_windows = self.cache_bytes_per_token or 0, self.window_bytes_per_token
        return batch * (length * (per_token - of_windows) + near * of_windows)

    @property
    def state_bytes_per_row(self) -> int:
        """Bytes of states that a row takes in all layers, however many tokens it holds."""
        states = self.shape.states if self.shape else ()
        return sum(math.prod(state.shape) * _CACHE_ITEM_BYTES[state.dtype] for state in states)

    @property
    def without_kernels(self) -> tuple[str, ...]:
        """A line for each kind of operator that ONNX Runtime's CPU provider inlines, or does not load."""
        return without_kernels(self.operators.get("ai.onnx", {}), self.opsets.get("ai.onnx", 0))

    @property
    def reserved_slots(self) -> int:
        """Slots of each row that hold no tokens."""
        return self.config.reserved_slots if self.config else 0

    @property
    def cache_notes(self) -> tuple[str, ...]:
        """What each layer keeps of a token, where layers differ, and what rows begin with."""
        caches = self.shape.caches if self.shape else ()
        notes = [] if not caches or contract.is_uniform(caches) else [*self._by_layer(caches)]
        return (*notes, *["each row begins with a reserved slot (row_start.bin)"] * self.reserved_slots)

    def _by_layer(self, caches: Sequence[Cache]) -> Iterator[str]:
        """Layers by what they keep."""
        kept: dict[int, str] = dict.fromkeys(range(self.config.num_layers if self.config else 0), "no cache of its own")
        kept |= {layer: f"no cache of its own, reads layer {other}'s" for layer, other in self.read_from.items()}
        for cache in caches:
            kind = f"{'keys' if cache.is_key else 'values'} of {cache.width:,}"
            kept[cache.layer] = kind if cache.is_key else f"{kept[cache.layer]}, {kind}"
        for layer in {cache.layer for cache in caches if cache.is_windowed}:
            last = "the last" if self.window_slots is None else f"at most {self.window_slots:,}"
            kept[layer] += f", of {last} tokens alone"
        for what in dict.fromkeys(kept[layer] for layer in sorted(kept)):
            layers = [str(layer) for layer in sorted(kept) if kept[layer] == what]
            yield f"layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}: {what}"


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
        operator_bytes=_operator_bytes(model.graph),
        shape=shape,
        differences=(*differences, *_missing_data(model.graph, file.parent)),
        weight_bytes=_weight_bytes(model.graph),
        blocks=blocks_of(model.graph),
        experts=experts_of(model.graph),
        other_cache_bytes=_other_cache_bytes(model.graph),
        read_from=_read_from(model, shape.caches if shape else ()),
        config=ModelConfig.read(file.parent) if (file.parent / CONFIG_FILE).is_file() else None,
    )


def _read_from(model: onnx.ModelProto, caches: Sequence[Cache]) -> dict[int, int]:
    """Layers that attend over another's keys, and whose these are."""
    written = {contract.updated(cache.name): cache.layer for cache in caches if cache.is_key}
    readers = [
        (layer_of(node.name), name) for node in _nodes(model) if node.op_type == "Attention" for name in node.input
    ]
    own = set(written.values())
    return {
        layer: written[name] for layer, name in readers if name in written and layer is not None and layer not in own
    }


def _graph_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelNotFoundError(f"no such file or folder: {path}")
    names = graphs_in(path)
    if not names:
        raise ModelNotFoundError(f"{path} holds no .onnx files; give one: a package folder or an .onnx file")
    return path / choose_graph(str(path), names, None)


def _read(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(file, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ContractError(f"{file} is not a readable ONNX model: {error}") from None
    if not model.graph.node:
        raise ContractError(f"{file} is not an ONNX model: it has no graph")
    if not all(isinstance(text, str) for text in _texts(model)):  # protobuf hands over as bytes what is no UTF-8
        raise ContractError(f"{file} is not a readable ONNX model: a name in it is not UTF-8")
    return model


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every name that is looked at."""
    for node in _nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (entry.value for entry in node.metadata_props)
    for tensor in model.graph.initializer:
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for value in (*model.graph.input, *model.graph.output):
        yield from (value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim))
    yield from (entry.domain for entry in model.opset_import)


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


def _operator_bytes(graph: onnx.GraphProto) -> dict[tuple[str, str], int]:
    """Bytes of the weights that each type of operator reads; a tensor that two types share counts for both."""
    sizes = {tensor.name: num_bytes(tensor) for tensor in graph.initializer}
    read: dict[tuple[str, str], set[str]] = {}
    for node in graph.node:
        read.setdefault((node.domain or "ai.onnx", node.op_type), set()).update(sizes.keys() & set(node.input))
    return {kind: sum(sizes[name] for name in names) for kind, names in read.items()}


def _other_cache_bytes(graph: onnx.GraphProto) -> int | None:
    """Bytes of a token in inputs called like caches: each [batch, tokens, size], or [batch, heads, tokens, size]."""
    total = 0
    for tensor in (_tensor_type(value) for value in graph.input if _CACHE_NAME.match(value.name)):
        sizes = {3: tensor.shape[2:], 4: tensor.shape[1::2]}.get(len(tensor.shape), (None,))
        fixed = [size for size in sizes if isinstance(size, int)]
        if len(fixed) == len(sizes):
            total += math.prod(fixed) * _CACHE_ITEM_BYTES.get(tensor.dtype, 0)
    return total or None


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
        if place := place_of(tensor):
            location, offset, length = place
            needed[location] = max(needed.get(location, 0), offset + (length or num_bytes(tensor)))
    found = []
    for location, end in needed.items():
        file = folder / location
        if Path(location).is_absolute() or ".." in Path(location).parts:
            found.append(f"the external data file {location!r} would lie outside of the model's folder")
        elif not file.is_file():
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
        place = place_of(tensor)
        if place and place[2] and place in seen:
            continue
        seen.add(place)
        sizes[_part(tensor.name, users.get(tensor.name, []))] += num_bytes(tensor)
    return sizes


def _part(name: str, users: list[onnx.NodeProto]) -> str:
    """The part of the model that a weight belongs to: by its name, its users' names, or what they do."""
    told = (part for text in (name, *(node.name for node in users)) if (part := _told(text)) is not None)
    done = (_OPERATOR_HINTS[node.op_type] for node in users if node.op_type in _OPERATOR_HINTS)
    return next(told, None) or next(done, "other")


def part_of(name: str) -> str:
    """The part of the model that a weight belongs to by its name."""
    return _told(name) or "other"


def _told(text: str) -> str | None:
    return next((part for part, hints in _HINTS if any(hint in text.lower() for hint in hints)), None)
