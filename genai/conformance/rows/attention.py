"""Attention and FlexAttention of the standard: each input, each attribute, and what models combine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import onnx
from onnx import helper

from genai.conformance.case import HALF, Attributes, Case, Given, Growth, numbers, onnx_dtype, rows, tensor
from genai.contract import NONPAD_KV_SEQLEN

_Form = tuple[str, Sequence[Given | None], Attributes]

_BOTH = HALF[:2]
_HEADS = {"q_num_heads": 4, "kv_num_heads": 2}
_CAUSAL = {**_HEADS, "is_causal": 1}
_PRESENT = ("output", "present_key", "present_value")
_SCORES = ("output", "", "", "qk_matmul_output")

_Q, _K, _V = tensor("Q", 2, 3, 32), tensor("K", 2, 11, 16), tensor("V", 2, 11, 16)
_NEW = (tensor("K", 2, 3, 16), tensor("V", 2, 3, 16))
_PAST = (tensor("past_key", 2, 2, 5, 8), tensor("past_value", 2, 2, 5, 8))
_FOUR = (tensor("Q", 2, 4, 3, 8), tensor("K", 2, 2, 11, 8), tensor("V", 2, 2, 11, 8))
_FOUR_NEW = (_FOUR[0], tensor("K", 2, 2, 3, 8), tensor("V", 2, 2, 3, 8))
_ADDED = tensor("attn_mask", 3, 11)


def attention_cases() -> list[Case]:
    """All rows of Attention and of the preview's FlexAttention."""
    return [*_plain(), *_with_past(), *_scores(), *_on_caches(), *_windows(), *_flexible()]


def _truths(*shape: int) -> Given:
    return Given(name="attn_mask", shape=shape, dtype="bool", kind="bool")


def _made(
    forms: Sequence[_Form],
    opsets: Sequence[int] = (23, 24, 25),
    types: Sequence[str] = _BOTH,
    outputs: tuple[str, ...] = ("output",),
) -> list[Case]:
    return [
        case
        for what, inputs, attributes in forms
        for case in rows("Attention", what, inputs, opsets=opsets, types=types, attributes=attributes, outputs=outputs)
    ]


def _plain() -> list[Case]:
    """Without a cache."""
    blind = numbers("attn_mask", *[1] * 11, *[0] * 11, *[1] * 11, dtype="bool", shape=(3, 11))
    square = [_Q, *_NEW]
    main: list[_Form] = [
        ("3 axes, grouped heads", [_Q, _K, _V], _HEADS),
        ("causal", square, _CAUSAL),
    ]
    forms: list[_Form] = [
        ("4 axes, grouped heads", _FOUR, {}),
        ("4 axes, causal", _FOUR_NEW, {"is_causal": 1}),
        ("as many heads of keys", [_Q, tensor("K", 2, 11, 32), tensor("V", 2, 11, 32)], _HEADS | {"kv_num_heads": 4}),
        ("one head of keys", [_Q, tensor("K", 2, 11, 8), tensor("V", 2, 11, 8)], _HEADS | {"kv_num_heads": 1}),
        ("value heads of another size", [_Q, _K, tensor("V", 2, 11, 10)], _HEADS),
        ("mask of truths", [_Q, _K, _V, _truths(2, 1, 3, 11)], _HEADS),
        ("mask of truths, 2 axes", [_Q, _K, _V, _truths(3, 11)], _HEADS),
        ("mask of numbers", [_Q, _K, _V, _ADDED], _HEADS),
        ("mask of numbers, 3 axes", [_Q, _K, _V, tensor("attn_mask", 4, 3, 11)], _HEADS),
        ("mask of numbers, one a head", [_Q, _K, _V, tensor("attn_mask", 2, 4, 3, 11)], _HEADS),
        ("a query that sees no key", [_Q, _K, _V, blind], _HEADS),
        ("causal, mask of truths", [*square, _truths(3, 3)], _CAUSAL),
        ("causal, mask of numbers", [*square, tensor("attn_mask", 3, 3)], _CAUSAL),
        ("scale", [_Q, _K, _V], {**_HEADS, "scale": 0.5}),
        ("softcap", [_Q, _K, _V], {**_HEADS, "softcap": 2.0}),
        ("softcap, causal", square, {**_CAUSAL, "softcap": 2.0}),
        ("softcap, mask of truths", [_Q, _K, _V, _truths(3, 11)], {**_HEADS, "softcap": 2.0}),
        ("softcap, mask of numbers", [_Q, _K, _V, _ADDED], {**_HEADS, "softcap": 2.0}),
    ]  # fmt: skip
    short: list[_Form] = [("mask shorter than the keys", [_Q, _K, _V, tensor("attn_mask", 3, 7)], _HEADS)]
    return [*_made(main, (23, 24, 25, 28), HALF), *_made(forms), *_softmax_precisions(), *_made(short, (24, 25))]


def _softmax_precisions() -> list[Case]:
    """A kernel may be more precise than it is asked to be: right is what the type asked for allows."""
    tolerances = {"double": None, "float32": None, "float16": 5e-3, "bfloat16": 4e-2}
    return [
        case
        for name, tolerance in tolerances.items()
        for case in rows(
            "Attention", f"softmax_precision {name}", [_Q, _K, _V], opsets=(23, 24, 25), types=_BOTH,
            attributes={**_HEADS, "softmax_precision": onnx_dtype(name)}, tolerance=tolerance,
        )
    ]  # fmt: skip


def _with_past() -> list[Case]:
    """With keys and values that the operator joins to what it is given."""
    past = [_Q, *_NEW, None, *_PAST]
    masked = [_Q, *_NEW, tensor("attn_mask", 3, 8), *_PAST]
    all_at_once = {**_CAUSAL, "scale": 0.5, "softcap": 2.0, "softmax_precision": 1}
    main: list[_Form] = [("past, causal", past, _CAUSAL)]
    forms: list[_Form] = [
        ("past", past, _HEADS),
        ("past, 4 axes, causal", [*_FOUR_NEW, None, *_PAST], {"is_causal": 1}),
        ("past, one token, causal", [tensor("Q", 2, 1, 32), *_one_token(), None, *_PAST], _CAUSAL),
        ("past, mask of truths", [_Q, *_NEW, _truths(3, 8), *_PAST], _HEADS),
        ("past, mask of numbers", masked, _HEADS),
        ("past, mask of truths, causal", [_Q, *_NEW, _truths(3, 8), *_PAST], _CAUSAL),
        ("past, mask, causal, scale, softcap, softmax_precision", masked, all_at_once),
    ]
    return [*_made(main, types=HALF, outputs=_PRESENT), *_made(forms, outputs=_PRESENT)]


def _one_token() -> list[Given]:
    return [tensor("K", 2, 1, 16), tensor("V", 2, 1, 16)]


def _scores() -> list[Case]:
    """Its fourth output. Lengths are declared, for the runtime infers 0 for those left open."""
    fixed = [replace(each, is_fixed=True) for each in (*_FOUR, _ADDED)]
    square = [replace(each, is_fixed=True) for each in _FOUR_NEW]
    forms: list[_Form] = [
        *((f"scores, mode {mode}, softcap, mask", fixed, {"softcap": 2.0, "qk_matmul_output_mode": mode})
          for mode in range(4)),
        *((f"scores, mode {mode}, causal", square, {"is_causal": 1, "qk_matmul_output_mode": mode})
          for mode in range(4)),
    ]  # fmt: skip
    left_open: list[_Form] = [("scores, open lengths", _FOUR, {})]
    return [*_made(forms, outputs=_SCORES), *_made(left_open, types=("float32",), outputs=_SCORES)]


def _on_caches() -> list[Case]:
    """Over a cache that something else wrote: how many entries of each row are valid."""

    def given(*valid: int, num_tokens: int = 3, mask: Given | None = None) -> list[Given | None]:
        return [tensor("Q", 2, num_tokens, 32), _K, _V, mask, None, None, numbers(NONPAD_KV_SEQLEN, *valid)]

    tail = [None, None, None, numbers(NONPAD_KV_SEQLEN, 7, 4)]
    twice = [_Q, _K, Given(name="V", shape=_K.shape, same_as="K"), *tail]
    main: list[_Form] = [("valid lengths, causal", given(7, 4), _CAUSAL)]
    forms: list[_Form] = [
        ("valid lengths", given(7, 4), _HEADS),
        ("valid lengths, 4 axes, causal", [*_FOUR, *tail], {"is_causal": 1}),
        ("valid lengths, softcap, causal", given(7, 4), {**_CAUSAL, "softcap": 2.0}),
        ("valid lengths, keys as values", twice, _CAUSAL),
        ("valid lengths, one of none", given(7, 0), _HEADS),
        ("valid lengths, fewer than tokens, causal", given(7, 2), _CAUSAL),
        ("valid lengths, mask of truths", given(7, 4, mask=_truths(2, 1, 3, 11)), _HEADS),
        ("valid lengths, mask of numbers", given(7, 4, mask=tensor("attn_mask", 2, 1, 3, 11)), _HEADS),
        ("valid lengths, mask of truths, causal", given(7, 4, mask=_truths(3, 11)), _CAUSAL),
        ("valid lengths, shorter mask", given(7, 4, mask=tensor("attn_mask", 3, 7)), _HEADS),
    ]  # fmt: skip
    one = rows(
        "Attention", "valid lengths, one token", given(7, 4, num_tokens=1), opsets=(24, 25), types=_BOTH,
        attributes=_CAUSAL, growth=Growth(capacity=11, valid={NONPAD_KV_SEQLEN: 1}),
    )  # fmt: skip
    opsets = (24, 25)
    return [*_made(main, opsets, HALF), *one, *_made(forms, opsets)]


def _windows() -> list[Case]:
    square, opsets = [_Q, *_NEW], (25,)
    both = {"left_window_size": 1, "right_window_size": 1}
    left = {**_CAUSAL, "left_window_size": 1}
    forms: list[_Form] = [
        ("window to the left, causal", square, left),
        ("window to the right", square, {**_HEADS, "right_window_size": 1}),
        ("windows to both sides", square, {**_HEADS, **both}),
        ("windows of 0", square, {**_HEADS, "left_window_size": 0, "right_window_size": 0}),
        ("window, 4 axes, causal", _FOUR_NEW, {"is_causal": 1, "left_window_size": 1}),
        ("window, mask", [*square, tensor("attn_mask", 3, 3)], left),
        ("window, valid lengths", [_Q, _K, _V, None, None, None, numbers(NONPAD_KV_SEQLEN, 7, 4)], left),
    ]
    past: list[_Form] = [("window, past", [_Q, *_NEW, None, *_PAST], left)]
    return [*_made(forms, opsets), *_made(past, opsets, outputs=_PRESENT)]


def _flexible() -> list[Case]:
    made = partial(rows, "FlexAttention", domain="ai.onnx.preview", opsets=(26,))
    bent = _modifier("Tanh")
    return [
        *made("plain", _FOUR, types=_BOTH),
        *made("scale, softmax_precision", _FOUR, attributes={"scale": 0.5, "softmax_precision": 1}),
        *made("score_mod", _FOUR, attributes={"score_mod": bent}),
        *made("prob_mod", _FOUR, attributes={"prob_mod": bent}),
    ]


def _modifier(operator: str) -> onnx.GraphProto:
    """[B, H, T, S] float32 -> the same, bent."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4) for name in ("x", "y")]
    return helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "modifier", values[:1], values[1:])
