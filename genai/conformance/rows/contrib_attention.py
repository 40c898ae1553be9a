"""GroupQueryAttention and MultiHeadAttention of ONNX Runtime, beside the standard's Attention."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Unpack

from genai.conformance.case import HALF, Attributes, Case, Given, Growth, More, numbers, rows, tensor

_BOTH = HALF[:2]
_LOOPS = {"present_key": "past_key", "present_value": "past_value"}
_OUTPUTS = ("output", *_LOOPS)


def contrib_attention_cases() -> list[Case]:
    """All rows of both."""
    return [*_on_caches(), *_positions(), *_eight_bits(), *_multi_head()]


_GROUPED = (
    "query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache",
    "position_ids", "attention_bias", "head_sink", "k_scale", "v_scale", "q_norm_weight", "k_norm_weight",
    "query_seqlens",
)  # fmt: skip
_HEADS = {"num_heads": 4, "kv_num_heads": 2}
"""Heads of 16 numbers."""


def _given(num_tokens: int, *last: int, **more: Given | None) -> list[Given | None]:
    """GroupQueryAttention's inputs over caches of 11 slots. last: the place of each row's last token."""
    told: dict[str, Given | None] = {
        "query": tensor("query", 2, num_tokens, 64),
        "key": tensor("key", 2, num_tokens, 32),
        "value": tensor("value", 2, num_tokens, 32),
        "past_key": tensor("past_key", 2, 2, 11, 16),
        "past_value": tensor("past_value", 2, 2, 11, 16),
        "seqlens_k": numbers("seqlens_k", *last, dtype="int32"),
        "total_sequence_length": numbers("total_sequence_length", max(last) + 1, dtype="int32", shape=()),
    }
    told |= more
    return [told.get(name) for name in _GROUPED]


def _grouped(what: str, inputs: list[Given | None], types: tuple[str, ...] = _BOTH, **more: Unpack[More]) -> list[Case]:
    told: More = {
        "domain": "com.microsoft", "outputs": _OUTPUTS, "loops": _LOOPS, "oracle": "group_query_attention", **more,
        "attributes": {**_HEADS, **more.get("attributes", {})},
    }  # fmt: skip
    return rows("GroupQueryAttention", what, inputs, opsets=(24,), types=types, **told)


_GROWTH = Growth(capacity=11, valid={"seqlens_k": 0, "total_sequence_length": 1})


def _on_caches() -> list[Case]:
    one = _given(1, 7, 4)
    packed = {"query": tensor("query", 2, 1, 128), "key": None, "value": None}
    lengths = numbers("query_seqlens", 3, 2, dtype="int32")
    chunk = _given(3, 7, 4, query_seqlens=lengths)
    bias, sink = tensor("attention_bias", 2, 4, 1, 8), tensor("head_sink", 4)
    square = tensor("attention_bias", 1, 1, 3, 3)
    norms = {name: Given(name=name, shape=(16,), is_weight=True) for name in ("q_norm_weight", "k_norm_weight")}
    ring: Attributes = {"local_window_size": 6, "sliding_window_cache": 1}
    fixed = [each and replace(each, is_fixed=True) for each in _given(3, 2, 2)]
    return [
        *_grouped("a prompt", _given(3, 2, 2), HALF),
        *_grouped("a prompt, no past", _given(3, 2, 2, past_key=None, past_value=None), loops={}),
        *_grouped("a prompt, not causal", _given(3, 2, 2), attributes={"causal": 0}),
        *_grouped("a prompt, window", _given(3, 2, 2), attributes={"local_window_size": 2}),
        *_grouped("a prompt, bias", _given(3, 2, 2, attention_bias=square)),
        *(row for mode in (1, 2) for row in _grouped(
            f"a prompt, scores {mode}", fixed, attributes={"qk_output": mode}, outputs=(*_OUTPUTS, "output_qk"),
        )),
        *_grouped("a chunk of ragged lengths", chunk, HALF),
        *_grouped("one token", one, HALF, growth=_GROWTH),
        *_grouped("one token, packed", _given(1, 7, 4, **packed)),
        *_grouped("one token, window", one, attributes={"local_window_size": 3}),
        *_grouped("one token, window, cache of it", _given(1, 11, 4), attributes=ring),
        *_grouped("one token, softcap", one, attributes={"softcap": 2.0}),
        *_grouped("one token, scale", one, attributes={"scale": 0.5}),
        *_grouped("one token, bias", _given(1, 7, 4, attention_bias=bias)),
        *_grouped("one token, sinks", _given(1, 7, 4, head_sink=sink)),
        *_grouped("one token, smooth_softmax", one, attributes={"smooth_softmax": 1}),
        *_grouped("one token, norms", _given(1, 7, 4, **norms), attributes={"qk_norm_epsilon": 1e-5}),
        *_grouped("one token, norms, an epsilon each", _given(1, 7, 4, **norms),
                  attributes={"q_norm_epsilon": 1e-5, "k_norm_epsilon": 1e-3}),
    ]  # fmt: skip


def _tables(size: int) -> dict[str, Given]:
    return {
        f"{name}_cache": Given(name=f"{name}_cache", shape=(11, size), kind="table", is_weight=True)
        for name in ("cos", "sin")
    }


def _positions() -> list[Case]:
    """With positions turned into it."""
    turned: Attributes = {"do_rotary": 1}
    wide = {
        "query": tensor("query", 2, 1, 128),
        **{name: tensor(name, 2, 1, 64) for name in ("key", "value")},
        **{name: tensor(name, 2, 2, 11, 32) for name in ("past_key", "past_value")},
    }
    places = numbers("position_ids", 3, 2, shape=(2, 1))
    lengths = numbers("query_seqlens", 3, 2, dtype="int32")
    return [
        *_grouped("a prompt, rotary", _given(3, 2, 2, **_tables(8)), attributes=turned),
        *_grouped("a chunk of ragged lengths, rotary", _given(3, 7, 4, query_seqlens=lengths, **_tables(8)),
                  attributes=turned),
        *_grouped("one token, rotary", _given(1, 7, 4, **_tables(8)), HALF, attributes=turned),
        *_grouped("one token, rotary, interleaved", _given(1, 7, 4, **_tables(8)),
                  attributes={**turned, "rotary_interleaved": 1}),
        *_grouped("one token, rotary, part of a head", _given(1, 7, 4, **wide, **_tables(8)), attributes=turned),
        *_grouped("one token, rotary, positions", _given(1, 7, 4, position_ids=places, **_tables(8)),
                  attributes=turned),
    ]  # fmt: skip


def _eight_bits() -> list[Case]:
    """Caches of 8 and 4 bits, with a scale for the tensor or one for each number of a head."""

    def given(dtype: str, size: int, *, by_channel: bool) -> list[Given | None]:
        caches = {
            name: Given(name=name, shape=(2, 2, 11, size), dtype=dtype, kind="bits" if dtype == "uint8" else "normal")
            for name in ("past_key", "past_value")
        }
        many = 32 if by_channel else 1
        scale = 0.03 if dtype == "int8" else 0.4
        scales = {
            name: numbers(name, *(scale * (1 + number / many) for number in range(many)), dtype="float32",
                          shape=(2, 1, 16) if by_channel else (1,))
            for name in ("k_scale", "v_scale")
        }  # fmt: skip
        return _given(1, 7, 4, **caches, **scales)

    made: list[Case] = []
    for dtype, size, bits in (("int8", 16, 8), ("uint8", 8, 4), ("float8e4m3fn", 16, 8)):
        for by_channel in (False, True):
            kind = "PER_CHANNEL" if by_channel else "PER_TENSOR"
            is_main = dtype == "int8" and not by_channel
            name = {"int8": "int8", "uint8": "4 bits", "float8e4m3fn": "float8e4m3fn"}[dtype]
            made += _grouped(
                f"one token, cache of {name}, {'a scale a number' if by_channel else 'one scale'}",
                given(dtype, size, by_channel=by_channel), tolerance=2e-2, growth=_GROWTH if is_main else None,
                attributes={"k_quant_type": kind, "v_quant_type": kind, "kv_cache_bit_width": bits},
            )  # fmt: skip
    return made


_MULTI = (
    "query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value",
    "past_sequence_length", "cache_indirection",
)  # fmt: skip


def _multi_head() -> list[Case]:
    """4 heads of 8; 11 keys, of another text or of a past of 8 and 3 new ones."""

    def given(**more: Given | None) -> list[Given | None]:
        told: dict[str, Given | None] = {
            "query": tensor("query", 2, 3, 32), "key": tensor("key", 2, 11, 32), "value": tensor("value", 2, 11, 32),
        }  # fmt: skip
        told |= more
        return [told.get(name) for name in _MULTI]

    def mask(*shape: int, values: tuple[float, ...] = ()) -> Given:
        return Given(name="key_padding_mask", shape=shape, dtype="int32", kind="values" if values else "bool",
                     values=values)  # fmt: skip

    heads = {"num_heads": 4}
    made = partial(
        rows, "MultiHeadAttention", opsets=(24,), types=_BOTH, domain="com.microsoft", oracle="multi_head_attention"
    )
    past = {name: tensor(name, 2, 4, 5, 8) for name in ("past_key", "past_value")}
    new = {"key": tensor("key", 2, 3, 32), "value": tensor("value", 2, 3, 32)}
    both = {**new, **past}
    crossed = {name: tensor(name, 2, 4, 11, 8) for name in ("key", "value")}
    shared = {name: tensor(name, 2, 4, 11, 8) for name in ("past_key", "past_value")}
    one = {
        "query": tensor("query", 2, 1, 32), "key": tensor("key", 2, 1, 32), "value": tensor("value", 2, 1, 32),
        "past_sequence_length": numbers("past_sequence_length", 5, dtype="int32"), **shared,
    }  # fmt: skip
    beams = numbers("cache_indirection", *[1, 0] * 5, *[0] * 12, dtype="int32", shape=(1, 2, 11))
    return [
        *made("another text's keys", given(), types=HALF, attributes=heads),
        *made("keys of 4 axes", given(**crossed), attributes=heads),
        *made("value heads of another size", given(value=tensor("value", 2, 11, 40)), attributes=heads),
        *made("packed keys and values", given(key=tensor("key", 2, 11, 4, 2, 8), value=None), attributes=heads),
        *made("all packed", given(query=tensor("query", 2, 3, 4, 3, 8), key=None, value=None), attributes=heads),
        *made("bias of the projections", given(bias=tensor("bias", 96)), attributes=heads),
        *made("attention_bias", given(attention_bias=tensor("attention_bias", 1, 4, 3, 11)), attributes=heads),
        *made("mask: lengths", given(key_padding_mask=mask(2, values=(7, 4))), attributes=heads),
        *made("mask: keys", given(key_padding_mask=mask(2, 11)), attributes=heads),
        *made("mask: queries and keys", given(key_padding_mask=mask(2, 3, 11)), attributes=heads),
        *made("mask: places", given(key_padding_mask=mask(8, values=(7, 4, 0, 3, 6, 0, 11, 22))), attributes=heads),
        *made("mask_filter_value", given(key_padding_mask=mask(2, 11)),
              attributes={**heads, "mask_filter_value": -2.0}),
        *made("scale", given(), attributes={**heads, "scale": 0.5}),
        *made("causal", given(**new), attributes={**heads, "unidirectional": 1}),
        *made("past", given(**both), types=HALF, attributes=heads, outputs=_OUTPUTS),
        *made("past, causal", given(**both), attributes={**heads, "unidirectional": 1}, outputs=_OUTPUTS),
        *made("past, mask", given(key_padding_mask=mask(2, 8), **both), attributes=heads, outputs=_OUTPUTS),
        *made("scores", given(), attributes=heads, outputs=("output", "", "", "qk")),
        *made("one token, caches of 11 slots", given(**one), attributes=heads, outputs=_OUTPUTS, loops=_LOOPS),
        *made("one token, caches of 11 slots, beams", given(cache_indirection=beams, **one), attributes=heads,
              outputs=_OUTPUTS, loops=_LOOPS),
    ]  # fmt: skip
