"""What an operator should give: onnx.reference for what the standard has, NumPy for what ONNX Runtime adds.

Values of 16 and 8 bits are made float32 first, so that only the runtime rounds. A result is NaN where the operator may
leave anything: slots of a cache that nobody wrote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from genai.conformance.case import Array, Case

Floats: TypeAlias = npt.NDArray[np.float64]
_INTEGERS = ("int32", "int64", "bool")


def expected(case: Case) -> dict[str, Floats]:
    """The outputs by name, those that are asked for."""
    values = {
        each.name: value if str(value.dtype) in _INTEGERS or each.kind == "bits" else value.astype(np.float32)
        for each in case.given()
        if (value := case.values().get(each.name)) is not None
    }
    results = _by_reference(case, values) if case.oracle == "onnx.reference" else _by_numpy(case, values)
    names = [name for name in case.outputs if name]
    return dict(zip(names, (np.asarray(each, np.float64) for each in results), strict=True))


def _by_reference(case: Case, values: Mapping[str, Array]) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    if case.domain == "com.microsoft":  # the standard's operator of that name means the same
        case = dataclasses.replace(case, domain="ai.onnx", opset=27)
    plain = dataclasses.replace(
        case,
        inputs=tuple(
            each and dataclasses.replace(each, dtype=None if each.dtype not in _INTEGERS else each.dtype)
            for each in case.inputs
        ),
    )
    return list(ReferenceEvaluator(plain.model("float32")).run(None, dict(values)))


def _by_numpy(case: Case, values: Mapping[str, Array]) -> list[Floats]:
    floats = {
        name: np.asarray(value, np.float64) if value.dtype == np.float32 else value for name, value in values.items()
    }
    return _ORACLES[case.oracle](floats, case.attributes)


def _group_query_attention(given: Mapping[str, Array], attributes: Mapping[str, object]) -> list[Floats]:
    heads, kv_heads, size = 4, 2, 16
    query, key, value = (
        _floats(given, name).reshape(2, -1, number, size).swapaxes(1, 2)
        for name, number in (("query", heads), ("key", kv_heads), ("value", kv_heads))
    )
    key_scale, value_scale = (float(given[name][0]) if name in given else 1.0 for name in ("k_scale", "v_scale"))
    if "k_scale" in given:  # a cache of 8 bits
        key, value = (np.clip(np.round(new), -128, 127) for new in (key / key_scale, value / value_scale))
    num_tokens = query.shape[2]
    keys, values = (np.array(given[name], np.float64) for name in ("past_key", "past_value"))
    window, cap = int(str(attributes.get("local_window_size", 0))), float(str(attributes.get("softcap", 0)))
    output = np.zeros((2, num_tokens, heads, size))
    for row, last in enumerate(np.asarray(given["seqlens_k"])):
        end = int(last) + 1
        places = np.arange(end - num_tokens, end)
        if "cos_cache" in given:
            query[row], key[row] = (_rotated(each[row], given, places) for each in (query, key))
        keys[row, :, places], values[row, :, places] = key[row].swapaxes(0, 1), value[row].swapaxes(0, 1)
        for head in range(heads):
            its = head * kv_heads // heads
            scores = query[row, head] @ keys[row, its, :end].T / np.sqrt(size) * key_scale
            scores = cap * np.tanh(scores / cap) if cap else scores
            distance = places[:, None] - np.arange(end)
            scores[(distance < 0) | ((distance >= window) if window else False)] = -np.inf
            weights = np.exp(scores)
            total = weights.sum(-1, keepdims=True)
            if "head_sink" in given:
                total = total + np.exp(given["head_sink"][head])
            output[row, :, head] = weights / total @ values[row, its, :end] * value_scale
        keys[row, :, end:] = values[row, :, end:] = np.nan
    return [output.reshape(2, num_tokens, heads * size), keys, values]


def _rotated(x: Floats, given: Mapping[str, Array], places: npt.NDArray[np.int64]) -> Floats:
    """x: [H, T, D], in halves."""
    cos, sin = (np.asarray(given[f"{name}_cache"], np.float64)[places] for name in ("cos", "sin"))
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def _matmul_nbits(given: Mapping[str, Array], attributes: Mapping[str, object]) -> list[Floats]:
    bits = int(str(attributes["bits"]))
    weight = _unpacked(given["B"], bits).astype(np.float64)
    points = given.get("zero_points")
    if points is None:
        zeros = np.full(weight.shape[:2], 2.0 ** (bits - 1))
    elif points.dtype == np.uint8:
        zeros = _unpacked(points, bits)[:, : weight.shape[1]].astype(np.float64)
    else:
        zeros = np.asarray(points, np.float64)
    dense = (weight - zeros[..., None]) * _floats(given, "scales")[..., None]
    result = _floats(given, "A") @ dense.reshape(weight.shape[0], -1).T
    return [result + _floats(given, "bias") if "bias" in given else result]


def _gather_blocks(given: Mapping[str, Array], attributes: Mapping[str, object]) -> list[Floats]:
    bits = int(str(attributes["bits"]))
    table = _unpacked(given["data"], bits).astype(np.float64) - 2.0 ** (bits - 1)
    scales = np.repeat(_floats(given, "scales"), 32, axis=1)
    return [(table * scales)[given["indices"]]]


def _experts(given: Mapping[str, Array], attributes: Mapping[str, object]) -> list[Floats]:
    """MoE and QMoE: the softmax over each token's two best, swiglu with gate and up in turn."""
    x, logits = _floats(given, "input"), _floats(given, "router_probs")
    inner, outer = (_dense(given, attributes, f"fc{number}") for number in (1, 2))
    output = np.zeros_like(x)
    for token, row in enumerate(logits):
        best = np.argsort(-row)[:2]
        shares = np.exp(row[best] - row[best].max())
        for expert, share in zip(best, shares / shares.sum(), strict=True):
            middle = inner[expert] @ x[token]
            is_gated = attributes["activation_type"] == "swiglu"
            middle = _silu(middle[0::2]) * middle[1::2] if is_gated else _silu(middle)
            output[token] += share * (outer[expert] @ middle)
    return [output]


def _dense(given: Mapping[str, Array], attributes: Mapping[str, object], name: str) -> Floats:
    weight = given[f"{name}_experts_weights"]
    if "expert_weight_bits" not in attributes:
        return np.asarray(weight, np.float64)
    bits = int(str(attributes["expert_weight_bits"]))
    return np.asarray((_unpacked(weight, bits) - 2.0 ** (bits - 1)) * _floats(given, f"{name}_scales"), np.float64)


def _skip_norm(given: Mapping[str, Array], attributes: Mapping[str, object]) -> list[Floats]:
    total = _floats(given, "input") + _floats(given, "skip")
    return [_rms(total, attributes) * _floats(given, "gamma"), total]


def _gated_rms_norm(given: Mapping[str, Array], attributes: Mapping[str, object]) -> list[Floats]:
    x = _floats(given, "X").reshape(2, 3, 4, 8)
    normed = (_rms(x, attributes) * _floats(given, "scale")).reshape(2, 3, 32)
    return [normed * _silu(_floats(given, "gate"))]


def _floats(given: Mapping[str, Array], name: str) -> Floats:
    return np.asarray(given[name], np.float64)


def _rms(x: Floats, attributes: Mapping[str, object]) -> Floats:
    root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + float(str(attributes["epsilon"])))
    return np.asarray(x / root, np.float64)


def _silu(x: Floats) -> Floats:
    return np.asarray(x / (1 + np.exp(-x)), np.float64)


def _unpacked(data: Array, bits: int) -> npt.NDArray[np.uint8]:
    """Bytes [..., n] as numbers [..., n * 8 / bits], the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = np.asarray(data, np.uint8)[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return numbers.reshape(*data.shape[:-1], -1)


_ORACLES: Mapping[str, Callable[[Mapping[str, Array], Mapping[str, object]], list[Floats]]] = {
    "group_query_attention": _group_query_attention,
    "matmul_nbits": _matmul_nbits,
    "gather_blocks": _gather_blocks,
    "experts": _experts,
    "skip_norm": _skip_norm,
    "gated_rms_norm": _gated_rms_norm,
}
