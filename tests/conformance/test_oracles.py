"""The oracles in NumPy against onnx.reference, where an operator of the standard means the same in other words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from genai.conformance import all_cases
from genai.conformance.case import Case
from genai.conformance.oracles import expected

Array: TypeAlias = npt.NDArray[np.generic]
CASES = {case.name: case for case in all_cases()}


def row(name: str) -> tuple[Case, Mapping[str, Array], dict[str, npt.NDArray[np.float64]]]:
    """(a row of com.microsoft, its values, its oracle's results)."""
    case = CASES[f"com.microsoft.{name} float32"]
    return case, case.values(), expected(case)


def standard(operator: str, given: Mapping[str, Array | None], **attributes: float | str) -> list[Array]:
    """All of a standard operator's outputs at opset 27, computed by onnx.reference."""
    kept = {name: value for name, value in given.items() if value is not None}
    kinds = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in kept]
    outputs = {"Attention": ["y", "k", "v"], "LinearAttention": ["y", "s"], "CausalConvWithState": ["y", "s"]}
    names = outputs.get(operator, ["y"])
    node = helper.make_node(operator, [name if name in kept else "" for name in given], names, **attributes)
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
    model = helper.make_model(
        helper.make_graph([node], "one", kinds, results), opset_imports=[helper.make_opsetid("", 27)]
    )
    found: list[Array] = ReferenceEvaluator(model).run(None, kept)
    return found


def near(ours: Array, theirs: Array) -> bool:
    seen = ~np.isnan(np.asarray(ours, np.float64))
    return bool(np.abs(ours - theirs)[seen].max() < 1e-5)


@pytest.mark.parametrize(
    ("what", "attributes"),
    [("another text's keys", {}), ("scale", {"scale": 0.5}), ("causal", {"is_causal": 1}), ("attention_bias", {}),
     ("mask: queries and keys", {}), ("past", {}), ("past, causal", {"is_causal": 1})],
)  # fmt: skip
def test_multi_head_attention(what: str, attributes: Mapping[str, float]) -> None:
    _, values, ours = row(f"MultiHeadAttention-24 {what}")
    mask = values.get("attention_bias")
    if "key_padding_mask" in values:
        mask = np.asarray(values["key_padding_mask"] != 0)[:, None]
    given = {"Q": values["query"], "K": values["key"], "V": values["value"], "mask": mask,
             "past_key": values.get("past_key"), "past_value": values.get("past_value")}  # fmt: skip
    y, k, _ = standard("Attention", given, q_num_heads=4, kv_num_heads=4, **attributes)
    assert near(ours["output"], y)
    assert "present_key" not in ours or near(ours["present_key"], k)


@pytest.mark.parametrize(
    ("what", "attributes"),
    [("a prompt", {}), ("one token", {}), ("one token, rotary", {}), ("one token, softcap", {"softcap": 2.0}),
     ("one token, scale", {"scale": 0.5}), ("one token, window", {"left_window_size": 2})],
)  # fmt: skip
def test_group_query_attention(what: str, attributes: Mapping[str, float]) -> None:
    """Over the caches as the oracle leaves them; queries are turned by the standard's RotaryEmbedding."""
    _, values, ours = row(f"GroupQueryAttention-24 {what}")
    query, last = values["query"], np.asarray(values["seqlens_k"])
    if "cos_cache" in values:
        given = {"X": query, "cos": values["cos_cache"], "sin": values["sin_cache"], "places": last[:, None]}
        (query,) = standard("RotaryEmbedding", given, num_heads=4)
    keys, cached = (np.nan_to_num(ours[f"present_{name}"]).astype(np.float32) for name in ("key", "value"))
    by_head = query.reshape(2, -1, 4, 16).swapaxes(1, 2)
    given = {"Q": by_head, "K": keys, "V": cached, "mask": None, "past_key": None, "past_value": None,
             "valid": (last + 1).astype(np.int64)}  # fmt: skip
    y = standard("Attention", given, is_causal=1, **attributes)[0]
    assert near(ours["output"], y.swapaxes(1, 2).reshape(ours["output"].shape))


def test_a_window_of_states_ends_with_the_last() -> None:
    case, values, ours = row("LinearAttention-24 gated_delta, window of 2 states")
    given = {**values, "past_state": values["past_state"][-1]}
    ordered = {each.name: given[each.name] for each in case.given()}
    y, state = standard("LinearAttention", ordered, q_num_heads=4, kv_num_heads=2, update_rule="gated_delta")
    assert near(ours["output"], y)
    assert near(ours["present_state"][-1], state)
    short = {name: value if name == "past_state" else value[:, :-1] for name, value in ordered.items()}
    before = standard("LinearAttention", short, q_num_heads=4, kv_num_heads=2, update_rule="gated_delta")[1]
    assert near(ours["present_state"][0], before)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_gated_delta_net(rule: str) -> None:
    """Two heads of queries and keys, each given twice, are the standard's four."""
    _, values, ours = row(f"GatedDeltaNet-24 {rule}")
    query, key = (np.repeat(values[name], 2, axis=1).reshape(2, 3, 32) for name in ("query", "key"))
    decay, beta = (values[name].reshape(2, 3, 4) if name in values else None for name in ("decay", "beta"))
    given = {"query": query, "key": key, "value": values["value"].reshape(2, 3, 24),
             "past_state": values["initial_state"].swapaxes(2, 3), "decay": decay, "beta": beta}  # fmt: skip
    y, state = standard("LinearAttention", given, q_num_heads=4, kv_num_heads=4, update_rule=rule)
    assert near(ours["output"], y.reshape(6, 4, 6))
    assert near(ours["final_state"], state.swapaxes(2, 3))


def test_causal_conv() -> None:
    """Dilated taps are taps with zeros between them; channels last are channels first, turned."""
    _, values, ours = row("CausalConvWithState-24 dilation 2")
    wide = np.zeros((6, 1, 7), np.float32)
    wide[:, :, ::2] = values["weight"]
    y, state = standard("CausalConvWithState", {**values, "weight": wide}, activation="silu")
    assert near(ours["output"], y)
    assert near(ours["present_state"], state)
    _, values, ours = row("CausalConvWithState-24 channels last")
    turned = {name: values[name].swapaxes(1, 2) for name in ("input", "past_state")}
    y, state = standard("CausalConvWithState", {**values, **turned}, activation="silu")
    assert near(ours["output"], y.swapaxes(1, 2))
    assert near(ours["present_state"], state.swapaxes(1, 2))


def test_norms_positions_and_activations() -> None:
    _, values, ours = row("SkipSimplifiedLayerNormalization-24 with the sum, bias")
    total = np.asarray(values["input"] + values["skip"] + values["bias"], np.float32)
    assert near(ours["output"], standard("RMSNormalization", {"x": total, "scale": values["gamma"]}, epsilon=1e-5)[0])
    _, values, ours = row("SkipLayerNormalization-24 with the sum")
    given = {"x": values["input"] + values["skip"], "scale": values["gamma"], "shift": values["beta"]}
    assert near(ours["output"], standard("LayerNormalization", given, epsilon=1e-5)[0])
    for what, attributes in (("3 axes", {}), ("3 axes, interleaved", {"interleaved": 1})):
        _, values, ours = row(f"RotaryEmbedding-24 {what}")
        given = {"x": values["input"], "cos": values["cos_cache"], "sin": values["sin_cache"],
                 "places": values["position_ids"]}  # fmt: skip
        assert near(ours["output"], standard("RotaryEmbedding", given, num_heads=4, **attributes)[0])
    _, values, ours = row("QuickGelu-24 alpha 1")
    assert near(ours["output"], standard("Swish", {"x": values["X"]})[0])
    _, values, ours = row("FastGelu-24 plain")
    assert near(ours["output"], standard("Gelu", {"x": values["X"]}, approximate="tanh")[0])
