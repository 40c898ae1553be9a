"""A foreign graph on its way to the contract: its inputs, each layer's cached attention, its logits.

    q ──────────────────────────────┐
    k ─► TensorScatter ─► updated_key_cache.i   ─► Attention(is_causal, nonpad_kv_seqlen) ─► what o_proj reads
    v ─► TensorScatter ─► updated_value_cache.i ─┘
            ▲
    key_cache.i, value_cache.i, write_indices

Nodes are added at the graph's end; `finish` sorts them and removes what nothing reads any more.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir
import onnx_ir.passes.common as passes

from genai import contract
from genai.build.masks import all_slots, chunk_mask, distance_mask, window_mask
from genai.build.source import FloatArray
from genai.build.steps import own_tokens, tail
from genai.contract import Cache, State
from genai.convert import sinks
from genai.convert.logits import at_logits_positions
from genai.convert.nodes import Nodes

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What one layer's attention computes.

    value_dim: elements of a head of values, None for as many as keys have, head_dim;
    scale: of the products of queries and keys, None for 1/sqrt(head_dim); softcap: `cap * tanh(score / cap)`;
    window: a query sees that many of the newest keys, its own included; chunk: it sees those of its own chunk of so
    many positions; slopes: how much a score falls with each token between query and key, one for each head (ALiBi);
    sinks: a score of each head that takes its part of the softmax and gives nothing.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int | None = None
    scale: float | None = None
    softcap: float | None = None
    window: int | None = None
    chunk: int | None = None
    slopes: tuple[float, ...] | None = None
    sinks: tuple[float, ...] | None = None

    @property
    def kv_size(self) -> int:
        """Elements of K that one token takes; `num_heads` more where there are sinks."""
        return self.num_kv_heads * self.head_dim

    @property
    def value_size(self) -> int:
        """Elements of a head of values, and of the result."""
        return self.value_dim or self.head_dim

    def caches(self, layer: int) -> tuple[Cache, Cache]:
        """The caches that a layer of this kind needs."""
        added = 0 if self.sinks is None else self.num_heads
        keys = Cache(contract.key_cache(layer), self.kv_size + added)
        return keys, Cache(contract.value_cache(layer), self.num_kv_heads * self.value_size)


class ContractGraph:
    """A graph that is being rewritten in place.

    input_ids, position_ids: the graph's own inputs where it has them; they become the contract's, and position_streams
    is what has taken the second one's place, [B, T] or [3, B, T]. caches, states: all that it is to have;
    reserved_slots: 1 if rows begin with a slot that is no token: then every layer has sinks. row_start: with what each
    row of a cache begins, by the cache's name.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        input_ids: ir.Value,
        position_ids: ir.Value | None,
        caches: Sequence[Cache],
        cache_dtype: ir.DataType,
        states: Sequence[State] = (),
        reserved_slots: int = 0,
    ) -> None:
        self.model = model
        self.graph = model.graph
        self.nodes = Nodes(model.graph)
        self.caches, self.cache_dtype = contract.in_order(caches), cache_dtype
        self._states = contract.states_in_order(states)
        self._dims = [contract.BATCH, contract.TOKENS] if input_ids.shape is None else list(input_ids.shape)
        declared = contract.inputs(caches, CACHE_TYPES[cache_dtype], states)
        _free_names(self.graph, declared)
        self._inputs = {tensor.name: _declared(tensor) for tensor in declared}
        self.input_ids = self._taken_over(contract.INPUT_IDS, input_ids)
        self.position_ids = self._inputs[contract.POSITION_IDS]
        self.position_streams = self._streams(position_ids)
        self.write_indices = self._inputs[contract.WRITE_INDICES]
        self.nonpad_kv_seqlen = self._inputs[contract.NONPAD_KV_SEQLEN]
        self.logits_positions = self._inputs[contract.LOGITS_POSITIONS]
        self.row_start: dict[str, FloatArray] = {}
        self._reserved_slots = reserved_slots
        self._updated: dict[str, ir.Value] = {}
        self._masks: dict[tuple[int | None, int | None, tuple[float, ...] | None], ir.Value] = {}
        self._own: ir.Value | None = None
        self._tails: dict[int, ir.Value] = {}

    def cached_attention(self, layer: int, q: ir.Value, k: ir.Value, v: ir.Value, heads: Heads) -> ir.Value:
        """Write new keys and values into a layer's caches, and attend over them.

        q: [B, T, num_heads * head_dim]; k, v: [B, T, num_kv_heads * head_dim, or value_size]; returns
        [B, T, num_heads * value_size].
        """
        scale = heads.scale
        if heads.sinks is not None:
            scale = heads.scale or heads.head_dim**-0.5
            sizes = heads.num_heads, heads.num_kv_heads, heads.head_dim
            q, k = sinks.in_queries(self.nodes, q, *sizes), sinks.in_keys(self.nodes, k, *sizes)
            start = sinks.reserved_key(heads.sinks, heads.num_kv_heads, heads.head_dim, scale)
            self.row_start[contract.key_cache(layer)] = start
        keys = self._written(contract.key_cache(layer), k)
        values = self._written(contract.value_cache(layer), v)
        mask = self._mask(heads)
        return self.nodes.typed(
            "Attention", q, keys, values, mask, None, None, self.nonpad_kv_seqlen,
            is_causal=1, q_num_heads=heads.num_heads, kv_num_heads=heads.num_kv_heads, scale=scale,
            softcap=heads.softcap, softmax_precision=int(ir.DataType.FLOAT) if self.cache_dtype in _NARROW else None,
            dtype=self.cache_dtype,
            shape=[*self._dims, heads.num_heads * heads.value_size],  # as the graph calls them
        )  # fmt: skip

    def cache(self, name: str) -> ir.Value:
        """A cache or state input by its contract name, for whoever writes it himself."""
        return self._inputs[name]

    def own_tokens(self) -> ir.Value:
        """Which of a step's tokens are a row's own and no padding, [B, T, 1] bool; of graphs with states."""
        if self._own is None:
            self._own = own_tokens(self.nodes, self.input_ids, self._inputs[contract.TOKEN_COUNTS])
        return self._own

    def tail(self, kernel: int) -> ir.Value:
        """Where a convolution's last inputs lie when a step is done, [B, kernel - 1, 1] (`genai.build.steps.tail`)."""
        if kernel not in self._tails:
            self._tails[kernel] = tail(self.nodes, self._inputs[contract.TOKEN_COUNTS], kernel)
        return self._tails[kernel]

    def set_updated(self, name: str, value: ir.Value) -> None:
        """Say which value is a cache or state after the run."""
        self._updated[contract.updated(name)] = value

    def finish(self, logits: ir.Value) -> None:
        """Declare inputs and outputs, compute logits for the chosen positions only, and remove what is dead.

        logits: [B, T, V], of any float type.
        """
        logits = at_logits_positions(self.graph, self.nodes, logits, self.logits_positions)
        logits = self.nodes.op("Identity", self.nodes.cast(logits, ir.DataType.FLOAT))
        vocab_size = logits.shape[-1] if logits.shape is not None else None
        logits.name, logits.dtype = contract.LOGITS, ir.DataType.FLOAT
        logits.shape = ir.Shape([contract.BATCH, contract.POSITIONS, vocab_size])
        outputs = [logits]
        for cache in self.caches:
            value = self._updated[contract.updated(cache.name)]
            value.name, value.dtype = contract.updated(cache.name), self.cache_dtype
            value.shape = ir.Shape([contract.BATCH, contract.CAPACITY, cache.width])
            outputs.append(value)
        for state in self._states:
            value = self._updated[contract.updated(state.name)]
            value.name, value.dtype = contract.updated(state.name), ir.DataType.FLOAT
            value.shape = ir.Shape([contract.BATCH, *state.shape])
            outputs.append(value)
        self.graph.outputs[:] = outputs
        self.graph.sort()
        for clean in (passes.IdentityEliminationPass(), passes.RemoveUnusedNodesPass(), passes.NameFixPass()):
            clean(self.model)
        self.graph.inputs[:] = list(self._inputs.values())
        self.model.opset_imports[""] = self.graph.opset_imports[""] = contract.OPSET
        self.model.ir_version = contract.IR_VERSION

    def _taken_over(self, name: str, old: ir.Value | None) -> ir.Value:
        """The contract's input, read by whatever read the graph's own."""
        new = self._inputs[name]
        if old is not None:
            value = new if old.dtype in (None, ir.DataType.INT64) else self.nodes.cast(new, old.dtype)
            old.replace_all_uses_with(value)
        return new

    def _streams(self, old: ir.Value | None) -> ir.Value:
        """Positions as the graph has them: [B, T], or the same for each of three streams (text among pictures)."""
        num_streams = None if old is None or old.shape is None or len(old.shape) < 3 else old.shape[0]
        if old is None or not isinstance(num_streams, int):
            return self._taken_over(contract.POSITION_IDS, old)
        one = self.nodes.op("Unsqueeze", self.position_ids, self.nodes.integers([0]))
        streams = self.nodes.typed("Expand", one, self.nodes.integers([num_streams, 1, 1]), dtype=ir.DataType.INT64)
        value = self.nodes.cast(streams, old.dtype or ir.DataType.INT64)
        old.replace_all_uses_with(value)
        return value

    def _written(self, cache: str, new: ir.Value) -> ir.Value:
        new = self.nodes.cast(new, self.cache_dtype)
        value = self.nodes.op("TensorScatter", self._inputs[cache], new, self.write_indices, axis=1, mode="linear")
        self.set_updated(cache, value)
        return value

    def _mask(self, heads: Heads) -> ir.Value | None:
        """What hides more than the future, or lowers scores; None for nothing."""
        key = heads.window, heads.chunk, heads.slopes
        if key == (None, None, None):
            return None
        if key not in self._masks:
            keys = all_slots(self.nodes, self._inputs[self.caches[0].name])  # any: of one capacity
            given = self.input_ids, self.write_indices, keys
            masks = []
            if heads.window is not None:
                masks.append(window_mask(self.nodes, *given, heads.window, reserved_slots=self._reserved_slots))
            masks += [] if heads.chunk is None else [chunk_mask(self.nodes, *given, heads.chunk)]
            masks += [] if heads.slopes is None else [distance_mask(self.nodes, *given, heads.slopes)]
            mask = functools.reduce(lambda left, right: self.nodes.op("Add", left, right), masks)
            mask.dtype = ir.DataType.FLOAT
            self._masks[key] = self.nodes.cast(mask, self.cache_dtype)
        return self._masks[key]


CACHE_TYPES: dict[ir.DataType, Literal["float32", "float16", "bfloat16"]] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
}
_DTYPES = {name: dtype for dtype, name in CACHE_TYPES.items()} | {"int64": ir.DataType.INT64}


def _declared(tensor: contract.TensorType) -> ir.Value:
    return ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(_DTYPES[tensor.dtype]))


def _free_names(graph: ir.Graph, declared: Iterable[contract.TensorType]) -> None:
    """Rename the graph's own values that have a name of the contract's."""
    taken = {tensor.name for tensor in declared}
    taken |= {contract.LOGITS, *map(contract.updated, taken)}
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        if value.name in taken:
            value.name = f"source/{value.name}"


def as_split(nodes: Nodes, x: ir.Value, num_heads: int, head_dim: int) -> ir.Value:
    """[B, T, heads * D] -> [B, T, heads, D]."""
    shape = None if x.shape is None else [*list(x.shape)[:2], num_heads, head_dim]
    return nodes.typed("Reshape", x, nodes.integers([0, 0, num_heads, head_dim]), dtype=x.dtype, shape=shape)


def as_heads(nodes: Nodes, x: ir.Value, num_heads: int, head_dim: int) -> ir.Value:
    """[B, T, heads * D] -> [B, heads, T, D]."""
    return nodes.op("Transpose", as_split(nodes, x, num_heads, head_dim), perm=[0, 2, 1, 3])
