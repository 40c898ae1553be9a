"""Operators of recurrent layers: the standard's, and ONNX Runtime's of the same names and beyond."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from genai.conformance.case import HALF, Attributes, Case, Domain, Given, numbers, rows, tensor, weight

_BOTH = HALF[:2]


def recurrent_cases(domain: Domain) -> list[Case]:
    """The rows of one domain."""
    if domain == "ai.onnx":
        return [*_linear_attention(domain, (27, 28)), *_causal_conv(domain, (27, 28))]
    return [
        *_linear_attention(domain, (24,)), *_windowed_linear(), *_causal_conv(domain, (24,)), *_conv_forms(),
        *_gated_delta_net(), *_gated_norm(),
    ]  # fmt: skip


def _attention_inputs(rule: str, num_tokens: int = 3, *, decays: int = 1, past: Given | None) -> list[Given | None]:
    """4 heads, 2 of keys and values, states [2, 2, 8, 6]."""
    return [
        tensor("query", 2, num_tokens, 32),
        Given(name="key", shape=(2, num_tokens, 16), kind="small"),
        tensor("value", 2, num_tokens, 12),
        past,
        Given(name="decay", shape=(2, num_tokens, 2 * decays), kind="small") if "gated" in rule else None,
        Given(name="beta", shape=(2, num_tokens, 2), kind="small") if "delta" in rule else None,
    ]


def _linear_attention(domain: Domain, opsets: Sequence[int]) -> list[Case]:
    state = tensor("past_state", 2, 2, 8, 6)

    def made(what: str, rule: str, inputs: Sequence[Given | None], **more: float) -> list[Case]:
        return rows(
            "LinearAttention", what, inputs, opsets=opsets, types=HALF if what == "gated_delta" else _BOTH,
            attributes={"q_num_heads": 4, "kv_num_heads": 2, "update_rule": rule, **more},
            outputs=("output", "present_state"), domain=domain,
            loops={"present_state": "past_state"} if inputs[3] is not None else {},
        )  # fmt: skip

    rule = "gated_delta"
    return [
        *(row for each in ("linear", "gated", "delta", rule)
          for row in made(each, each, _attention_inputs(each, past=state))),
        *made(f"{rule}, one token", rule, _attention_inputs(rule, 1, past=state)),
        *made(f"{rule}, no state", rule, _attention_inputs(rule, past=None)),
        *made(f"{rule}, scale", rule, _attention_inputs(rule, past=state), scale=0.5),
        *made(f"{rule}, chunks of 2", rule, _attention_inputs(rule, past=state), chunk_size=2),
        *made("gated, a decay for each number", "gated", _attention_inputs("gated", decays=8, past=state)),
    ]  # fmt: skip


def _windowed_linear() -> list[Case]:
    """States of the last two tokens, as speculation wants them."""
    return rows(
        "LinearAttention", "gated_delta, window of 2 states",
        _attention_inputs("gated_delta", past=tensor("past_state", 2, 2, 2, 8, 6)), opsets=(24,), types=_BOTH,
        attributes={"q_num_heads": 4, "kv_num_heads": 2, "update_rule": "gated_delta", "state_window": 2},
        outputs=("output", "present_state"), domain="com.microsoft", oracle="windowed_linear_attention",
    )  # fmt: skip


_CONV = (weight("weight", 6, 1, 4, kind="normal"), weight("bias", 6, kind="normal"))
"""6 channels, a kernel of 4."""


def _causal_conv(domain: Domain, opsets: Sequence[int]) -> list[Case]:
    def made(what: str, num_tokens: int = 5, *, is_bare: bool = False, activation: str = "silu") -> list[Case]:
        given: list[Given | None] = [tensor("input", 2, 6, num_tokens), *_CONV, tensor("past_state", 2, 6, 3)]
        return rows(
            "CausalConvWithState", what, given[:2] if is_bare else given, opsets=opsets,
            types=HALF if what == "silu" else _BOTH, attributes={"activation": activation},
            outputs=("output", "present_state"), domain=domain,
            loops={} if is_bare else {"present_state": "past_state"},
        )  # fmt: skip

    return [
        *made("none", activation="none"), *made("silu"), *made("swish", activation="swish"),
        *made("silu, one token", 1), *made("silu, no bias, no state", is_bare=True),
    ]  # fmt: skip


def _conv_forms() -> list[Case]:
    """What com.microsoft's has beyond the standard's."""
    made = partial(
        rows, "CausalConvWithState", opsets=(24,), types=_BOTH, outputs=("output", "present_state"),
        domain="com.microsoft", oracle="causal_conv",
    )  # fmt: skip
    loop = {"present_state": "past_state"}
    deep: Attributes = {"activation": "silu", "dilation": 2}
    return [
        *made("dilation 2", [tensor("input", 2, 6, 5), *_CONV, tensor("past_state", 2, 6, 6)], attributes=deep,
              loops=loop),
        *made("channels last", [tensor("input", 2, 5, 6), *_CONV, tensor("past_state", 2, 3, 6)],
              attributes={"activation": "silu", "channels_last": 1}, loops=loop),
        *made("window of 2 states", [tensor("input", 2, 6, 5), *_CONV, tensor("past_state", 2, 2, 6, 3)],
              attributes={"activation": "silu", "state_window": 2}),
        *made("2 axes of places", [tensor("input", 2, 6, 3, 5), weight("weight", 6, 1, 1, 4, kind="normal"), _CONV[1],
                                   tensor("past_state", 2, 6, 3, 3)],
              attributes={"activation": "silu", "ndim": 2}, loops=loop),
    ]  # fmt: skip


def _gated_delta_net() -> list[Case]:
    """Packed by tokens: 6 of them, 2 heads of queries and keys, 4 of values, states [2, 4, 6, 8] in float32."""

    def given(
        rule: str = "gated_delta",
        *,
        is_packed: bool = False,
        decays: int = 0,
        lengths: Given | None = None,
        gates: Sequence[Given | None] = (None, None),
    ) -> list[Given | None]:
        q, k = (Given(name=name, shape=(6, 2, 8), kind="small") for name in ("query", "key"))
        v = tensor("value", 6, 4, 6)
        if is_packed:
            q = Given(name="query", shape=(6, 56), kind="small")
        decay = Given(name="decay", shape=(6, 4, decays) if decays else (6, 4), dtype="float32", kind="minus")
        beta = Given(name="beta", shape=(6, 4), dtype="float32", kind="small")
        state = Given(name="initial_state", shape=(2, 4, 6, 8), dtype="float32")
        return [
            q, None if is_packed else k, None if is_packed else v, lengths,
            decay if "gated" in rule else None, beta if "delta" in rule else None, state, *gates,
        ]  # fmt: skip

    made = partial(
        rows, "GatedDeltaNet", opsets=(24,), domain="com.microsoft", outputs=("output", "final_state"),
        loops={"final_state": "initial_state"}, oracle="gated_delta_net",
    )  # fmt: skip
    ragged = numbers("cu_seqlens", 0, 4, 6, dtype="int32")
    gates = [Given(name=name, shape=(4,), dtype="float32", is_weight=True) for name in ("a_log", "dt_bias")]
    by_axes: list[Given | None] = [
        each and Given(name=each.name, shape=(2, 3, *each.shape[1:]), dtype=each.dtype, kind=each.kind)
        for each in given()[:6]
    ]
    return [
        *made("gated_delta", given(), types=HALF),
        *(row for rule in ("linear", "gated", "delta")
          for row in made(rule, given(rule), attributes={"update_rule": rule})),
        *made("gated_delta, ragged lengths", given(lengths=ragged), types=_BOTH),
        *made("gated_delta, packed", given(is_packed=True), types=_BOTH),
        *made("gated_delta, 4 axes", [*by_axes, given()[6]]),
        *made("gated_delta, a decay for each number", given(decays=8)),
        *made("gated_delta, scale, chunks of 32", given(), attributes={"scale": 0.5, "chunk_size": 32}),
        *made("gated_delta, gates by softplus, norms", given(gates=gates), types=_BOTH,
              attributes={"gate_activation": "softplus", "beta_activation": "sigmoid", "qk_l2_norm": 1}),
        *made("gated_delta, gates by sigmoid", given(gates=gates),
              attributes={"gate_activation": "sigmoid", "gate_lower_bound": -2.0}),
    ]  # fmt: skip


def _gated_norm() -> list[Case]:
    given = [tensor("X", 2, 3, 32), Given(name="scale", shape=(8,), is_weight=True), tensor("gate", 2, 3, 32)]
    made = partial(rows, "GatedRMSNorm", inputs=given, opsets=(24,), domain="com.microsoft", oracle="gated_rms_norm")
    return [
        *made("silu", types=HALF, attributes={"activation": "silu", "epsilon": 1e-5}),
        *made("sigmoid", types=_BOTH, attributes={"activation": "sigmoid", "epsilon": 1e-5}),
    ]
