"""What `inspect` says of experts: bytes, and how much of a model one token uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai.inspect import inspect
from genai.inspect.experts import Experts, experts_of, short_count
from genai.inspect.page import page
from tests.build import tiny

E, K, H, M = 8, 2, 64, 32


def graph(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "g", [], [y], tensors)


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def mixture(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, ["x", "r", *inputs], ["y"], domain="com.microsoft", k=K, **attributes)


def test_floats() -> None:
    found = experts_of(
        graph(mixture("MoE", "a", "", "b"), a=floats(E, 2 * M, H), b=floats(E, H, M), other=floats(10, 10))
    )
    held = 3 * M * H
    assert found == Experts(
        num_layers=1, counts=(E, E), chosen=(K, K), num_bytes=4 * E * held, active_bytes=4 * K * held,
        num_parameters=E * held + 100, active_parameters=K * held + 100,
    )  # fmt: skip


@pytest.mark.parametrize("bits", [4, 8])
def test_integers_count_as_what_they_stand_for(bits: int) -> None:
    packed = {
        "a": np.zeros((E, 2 * M, H * bits // 8), np.uint8), "sa": floats(E, 2 * M, H // 32),
        "b": np.zeros((E, H, M * bits // 8), np.uint8), "sb": floats(E, H, M // 32),
    }  # fmt: skip
    found = experts_of(graph(mixture("QMoE", "a", "sa", "", "b", "sb", expert_weight_bits=bits), **packed))
    assert found is not None
    assert (found.num_parameters, found.active_parameters) == (E * 3 * M * H, K * 3 * M * H)
    assert found.num_bytes == sum(weight.nbytes for weight in packed.values())
    assert found.active_bytes == found.num_bytes * K // E


def test_layers_may_differ() -> None:
    weights = {"a": floats(E, 2 * M, H), "b": floats(E, H, M), "c": floats(4, 2 * M, H), "d": floats(4, H, M)}
    found = experts_of(graph(mixture("MoE", "a", "", "b"), mixture("MoE", "c", "", "d"), **weights))
    assert found is not None
    assert (found.counts, found.num_layers) == ((4, E), 2)
    assert found.active_parameters == 2 * K * 3 * M * H
    assert "2 of 4–8 in 2 layers" in found.summary


def test_graphs_without_experts_have_none() -> None:
    assert experts_of(graph(helper.make_node("MatMul", ["x", "a"], ["y"]), a=floats(3, 3))) is None
    assert experts_of(graph(mixture("MoE", "computed", "", "too"))) is None, "no stored weights to count"


def test_numbers_for_people() -> None:
    assert [short_count(count) for count in (7, 1200, 30_500_000_000)] == ["7", "1.2 k", "30.5 B"]


@pytest.mark.parametrize("precision", ["f32", "int8", "int4"])
def test_a_package(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("torch")
    model = tiny.make_model(
        "qwen3_moe", num_experts=E, num_experts_per_tok=K, moe_intermediate_size=M, head_dim=16, mlp_only_layers=[0]
    )
    package = tiny.build(model, tmp_path, precision=precision)
    found = inspect(package).experts
    assert found is not None
    assert (found.num_layers, found.counts, found.chosen) == (2, (E, E), (K, K))
    count, idle = sum(each.numel() for each in model.parameters()), 2 * (E - K) * 3 * M * H
    assert 0 <= found.num_parameters - count < 0.002 * count, "constants of the graph are counted too"
    assert found.num_parameters - found.active_parameters == idle
    assert found.summary in page(inspect(package))
