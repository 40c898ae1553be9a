"""The standard's smaller operators: caches, positions, norms, activations."""

from __future__ import annotations

from functools import partial

from genai.conformance.case import HALF, Attributes, Case, Given, Growth, numbers, rows, tensor, weight
from genai.contract import WRITE_INDICES

_BOTH = HALF[:2]
_CACHES = (*HALF, "int8", "uint8", "float8e4m3fn", "float8e5m2", "int4", "uint4")
"""The types that caches may be kept in."""


def standard_cases() -> list[Case]:
    """TensorScatter, RotaryEmbedding, the norms and the activations."""
    return [*_tensor_scatter(), *_rotary(), *_norms(), *_activations()]


def _tensor_scatter() -> list[Case]:
    cache, update = tensor("past_cache", 2, 11, 16), tensor("update", 2, 3, 16)
    made = partial(
        rows, "TensorScatter", opsets=(24,), outputs=("present_cache",), loops={"present_cache": "past_cache"}
    )
    starts, past_the_end = numbers(WRITE_INDICES, 4, 0), numbers(WRITE_INDICES, 9, 0)
    four = [tensor("past_cache", 2, 4, 11, 8), tensor("update", 2, 4, 3, 8)]
    last = [tensor("past_cache", 2, 4, 8, 11), tensor("update", 2, 4, 8, 3), starts]
    one = [cache, tensor("update", 2, 1, 16), starts]
    growth = Growth(capacity=11, valid={WRITE_INDICES: 0})
    circular: Attributes = {"axis": 1, "mode": "circular"}
    return [
        *rows(
            "TensorScatter", "axis 1", [cache, update, starts], opsets=(24, 28), types=_CACHES, attributes={"axis": 1},
            outputs=("present_cache",), loops={"present_cache": "past_cache"},
        ),
        *made("axis -2 of 4", [*four, starts], types=_BOTH),
        *made("axis -1 of 4", last, attributes={"axis": -1}),
        *made("no indices", [cache, update], attributes={"axis": 1}),
        *made("one token", one, types=_BOTH, attributes={"axis": 1}, growth=growth),
        *made("circular, past the end", [cache, update, past_the_end], types=_CACHES, attributes=circular),
        *made("circular, axis -2 of 4", [*four, past_the_end], attributes={"mode": "circular"}),
        *made("circular, more than once around", [cache, update, numbers(WRITE_INDICES, 31, 11)], attributes=circular),
        *made("circular, one token", one, attributes=circular, growth=growth),
    ]  # fmt: skip


def _rotary() -> list[Case]:
    def tables(size: int) -> list[Given]:
        return [Given(name=f"{name}_cache", shape=(11, size), kind="table", is_weight=True) for name in ("cos", "sin")]

    places = numbers("position_ids", 0, 1, 2, 5, 6, 7, shape=(2, 3))
    direct = [tensor("cos_cache", 2, 3, 4), tensor("sin_cache", 2, 3, 4)]
    part = [tensor("cos_cache", 2, 3, 2), tensor("sin_cache", 2, 3, 2)]
    made = []
    for axes, x, heads in ((3, tensor("X", 2, 3, 32), {"num_heads": 4}), (4, tensor("X", 2, 4, 3, 8), {})):
        for order in ("halves", "interleaved"):
            told = heads | ({"interleaved": 1} if order == "interleaved" else {})
            few = {**told, "rotary_embedding_dim": 4}
            ours = partial(rows, "RotaryEmbedding", opsets=(23, 28))
            main = (axes, order) == (3, "halves")
            made += [
                *ours(f"{order}, {axes} axes", [x, *tables(4), places], types=HALF if main else _BOTH, attributes=told),
                *ours(f"{order}, {axes} axes, part of a head", [x, *tables(2), places], types=_BOTH, attributes=few),
                *ours(f"{order}, {axes} axes, no positions", [x, *direct], types=_BOTH, attributes=told),
                *ours(f"{order}, {axes} axes, part of a head, no positions", [x, *part], types=_BOTH, attributes=few),
            ]
    return made


def _norms() -> list[Case]:
    x, opsets = tensor("X", 2, 3, 32), (23, 28)
    root = partial(rows, "RMSNormalization")
    heads = [tensor("X", 2, 3, 4, 8), weight("scale", 8)]
    layer = partial(rows, "LayerNormalization", opsets=(17, 28))
    scale, shift = weight("Scale", 32), weight("B", 32, kind="normal")
    return [
        *root("last axis", [x, weight("scale", 32)], opsets=opsets, types=HALF),
        *root("each head", heads, opsets=opsets, types=_BOTH),
        *root("epsilon 1e-3", [x, weight("scale", 32)], opsets=opsets, attributes={"epsilon": 1e-3}),
        *root("two axes", [x, weight("scale", 3, 32)], opsets=opsets, types=_BOTH, attributes={"axis": 1}),
        *root("all axes", [x, weight("scale", 2, 3, 32)], opsets=opsets, attributes={"axis": -3}),
        *root(
            "stash_type float16", [x, weight("scale", 32)], opsets=opsets, types=_BOTH, attributes={"stash_type": 10},
        ),
        *root(
            "scale of float32", [x, Given(name="scale", shape=(32,), dtype="float32", kind="small", is_weight=True)],
            opsets=opsets, types=("float16",),
        ),
        *layer("last axis", [x, scale, shift], types=HALF),
        *layer("no shift", [x, scale], types=_BOTH),
        *layer(
            "two axes, mean and deviation, epsilon 1e-3",
            [x, weight("Scale", 3, 32), weight("B", 3, 32, kind="normal")],
            attributes={"axis": 1, "epsilon": 1e-3, "stash_type": 1}, outputs=("output", "Mean", "InvStdDev"),
        ),
    ]  # fmt: skip


def _activations() -> list[Case]:
    x, halves = [tensor("X", 2, 3, 32)], [tensor("A", 2, 3, 32), tensor("B", 2, 3, 32)]
    return [
        *rows("Gelu", "exact", x, opsets=(20, 28), types=HALF),
        *rows("Gelu", "by tanh", x, opsets=(20, 28), types=_BOTH, attributes={"approximate": "tanh"}),
        *rows("Swish", "alpha 1", x, opsets=(24, 25, 26, 28), types=HALF),
        *rows("Swish", "alpha 1.7", x, opsets=(24, 25, 26, 28), attributes={"alpha": 1.7}),
        *rows("SwiGLU", "alpha 1", halves, opsets=(28,), types=HALF),
        *rows("SwiGLU", "alpha 1.7", halves, opsets=(28,), attributes={"alpha": 1.7}),
    ]
