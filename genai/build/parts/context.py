"""What the parts of a decoder are written with: types, shared values, and the norms between them.

Functions take and return names of graph values; shapes are in the docstrings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from genai import contract
from genai.build.graph import CONTRIB, GraphBuilder
from genai.build.masks import all_slots, chunk_mask, distance_mask, mask_of_chosen, window_mask
from genai.build.repeated import Repeated, pays
from genai.build.spec import (
    AttentionSpec,
    BlockSpec,
    ChunkSpec,
    DecoderSpec,
    LearnedPositions,
    PerLayerSpec,
    RotarySpec,
    TemperatureSpec,
)
from genai.build.steps import own_tokens, tail
from genai.build.weights import Weights
from genai.build.windows import windowed_layers

F32 = np.dtype(np.float32)
FLOAT = int(onnx.TensorProto.FLOAT)
POSITIONS = "model.embed_positions"
_AT_A_TIME = 16
"""Numbers that CPU kernels of functions take together, or a multiple of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Caches of one capacity. keys: of any of them; write_indices, valid: [B], before and after the new tokens."""

    keys: str
    write_indices: str = contract.WRITE_INDICES
    valid: str = contract.NONPAD_KV_SEQLEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a layer's queries see: a window, a chunk or by distance, () for all; and in which caches."""

    limit: int | ChunkSpec | tuple[float, ...]
    place: Place

    @classmethod
    def of(cls, heads: AttentionSpec, place: Place) -> Sight:
        """A layer's, whose keys are in this place."""
        return cls(limit=heads.sliding_window or heads.chunk or heads.alibi, place=place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the parts of one decoder are written with.

    graph: where to write; dtype, residual: the types of activations and of the residual stream; angles: (cos, sin) by
    frequencies, masks by what is seen, and factors of queries by temperature, which layers share; places: of the layers
    with caches of heads' keys; per_layer: the layers' own embeddings [B, T, layers, size], if they have some;
    has_one_token: whether parts read one token of each row, where the graph tells this apart (`attending.py`);
    logits_positions: which tokens go on to the head, [B, P], for values of T tokens; is_own:
    which tokens are a row's own, no padding, [B, T, 1], if the graph has states; tails: where a row's last inputs lie
    when a step is done, [B, kernel - 1, 1], by the convolution's kernel, counted from the first that its state held
    before; is_narrowed: all of these, and what parts read, are of the P tokens that get logits alone. Masks then hide
    what comes after each token, too, and there is one for ().
    """

    weights: Weights
    graph: GraphBuilder
    spec: DecoderSpec
    dtype: np.dtype[np.generic]
    residual: np.dtype[np.generic]
    angles: dict[RotarySpec, tuple[str, ...]]
    masks: dict[Sight, str]
    temperatures: dict[TemperatureSpec, str]
    places: dict[int, Place]
    per_layer: str | None = None
    has_one_token: str | None = None
    logits_positions: str = contract.LOGITS_POSITIONS
    is_own: str | None = None
    tails: dict[int, str] = field(default_factory=dict)
    is_narrowed: bool = False

    @classmethod
    def build(cls, weights: Weights, spec: DecoderSpec) -> Context:
        """Write what is computed once for each step."""
        attentions = spec.attentions.values()
        latent = (each.rotary for each in spec.latents.values())
        rotaries = dict.fromkeys([*(each.rotary for each in attentions if each.rotary), *latent])
        places = _places(spec)
        sights = dict.fromkeys(_sights(spec.attentions.items(), places))
        temperatures = dict.fromkeys(each.temperature for each in attentions if each.temperature)
        tells_one = bool(spec.attentions or spec.latents) and weights.dtype == F32
        repeated = Repeated.build(weights.graph) if tells_one and pays(spec, weights.plan) else None
        weights.repeated = repeated
        return cls(
            weights=weights,
            graph=weights.graph,
            spec=spec,
            dtype=weights.dtype,
            residual=F32 if spec.has_wide_residual and weights.dtype == np.float16 else weights.dtype,
            angles={rotary: rotary_angles(weights, rotary) for rotary in rotaries},
            masks={sight: _mask(weights, spec, sight) for sight in sights if sight.limit},
            places=places,
            temperatures={temperature: _query_factors(weights, temperature) for temperature in temperatures},
            has_one_token=_is_one(weights.graph, contract.POSITION_IDS) if tells_one else None,
            logits_positions=repeated.of_logits(weights.graph) if repeated else contract.LOGITS_POSITIONS,
            is_own=own_tokens(weights.graph, contract.INPUT_IDS, contract.TOKEN_COUNTS) if spec.kernels else None,
            tails={kernel: tail(weights.graph, contract.TOKEN_COUNTS, kernel) for kernel in sorted(spec.kernels)},
        )

    def narrowed(self, blocks: Sequence[BlockSpec]) -> Context:
        """The same for the tokens that get logits, as far as the blocks that are left need it."""
        parts = [part for block in blocks for part in block.parts]
        layers = [(block.layer, part) for block in blocks for part in block.parts if isinstance(part, AttentionSpec)]
        attentions = [part for _, part in layers]
        rotaries = dict.fromkeys(each.rotary for each in attentions if each.rotary)
        sights = dict.fromkeys(_sights(layers, self.places))
        temperatures = dict.fromkeys(each.temperature for each in attentions if each.temperature)
        per_layer = self.per_layer if any(isinstance(part, PerLayerSpec) for part in parts) else None
        return replace(
            self,
            angles={each: tuple(self.at_logits_positions(x) for x in self.angles[each]) for each in rotaries},
            masks={sight: _mask_of_chosen(self, sight) for sight in sights},
            temperatures={each: self.at_logits_positions(self.temperatures[each]) for each in temperatures},
            per_layer=per_layer and self.at_logits_positions(per_layer),
            has_one_token=_is_one(self.graph, self.logits_positions) if attentions and self.has_one_token else None,
            is_narrowed=True,
        )

    @property
    def repeated(self) -> Repeated | None:
        """How a lone token is run twice, None in graphs without that."""
        return self.weights.repeated

    def at_logits_positions(self, x: str) -> str:
        """[B, T, …] -> [B, P, …]: each row's chosen positions."""
        indices = self.graph.op("Unsqueeze", self.logits_positions, self.graph.constant([2], np.int64))
        return self.graph.op("GatherND", x, indices, batch_dims=1)

    def place_of(self, heads: AttentionSpec, layer: int) -> Place:
        """Where the keys are that a layer reads."""
        return self.places[heads.keys_layer(layer)]


def scaled(graph: GraphBuilder, x: str, factor: float, dtype: np.dtype[np.generic]) -> str:
    """`x * factor`, or x itself when the factor is 1."""
    return x if factor == 1.0 else graph.op("Mul", x, graph.constant(factor, dtype))


def softcapped(graph: GraphBuilder, x: str, cap: float | None) -> str:
    """`cap * tanh(x / cap)` of a float32 value, or x itself without a cap."""
    if cap is None:
        return x
    return scaled(graph, graph.op("Tanh", scaled(graph, x, 1.0 / cap, F32)), cap, F32)


def norm(ctx: Context, x: str, name: str, size: int, dtype: np.dtype[np.generic]) -> str:
    """The decoder's kind of norm over the last dimension of a value of this type, computed in float32.

    `x / rms(x) * (weight + offset)`, or `(x - mean(x)) / std(x) * (weight + offset) + bias`.
    """
    return _normalized(ctx, x, *_norm_weights(ctx, name, size, dtype))


def norm_of_each(ctx: Context, x: str, name: str, shape: tuple[int, int]) -> str:
    """The decoder's kind of norm over the last dimension of [B, T, N, D], without bias, a weight for each of N."""
    # Kernels take a weight of the last dimension only.
    scales = ctx.weights.stacked(name, shape, ctx.dtype, offset=ctx.spec.norm.offset)
    ones = ctx.graph.constant(np.ones(shape[1]), ctx.dtype)
    return ctx.graph.op("Mul", _normalized(ctx, x, ones, None), scales)


def _normalized(ctx: Context, x: str, scale: str, bias: str | None) -> str:
    kind, options = "RMSNormalization", [scale]
    if ctx.spec.norm.kind == "layer":
        kind, options = "LayerNormalization", [scale, bias] if bias else [scale]
    return ctx.graph.op(kind, x, *options, axis=-1, epsilon=ctx.spec.norm.eps, stash_type=FLOAT)


def _norm_weights(ctx: Context, name: str, size: int, dtype: np.dtype[np.generic]) -> tuple[str, str | None]:
    """A norm's weight, and its bias where the decoder's kind has one and the checkpoint too."""
    scale = ctx.weights.vector(f"{name}.weight", size, dtype, offset=ctx.spec.norm.offset)
    has_bias = ctx.spec.norm.kind == "layer" and ctx.weights.has(f"{name}.bias")
    return scale, ctx.weights.vector(f"{name}.bias", size, dtype) if has_bias else None


def embedding(ctx: Context, name: str) -> str:
    """The residual stream's beginning [B, T, H]: the tokens' embeddings, scaled, and those of their positions."""
    x = ctx.weights.embedding(contract.INPUT_IDS, name, ctx.spec.vocab_size, ctx.spec.hidden_size)
    x = ctx.graph.cast(x, ctx.dtype, ctx.residual)
    x = scaled(ctx.graph, x, ctx.spec.embedding_scale, ctx.residual)
    if ctx.spec.positions is not None:
        x = _with_positions(ctx, x, ctx.spec.positions)
    if ctx.spec.embedding_norm is not None:
        x = norm(ctx, x, ctx.spec.embedding_norm, ctx.spec.hidden_size, ctx.residual)
    return x


def _with_positions(ctx: Context, x: str, positions: LearnedPositions) -> str:
    graph, shape = ctx.graph, (positions.offset + positions.count, ctx.spec.hidden_size)
    table = ctx.weights.rows(POSITIONS, shape, ctx.residual, first=positions.offset)
    # A row's padding may lie behind the last position; what is written there is not read.
    known = graph.op("Min", contract.POSITION_IDS, graph.constant(positions.count - 1, np.int64))
    return graph.op("Add", x, graph.op("Gather", table, known, axis=0))


def block_result(ctx: Context, x: str, norm_name: str | None) -> str:
    """What a block adds to the residual stream, in its type: the last product, after its norm if it has one."""
    x = ctx.graph.cast(x, ctx.dtype, ctx.residual)
    if norm_name is not None:
        x = norm(ctx, x, norm_name, ctx.spec.hidden_size, ctx.residual)
    return scaled(ctx.graph, x, ctx.spec.residual_scale, ctx.residual)


def add_and_norm(ctx: Context, x: str, delta: str | None, name: str | None) -> tuple[str, str]:
    """(x + delta, its norm in the activations' type): the residual stream after a block, and what the next one reads.

    Without a delta or a norm that part is left out. One fused node where contrib operators are allowed.
    """
    graph, spec = ctx.graph, ctx.spec
    if delta is not None and name is not None and ctx.residual == ctx.dtype and not ctx.weights.plan.is_standard:
        scale, bias = _norm_weights(ctx, name, spec.hidden_size, ctx.dtype)
        kind, inputs = ("SkipSimplifiedLayerNormalization", [scale])
        if spec.norm.kind == "layer":
            kind, inputs = ("SkipLayerNormalization", [scale, bias] if bias else [scale])
        normed, total = graph.op_chosen(
            kind, x, delta, *inputs, outputs=[True, False, False, True], domain=CONTRIB, epsilon=spec.norm.eps
        )
        return total, normed
    total = x if delta is None else graph.op("Add", x, delta)
    normed = total if name is None else norm(ctx, total, name, spec.hidden_size, ctx.residual)
    return total, graph.cast(normed, ctx.residual, ctx.dtype)


def add_and_norms(ctx: Context, x: str, delta: str | None, names: Sequence[str]) -> tuple[str, list[str]]:
    """(x + delta, each of these norms of it in the activations' type): `add_and_norm` for parts with their own."""
    total, first = add_and_norm(ctx, x, delta, names[0])
    others = [norm(ctx, total, name, ctx.spec.hidden_size, ctx.residual) for name in names[1:]]
    return total, [first, *(ctx.graph.cast(other, ctx.residual, ctx.dtype) for other in others)]


def rotary_angles(weights: Weights, spec: RotarySpec) -> tuple[str, str]:
    """cos and sin [B, T, size / 2] of `position_ids`: once per step for all layers with these frequencies."""
    graph, num = weights.graph, len(spec.inverse_frequencies)
    positions = graph.op("Unsqueeze", contract.POSITION_IDS, graph.constant([2], np.int64))
    positions = graph.op("Cast", positions, to=FLOAT)
    # CPU kernels take 16 numbers at a time, and a tensor's last ones in another way, which differs in the last bit.
    unread = -num % _AT_A_TIME if weights.dtype == F32 else 0
    frequencies = [*spec.inverse_frequencies, *[0.0] * unread]
    angles = graph.op("Mul", positions, graph.constant([[frequencies]], F32))
    cos, sin = (graph.op(kind, angles) for kind in ("Cos", "Sin"))
    if unread:
        bounds = [graph.constant(bound, np.int64) for bound in ([0], [num], [2])]
        cos, sin = (graph.op("Slice", each, *bounds) for each in (cos, sin))
    cos, sin = (scaled(graph, each, spec.scale, F32) for each in (cos, sin))
    return graph.cast(cos, F32, weights.dtype), graph.cast(sin, F32, weights.dtype)


def _is_one(graph: GraphBuilder, of_tokens: str) -> str:
    """Whether a value [B, T] is of one token a row."""
    count = graph.op("Squeeze", graph.op("Shape", of_tokens, start=1, end=2))
    return graph.op("Equal", count, graph.constant(1, np.int64))


def _query_factors(weights: Weights, spec: TemperatureSpec) -> str:
    """What queries are multiplied by [B, T, 1], by their positions."""
    graph = weights.graph
    positions = contract.POSITION_IDS
    if spec.offset:
        positions = graph.op("Add", positions, graph.constant(spec.offset, np.int64))
    periods = graph.op("Div", positions, graph.constant(spec.period, np.int64))
    steps = graph.op("Log", graph.op("Add", graph.op("Cast", periods, to=FLOAT), graph.constant(1.0, F32)))
    factors = graph.op("Add", scaled(graph, steps, spec.weight, F32), graph.constant(1.0, F32))
    factors = graph.op("Unsqueeze", factors, graph.constant([2], np.int64))
    return graph.cast(factors, F32, weights.dtype)


def _places(spec: DecoderSpec) -> dict[int, Place]:
    """Where each layer's own keys are: those of windows have a capacity of their own, and the row's last tokens."""
    own = [layer for layer, heads in spec.attentions.items() if heads.keys_of is None]
    windowed = windowed_layers(spec)
    near, whole = (next((layer for layer in own if (layer in windowed) is kept), 0) for kept in (True, False))
    whole_place = Place(keys=contract.key_cache(whole))
    near_place = Place(
        keys=contract.key_cache(near),
        write_indices=contract.WINDOW_WRITE_INDICES,
        valid=contract.WINDOW_KV_SEQLEN,
    )
    return {layer: near_place if layer in windowed else whole_place for layer in own}


def _sights(layers: Iterable[tuple[int, AttentionSpec]], places: Mapping[int, Place]) -> Iterator[Sight]:
    """What layers see."""
    for layer, heads in layers:
        yield Sight.of(heads, places[heads.keys_layer(layer)])


def _mask(weights: Weights, spec: DecoderSpec, sight: Sight) -> str:
    """The mask of a window, of chunks, or of heads with these slopes."""
    graph, limit, place = weights.graph, sight.limit, sight.place
    keys = all_slots(graph, place.keys)
    if isinstance(limit, ChunkSpec):  # by the tokens' places in the text
        if place.write_indices != contract.WRITE_INDICES:
            base = graph.op("Sub", contract.WRITE_INDICES, place.write_indices)
            keys = graph.op("Add", keys, graph.op("Unsqueeze", base, graph.constant([1, 2, 3], np.int64)))
        mask = chunk_mask(graph, contract.POSITION_IDS, contract.WRITE_INDICES, keys, limit.size)
    elif isinstance(limit, int):
        mask = window_mask(
            graph, contract.POSITION_IDS, place.write_indices, keys, limit, reserved_slots=spec.reserved_slots
        )
    else:
        mask = distance_mask(graph, contract.POSITION_IDS, place.write_indices, keys, limit)
    return graph.cast(mask, F32, weights.dtype)


def _mask_of_chosen(ctx: Context, sight: Sight) -> str:
    graph, place = ctx.graph, sight.place
    window = sight.limit if isinstance(sight.limit, int) else None
    inputs = (graph, ctx.logits_positions, place.write_indices, all_slots(graph, place.keys))
    mask = mask_of_chosen(*inputs, window=window, reserved_slots=ctx.spec.reserved_slots)
    return graph.cast(mask, F32, ctx.dtype)
