"""The steps that families' GGUF files are made by."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests.families import gguf_writer
from tests.families.gguf_writer import GgufForm, Step, Tensors

CONFIG = SimpleNamespace(num_hidden_layers=2, num_attention_heads=2, rope_parameters=None)
ROWS = np.arange(8, dtype=np.float32)
SQUARE = np.arange(16).reshape(4, 4)
EXPERTS = {f"model.layers.1.mlp.experts.{index}.up_proj.weight": np.full((1, 1), index) for index in (1, 0, 2)}


@pytest.mark.parametrize(
    ("step", "given", "wanted"),
    [
        (gguf_writer.plus_one(), {"a.norm.weight": ROWS, "a.bias": ROWS}, {"a.norm.weight": ROWS + 1, "a.bias": ROWS}),
        (gguf_writer.mapped("^A_log$", lambda w: -np.exp(w)), {"A_log": ROWS}, {"A_log": -np.exp(ROWS)}),
        (gguf_writer.transposed("conv"), {"conv": ROWS.reshape(2, 4)}, {"conv": ROWS.reshape(2, 4).T}),
        (gguf_writer.PAIRED[0], {"q": ROWS, ".q_proj.": ROWS}, {"q": ROWS, ".q_proj.": [0, 2, 1, 3, 4, 6, 5, 7]}),
        (gguf_writer.renamed(r"^mixer\.(\w+)$", r"attn.\1"), {"mixer.x": ROWS}, {"attn.x": ROWS}),
        (gguf_writer.renamed("rotary", ""), {"a.rotary.b": ROWS, "a": ROWS}, {"a": ROWS}),
        (gguf_writer.split("gate_up", "gate", "up"), {"gate_up.w": ROWS}, {"gate.w": ROWS[:4], "up.w": ROWS[4:]}),
        (gguf_writer.split("kv", "k", "v", axis=1), {"kv": SQUARE}, {"k": SQUARE[:, :2], "v": SQUARE[:, 2:]}),
        (gguf_writer.STACKED, EXPERTS, {"model.layers.1.mlp.experts.up_proj.weight": [[[0]], [[1]], [[2]]]}),
    ],
)  # fmt: skip
def test_steps(step: Step, given: Tensors, wanted: Tensors) -> None:
    got = step(given, CONFIG)
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(got[name], tensor)


SINKS = GgufForm(
    arch="gpt-oss",
    names={
        r"model\.layers\.(\d+)\.self_attn\.sinks": r"blk.\1.attn_sinks.weight",
        r"model\.layers\.(\d+)\.strange": r"blk.\1.known",
    },
)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.norm.weight", "output_norm.weight"),
        ("model.layers.1.self_attn.q_proj.bias", "blk.1.attn_q.bias"),
        ("model.layers.1.self_attn.sinks", "blk.1.attn_sinks.weight"),
        ("model.layers.0.strange.bias", "blk.0.known.bias"),
        ("model.layers.0.mlp.experts.down_proj", "blk.0.ffn_down_exps.weight"),
    ],
)
def test_names(name: str, wanted: str) -> None:
    assert gguf_writer.stored(SINKS, {name: ROWS}, CONFIG).keys() == {wanted}


def test_a_tensor_without_a_name_is_told() -> None:
    with pytest.raises(AssertionError, match=r"model\.stranger\.weight has no name"):
        gguf_writer.stored(SINKS, {"model.stranger.weight": ROWS}, CONFIG)
