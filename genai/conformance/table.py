"""The rows of standard operators: each input and attribute that generation may want, at the opsets that changed it.

Sizes are small, and those that could be taken for each other differ: 2 rows, 3 new tokens, 11 slots, 4 heads of
queries, 2 of keys and values, 8 numbers a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import onnx
from onnx import helper

from genai.conformance.case import Case, Domain, Given, Growth, rows
from genai.contract import NONPAD_KV_SEQLEN, WRITE_INDICES

_HALF = ("float32", "float16", "bfloat16")
_QUERY, _NEW, _CACHE = (2, 3, 32), (2, 3, 16), (2, 11, 16)
_HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
_DECODING = Growth(capacity=11, valid={WRITE_INDICES: 0, NONPAD_KV_SEQLEN: 1})


def _tensor(name: str, *shape: int) -> Given:
    return Given(name=name, shape=shape)


def _numbers(name: str, *values: float, dtype: str = "int64", shape: tuple[int, ...] | None = None) -> Given:
    shape = (len(values),) if shape is None else shape
    return Given(name=name, shape=shape, dtype=dtype, kind="values", values=values)


def standard_cases() -> list[Case]:
    """All rows of the domain ai.onnx, and of its preview."""
    return [
        *_tensor_scatter(),
        *_attention(),
        *_attention_on_caches(),
        *_attention_windows(),
        *_rotary(),
        *_norms(),
        *_activations(),
        *_linear_attention(),
        *_causal_conv(),
        *_flex_attention(),
    ]


def _tensor_scatter() -> list[Case]:
    cache, update = _tensor("past_cache", 2, 11, 16), _tensor("update", 2, 3, 16)
    made = partial(
        rows, "TensorScatter", opsets=(24,), outputs=("present_cache",), loops={"present_cache": "past_cache"}
    )
    starts = _numbers(WRITE_INDICES, 4, 0)
    types = (*_HALF, "int8", "uint8", "float8e4m3fn", "int4")
    four = [_tensor("past_cache", 2, 4, 11, 8), _tensor("update", 2, 4, 3, 8), starts]
    one = [cache, _tensor("update", 2, 1, 16), starts]
    return [
        *made("linear, axis 1", [cache, update, starts], types=types, attributes={"axis": 1}),
        *made("linear, axis -2 of 4", four),
        *made("linear, no indices", [cache, update], attributes={"axis": 1}),
        *made("one token", one, attributes={"axis": 1}, growth=_DECODING),
        *made(
            "circular, past the end", [cache, update, _numbers(WRITE_INDICES, 9, 0)],
            types=("float32", "int8"), attributes={"axis": 1, "mode": "circular"},
        ),
    ]  # fmt: skip


def _attention() -> list[Case]:
    """Without a cache that lies apart: at each opset that changed the operator."""
    opsets = (23, 24, 25)
    q, k, v = _tensor("Q", *_QUERY), _tensor("K", *_CACHE), _tensor("V", *_CACHE)
    four = [_tensor("Q", 2, 4, 3, 8), _tensor("K", 2, 2, 11, 8), _tensor("V", 2, 2, 11, 8)]
    seen = Given(name="attn_mask", shape=(2, 1, 3, 11), dtype="bool", kind="bool")
    blind = _numbers("attn_mask", *[1] * 11, *[0] * 11, *[1] * 11, dtype="bool", shape=(3, 11))
    added = _tensor("attn_mask", 3, 11)
    fixed: list[Given | None] = [Given(name=each.name, shape=each.shape, is_fixed=True) for each in (*four, added)]
    past = [_tensor("past_key", 2, 2, 5, 8), _tensor("past_value", 2, 2, 5, 8)]
    present = ("output", "present_key", "present_value")
    square = [q, _tensor("K", *_NEW), _tensor("V", *_NEW)]
    kinds: list[tuple[str, Sequence[Given | None], Mapping[str, int | float], tuple[str, ...]]] = [
        ("3 axes, grouped heads", [q, k, v], {}, ("output",)),
        ("4 axes, grouped heads", [*four], {}, ("output",)),
        ("causal", [*square], {"is_causal": 1}, ("output",)),
        ("mask of truths", [q, k, v, seen], {}, ("output",)),
        ("mask of numbers", [q, k, v, added], {}, ("output",)),
        ("a query that sees no key", [q, k, v, blind], {}, ("output",)),
        ("past and present", [*square, None, *past], {}, present),
        ("past, causal", [*square, None, *past], {"is_causal": 1}, present),
        ("scale", [q, k, v], {"scale": 0.5}, ("output",)),
        ("softcap", [q, k, v], {"softcap": 2.0}, ("output",)),
        ("softcap, mask", [q, k, v, added], {"softcap": 2.0}, ("output",)),
        ("softmax_precision", [q, k, v], {"softmax_precision": 1}, ("output",)),
        ("value heads of another size", [q, k, _tensor("V", 2, 11, 10)], {}, ("output",)),
        *(
            (f"scores as output, mode {mode}", [*fixed], {"softcap": 2.0, "qk_matmul_output_mode": mode},
             ("output", "", "", "qk_matmul_output"))
            for mode in range(4)
        ),
        ("scores as output, open lengths", [*four], {}, ("output", "", "", "qk_matmul_output")),
    ]  # fmt: skip
    made: list[Case] = []
    for what, inputs, attributes, outputs in kinds:
        types = _HALF if what in ("3 axes, grouped heads", "past, causal") else ("float32",)
        heads = {} if inputs[0] in (four[0], fixed[0]) else _HEADS
        made += rows(
            "Attention", what, inputs, opsets=opsets, types=types, attributes={**heads, **attributes}, outputs=outputs
        )
    return made


def _attention_on_caches() -> list[Case]:
    """Over a cache that something else wrote: how many entries of each row are valid."""
    q, k, v = _tensor("Q", *_QUERY), _tensor("K", *_CACHE), _tensor("V", *_CACHE)
    valid, blank = _numbers(NONPAD_KV_SEQLEN, 7, 4), [None] * 3
    mask, short = _tensor("attn_mask", 2, 1, 3, 11), _tensor("attn_mask", 3, 7)
    causal, opsets = {**_HEADS, "is_causal": 1}, (24, 25)
    one = [_tensor("Q", 2, 1, 32), k, v, *blank, valid]
    twice = [q, k, Given(name="V", shape=_CACHE, same_as="K"), *blank, valid]
    return [
        *rows("Attention", "valid lengths", [q, k, v, *blank, valid], opsets=opsets, attributes=_HEADS),
        *rows(
            "Attention", "valid lengths, causal", [q, k, v, *blank, valid], opsets=opsets, types=_HALF,
            attributes=causal,
        ),
        *rows("Attention", "valid lengths, one token", one, opsets=opsets, attributes=causal, growth=_DECODING),
        *rows("Attention", "mask shorter than the keys", [q, k, v, short], opsets=opsets, attributes=_HEADS),
        *rows("Attention", "valid lengths, mask", [q, k, v, mask, None, None, valid], opsets=opsets, attributes=_HEADS),
        *rows("Attention", "valid lengths, keys as values", twice, opsets=opsets, attributes=causal),
    ]  # fmt: skip


def _attention_windows() -> list[Case]:
    q, k, v = _tensor("Q", *_QUERY), _tensor("K", *_CACHE), _tensor("V", *_CACHE)
    square = [q, _tensor("K", *_NEW), _tensor("V", *_NEW)]
    valid = [None, None, None, _numbers(NONPAD_KV_SEQLEN, 7, 4)]
    both = {**_HEADS, "left_window_size": 1, "right_window_size": 1}
    left = {**_HEADS, "is_causal": 1, "left_window_size": 1}
    return [
        *rows("Attention", "window to the left, causal", square, opsets=(25,), attributes=left),
        *rows("Attention", "windows to both sides", square, opsets=(25,), attributes=both),
        *rows("Attention", "window, valid lengths", [q, k, v, *valid], opsets=(25,), attributes=left),
    ]


def _rotary() -> list[Case]:
    x, places = _tensor("X", 2, 3, 32), _numbers("position_ids", 0, 1, 2, 5, 6, 7, shape=(2, 3))
    tables = [Given(name=f"{name}_cache", shape=(11, 4), kind="table", is_weight=True) for name in ("cos", "sin")]
    short = [Given(name=f"{name}_cache", shape=(11, 2), kind="table", is_weight=True) for name in ("cos", "sin")]
    direct = [_tensor("cos_cache", 2, 3, 4), _tensor("sin_cache", 2, 3, 4)]
    heads, opsets = {"num_heads": 4}, (23, 28)
    four = [_tensor("X", 2, 4, 3, 8), *tables, places]
    return [
        *rows("RotaryEmbedding", "halves", [x, *tables, places], opsets=opsets, types=_HALF, attributes=heads),
        *rows("RotaryEmbedding", "4 axes", four, opsets=opsets),
        *rows(
            "RotaryEmbedding", "interleaved", [x, *tables, places], opsets=opsets,
            attributes={**heads, "interleaved": 1},
        ),
        *rows(
            "RotaryEmbedding", "part of a head", [x, *short, places], opsets=opsets,
            attributes={**heads, "rotary_embedding_dim": 4},
        ),
        *rows("RotaryEmbedding", "no positions", [x, *direct], opsets=opsets, attributes=heads),
    ]  # fmt: skip


def _norms() -> list[Case]:
    def weight(name: str, *shape: int) -> Given:
        return Given(name=name, shape=shape, kind="small", is_weight=True)

    x = _tensor("X", 2, 3, 32)
    centred = [
        x,
        Given(name="Scale", shape=(32,), kind="small", is_weight=True),
        Given(name="B", shape=(32,), is_weight=True),
    ]
    return [
        *rows("RMSNormalization", "last axis", [x, weight("scale", 32)], opsets=(23, 28), types=_HALF),
        *rows(
            "RMSNormalization", "two axes", [x, weight("scale", 3, 32)], opsets=(23,),
            attributes={"axis": 1},
        ),
        *rows("LayerNormalization", "last axis", centred, opsets=(17, 28), types=("float32", "float16")),
    ]  # fmt: skip


def _activations() -> list[Case]:
    x, halves = [_tensor("X", 2, 3, 32)], [_tensor("A", 2, 3, 32), _tensor("B", 2, 3, 32)]
    return [
        *rows("Gelu", "exact", x, opsets=(20, 28), types=("float32", "float16")),
        *rows("Gelu", "by tanh", x, opsets=(20,), attributes={"approximate": "tanh"}),
        *rows("Swish", "alpha 1", x, opsets=(24, 26, 28), types=("float32", "float16")),
        *rows("Swish", "alpha 1.7", x, opsets=(24,), attributes={"alpha": 1.7}),
        *rows("SwiGLU", "alpha 1", halves, opsets=(28,), types=("float32", "float16")),
    ]


def _linear_attention() -> list[Case]:
    return [
        *linear_attention("linear", (27,)),
        *linear_attention("gated", (27,)),
        *linear_attention("delta", (27,)),
        *linear_attention("gated_delta", (27,), types=("float32", "float16")),
        *linear_attention("gated_delta", (27,), what="gated_delta, one token", num_tokens=1),
        *linear_attention("gated", (27,), what="gated, a decay for each number", decays=8),
    ]


def linear_attention(
    rule: str,
    opsets: tuple[int, ...],
    *,
    what: str = "",
    num_tokens: int = 3,
    decays: int = 1,
    types: tuple[str, ...] = ("float32",),
    domain: Domain = "ai.onnx",
) -> list[Case]:
    """Rows of LinearAttention, here and in com.microsoft: 4 heads, 2 of keys and values, states [2, 2, 8, 6]."""
    decay = Given(name="decay", shape=(2, num_tokens, 2 * decays), kind="small") if "gated" in rule else None
    beta = Given(name="beta", shape=(2, num_tokens, 2), kind="small") if "delta" in rule else None
    inputs = [
        _tensor("query", 2, num_tokens, 32),
        Given(name="key", shape=(2, num_tokens, 16), kind="small"),
        _tensor("value", 2, num_tokens, 12),
        _tensor("past_state", 2, 2, 8, 6),
        decay,
        beta,
    ]
    return rows(
        "LinearAttention", what or rule, inputs, opsets=opsets, types=types,
        attributes={**_HEADS, "update_rule": rule}, outputs=("output", "present_state"),
        loops={"present_state": "past_state"}, domain=domain,
    )  # fmt: skip


def _causal_conv() -> list[Case]:
    return [
        *causal_conv("none", (27,)),
        *causal_conv("silu", (27,), types=("float32", "float16")),
        *causal_conv("silu", (27,), what="silu, one token", num_tokens=1),
    ]


def causal_conv(
    activation: str,
    opsets: tuple[int, ...],
    *,
    what: str = "",
    num_tokens: int = 5,
    types: tuple[str, ...] = ("float32",),
    domain: Domain = "ai.onnx",
) -> list[Case]:
    """Rows of CausalConvWithState, here and in com.microsoft: 6 channels, a kernel of 4."""
    weights = [Given(name="weight", shape=(6, 1, 4), is_weight=True), Given(name="bias", shape=(6,), is_weight=True)]
    inputs = [_tensor("input", 2, 6, num_tokens), *weights, _tensor("past_state", 2, 6, 3)]
    return rows(
        "CausalConvWithState", what or activation, inputs, opsets=opsets,
        types=types,
        attributes={"activation": activation}, outputs=("output", "present_state"),
        loops={"present_state": "past_state"}, domain=domain,
    )  # fmt: skip


def _flex_attention() -> list[Case]:
    inputs = [_tensor("Q", 2, 4, 3, 8), _tensor("K", 2, 2, 11, 8), _tensor("V", 2, 2, 11, 8)]
    made = partial(rows, "FlexAttention", domain="ai.onnx.preview", opsets=(26,))
    return [
        *made("plain", inputs),
        *made("score_mod: softcap", inputs, attributes={"score_mod": _softcap()}),
    ]


def _softcap() -> onnx.GraphProto:
    """scores: [B, H, T, S] float32 -> the same, within ±2."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4) for name in ("scores", "capped")]
    cap = helper.make_tensor("cap", onnx.TensorProto.FLOAT, [], [2.0])
    nodes = [
        helper.make_node("Div", ["scores", "cap"], ["part"]),
        helper.make_node("Tanh", ["part"], ["bent"]),
        helper.make_node("Mul", ["bent", "cap"], ["capped"]),
    ]
    return helper.make_graph(nodes, "softcap", values[:1], values[1:], [cap])
