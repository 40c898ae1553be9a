"""onnxruntime-genai's attention operators, each rewritten to the cached attention of the contract.

    GroupQueryAttention(qkv | q, k, v; past; cos, sin)    split, norm and turn what it splits, norms and turns inside
    MultiHeadAttention(q, k, v; mask; past)               keys and values before their heads are repeated

Source: docs/ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from genai.convert.attributes import Allowed, check_attributes
from genai.convert.emit import ContractGraph, Heads
from genai.convert.flat import as_flat
from genai.convert.sources.onnxruntime_genai.config import GenaiConfig
from genai.convert.sources.onnxruntime_genai.rotary import CONTRIB, RotaryTables
from genai.convert.sources.past_present.rewrite import find_joints
from genai.convert.sources.past_present.scores import ALL, Reach
from genai.convert.values import constant, size_of
from genai.errors import UnsupportedModelError

OPERATORS = ("GroupQueryAttention", "MultiHeadAttention")

_GROUP_QUERY_INPUTS = (
    "query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache",
    "position_ids", "attention_bias", "head_sink", "k_scale", "v_scale", "q_norm_weight", "k_norm_weight",
)  # fmt: skip
_MULTI_HEAD_INPUTS = (
    "query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value",
    "past_sequence_length", "cache_indirection",
)  # fmt: skip
_UNSUPPORTED_INPUTS = {
    "k_scale": "a quantized cache",
    "v_scale": "a quantized cache",
    "bias": "biases within MultiHeadAttention",
    "key_padding_mask": "a padding mask within MultiHeadAttention",
    "past_sequence_length": "a shared past buffer of MultiHeadAttention",
    "cache_indirection": "beams within MultiHeadAttention",
}
_GROUP_QUERY_ALLOWED: Allowed = {
    "smooth_softmax": (0, -1, 1), "qk_output": (0,), "kv_cache_bit_width": (0,), "k_quant_type": ("NONE",),
    "v_quant_type": ("NONE",), "do_rotary": (0, 1), "rotary_interleaved": (0, 1), "sliding_window_cache": (0, 1),
}  # fmt: skip
_GROUP_QUERY_ATTRIBUTES = {
    "num_heads", "kv_num_heads", "scale", "softcap", "local_window_size", "qk_norm_epsilon",
}  # fmt: skip
_MULTI_HEAD_ATTRIBUTES = {"num_heads", "scale", "mask_filter_value"}  # the last one is that of padding masks
_ROTARY_ATTRIBUTES = {"num_heads", "rotary_embedding_dim"}  # they say what the tables say
_ROTARY_ALLOWED: Allowed = {"interleaved": (0, 1), "scale": (1.0,), "is_packed_batching": (0,)}
_ROTARY = {
    "RotaryEmbedding": _ROTARY_ATTRIBUTES,
    "MRotaryEmbedding": {*_ROTARY_ATTRIBUTES, "mrope_section", "mrope_layout"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer's attention: the operator and its past inputs.

    reach: what a MultiHeadAttention's mask leaves of the past.
    """

    index: int
    node: ir.Node
    past_key: ir.Value
    past_value: ir.Value
    reach: Reach = ALL

    @property
    def is_multi_head(self) -> bool:
        """Whether the operator is MultiHeadAttention."""
        return self.node.op_type == "MultiHeadAttention"

    @property
    def ring(self) -> int:
        """The tokens that its buffer must hold where the operator keeps no more than its window; 0 for any number."""
        attributes = self.node.attributes
        is_ring = attributes.get_int("sliding_window_cache", 0) == 1
        return max(attributes.get_int("local_window_size", 0), 0) if is_ring else 0

    @property
    def sinks(self) -> tuple[float, ...] | None:
        """Scores that take their part of each head's softmax, None for none; a smooth softmax is one with zeros.

        Raises: UnsupportedModelError for those that are computed.
        """
        inputs = dict(zip(_GROUP_QUERY_INPUTS, self.node.inputs, strict=False))
        num_heads = self.node.attributes.get_int("num_heads", 0)
        if self.is_multi_head or ((given := inputs.get("head_sink")) is None and not self._is_smooth):
            return None
        if given is None:
            return (0.0,) * num_heads
        values = constant(given)
        if values is None or values.size != num_heads:
            raise UnsupportedModelError(
                f"{self.node.name} has sinks {given.shape} that are no {num_heads} fixed numbers"
            )
        if self.node.attributes.get_float("softcap", 0.0):
            raise UnsupportedModelError(f"{self.node.name} caps scores beside attention sinks: not supported")
        return tuple(values.reshape(-1).astype(float).tolist())

    @property
    def _is_smooth(self) -> bool:
        return self.node.attributes.get_int("smooth_softmax", 0) == 1

    @property
    def has_norms(self) -> bool:
        """Whether the operator norms queries and keys."""
        inputs = dict(zip(_GROUP_QUERY_INPUTS, self.node.inputs, strict=False))
        return not self.is_multi_head and inputs.get("q_norm_weight") is not None


class AttentionRewriter:
    """Puts layers onto the contract, one by one. windows: those of the layers that have one."""

    def __init__(self, graph: ContractGraph, tables: RotaryTables, config: GenaiConfig) -> None:
        self._graph = graph
        self._nodes = graph.nodes
        self._tables = tables
        self._config = config
        self.windows: set[int] = set()

    def rewrite(self, layer: Layer) -> None:
        """Replace a layer's operator. Raises: UnsupportedModelError for what the standard operators cannot do."""
        if layer.is_multi_head:
            self._multi_head(layer)
        else:
            self._group_query(layer)

    def _group_query(self, layer: Layer) -> None:
        node = layer.node
        inputs = _inputs(node, _GROUP_QUERY_INPUTS)
        _check_group_query(node, inputs)
        heads = replace(self._group_query_heads(node), sinks=layer.sinks)
        q, k, v = self._split(node, inputs, heads)
        q = self._normed(q, inputs["q_norm_weight"], heads.num_heads, heads, node)
        k = self._normed(k, inputs["k_norm_weight"], heads.num_kv_heads, heads, node)
        if inputs["position_ids"] not in (None, self._graph.position_ids):
            raise UnsupportedModelError(f"{node.name} has positions of its own: not supported")
        if node.attributes.get_int("do_rotary", 0):
            cos, sin = inputs["cos_cache"], inputs["sin_cache"]
            if cos is None or sin is None:
                raise UnsupportedModelError(f"{node.name} turns queries and keys but has no cos_cache and sin_cache")
            interleaved = bool(node.attributes.get_int("rotary_interleaved", 0))
            q, k = (
                self._tables.rotated(x, (cos, sin), num_heads=count, head_dim=heads.head_dim, interleaved=interleaved)
                for x, count in ((q, heads.num_heads), (k, heads.num_kv_heads))
            )
        self._replace(layer, q, k, v, heads)

    def _multi_head(self, layer: Layer) -> None:
        node = layer.node
        inputs = _inputs(node, _MULTI_HEAD_INPUTS)
        _refuse_inputs(node, inputs)
        check_attributes(node, _MULTI_HEAD_ATTRIBUTES, {"unidirectional": (0, 1)})
        num_heads = node.attributes.get_int("num_heads", 0)
        heads = Heads(
            num_heads=num_heads,
            num_kv_heads=size_of(layer.past_key, 1) or num_heads,
            head_dim=self._config.facts.head_dim,
            scale=node.attributes.get_float("scale", 0.0) or None,
            window=layer.reach.window,
            chunk=layer.reach.chunk,
        )
        q, k, v = inputs["query"], inputs["key"], inputs["value"]
        if q is None or k is None or v is None:
            raise UnsupportedModelError(f"{node.name} has packed queries, keys and values: not supported")
        if inputs["past_key"] is not layer.past_key:
            k = self._before_repetition(layer.past_key, heads)
            v = self._before_repetition(layer.past_value, heads)
        self._replace(layer, q, k, v, heads)

    def _group_query_heads(self, node: ir.Node) -> Heads:
        window = node.attributes.get_int("local_window_size", -1)
        return Heads(
            num_heads=node.attributes.get_int("num_heads", 0),
            num_kv_heads=node.attributes.get_int("kv_num_heads", 0),
            head_dim=self._config.facts.head_dim,
            scale=node.attributes.get_float("scale", 0.0) or None,
            softcap=node.attributes.get_float("softcap", 0.0) or None,
            window=window if 0 < window < self._config.facts.max_position else None,
        )

    def _split(
        self, node: ir.Node, inputs: dict[str, ir.Value | None], heads: Heads
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values, taken apart where the operator gets them in one."""
        q, k, v = inputs["query"], inputs["key"], inputs["value"]
        if q is None:
            raise UnsupportedModelError(f"{node.name} has no queries")
        sizes = [heads.num_heads * heads.head_dim, heads.kv_size, heads.kv_size]
        if k is not None and v is not None:
            return q, k, v
        if size_of(q, -1) not in (None, sum(sizes)):
            raise UnsupportedModelError(
                f"{node.name} gets queries, keys and values of {size_of(q, -1)} elements; {sum(sizes)} are expected"
            )
        parts = self._nodes.ops("Split", q, self._nodes.integers(sizes), num_outputs=3, axis=-1)
        for part in parts:
            part.type = q.type
        return parts[0], parts[1], parts[2]

    def _normed(self, x: ir.Value, weight: ir.Value | None, num_heads: int, heads: Heads, node: ir.Node) -> ir.Value:
        """Each head through the norm that the operator applies inside."""
        if weight is None:
            return x
        nodes, size = self._nodes, heads.head_dim
        split = nodes.op("Reshape", x, nodes.integers([0, 0, num_heads, size]))
        epsilon = node.attributes.get_float("qk_norm_epsilon", 1e-6)
        normed = nodes.op("RMSNormalization", split, weight, axis=-1, epsilon=epsilon, stash_type=1)
        return nodes.typed("Reshape", normed, nodes.integers([0, 0, num_heads * size]), dtype=x.dtype)

    def _before_repetition(self, past: ir.Value, heads: Heads) -> ir.Value:
        """New keys or values [B, T, kv_size] as they are before past is put before them and heads are repeated."""
        joint = next((joint for joint in find_joints(self._graph.graph) if joint.past is past), None)
        if joint is None:
            raise UnsupportedModelError(f"{past.name!r} is not put before the new keys and values by a Concat")
        return as_flat(self._nodes, joint.new, heads.kv_size)

    def _replace(self, layer: Layer, q: ir.Value, k: ir.Value, v: ir.Value, heads: Heads) -> None:
        if heads.num_heads < 1 or heads.num_kv_heads < 1 or heads.num_heads % heads.num_kv_heads:
            raise UnsupportedModelError(
                f"{layer.node.name}: {heads.num_heads} heads cannot share {heads.num_kv_heads} key/value heads"
            )
        if not set(heads.caches(layer.index)) <= set(self._graph.caches):
            raise UnsupportedModelError(
                f"layer {layer.index} keeps {heads.kv_size} elements of keys for each token, its configuration says "
                "others: layers of different sizes are not supported"
            )
        if heads.window is not None:
            self.windows.add(heads.window)
        result = self._graph.cached_attention(layer.index, q, k, v, heads)
        layer.node.outputs[0].replace_all_uses_with(result)


def rewrite_rotary_operators(target: ContractGraph, tables: RotaryTables, head_dim: int) -> None:
    """Replace the rotary operators that stand before an attention by the standard one.

    MRotaryEmbedding turns by three positions, of pictures' parts; a text's are all the same.
    """
    for node in [node for node in target.graph if node.domain == CONTRIB and node.op_type in _ROTARY]:
        x, positions, cos, sin = (*node.inputs, None, None, None, None)[:4]
        if x is None or cos is None or sin is None or positions is not target.position_streams:
            raise UnsupportedModelError(f"{node.name} does not turn by position_ids: not supported")
        check_attributes(node, _ROTARY[node.op_type], _ROTARY_ALLOWED)
        size = size_of(x, -1)
        if size is None or size % head_dim:
            raise UnsupportedModelError(f"{node.name} turns values of shape {x.shape}: heads have {head_dim} elements")
        interleaved = bool(node.attributes.get_int("interleaved", 0))
        result = tables.rotated(x, (cos, sin), num_heads=size // head_dim, head_dim=head_dim, interleaved=interleaved)
        node.outputs[0].replace_all_uses_with(result)


def _inputs(node: ir.Node, names: Sequence[str]) -> dict[str, ir.Value | None]:
    if len(node.inputs) > len(names):
        raise UnsupportedModelError(
            f"{node.name} ({node.op_type}) has {len(node.inputs)} inputs, {len(names)} are known"
        )
    given = (*node.inputs, *[None] * len(names))
    return dict(zip(names, given, strict=False))


def _check_group_query(node: ir.Node, inputs: dict[str, ir.Value | None]) -> None:
    """Refuse what the standard operator cannot do."""
    _refuse_inputs(node, inputs)
    if inputs["attention_bias"] is not None:
        raise UnsupportedModelError(f"{node.name} has an attention_bias: not supported")
    check_attributes(node, _GROUP_QUERY_ATTRIBUTES, _GROUP_QUERY_ALLOWED)


def _refuse_inputs(node: ir.Node, inputs: dict[str, ir.Value | None]) -> None:
    for name, meaning in _UNSUPPORTED_INPUTS.items():
        if inputs.get(name) is not None:
            raise UnsupportedModelError(f"{node.name} has the input {name}, {meaning}: not supported")
