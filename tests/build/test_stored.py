"""Checkpoints with names and layouts of their own, read under ours."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from genai.build.source import BlockWeight, FloatArray
from genai.build.stored import StoredForm, StoredSource
from genai.errors import WeightsError

GPT2 = StoredForm(
    outside={"transformer.h": "model.layers", "transformer": "model", "transformer.wte": "model.embed_tokens"},
    inside={
        "attn.c_attn": "self_attn.qkv_proj",
        "experts.*.w1": "mlp.experts.*.gate_proj",
        "ln_1": "norm",
        "experts.inner": "mlp.experts.*.gate_up_proj",
        "experts.inner_bias": "mlp.experts.*.gate_up_proj.bias",
    },
    ignored=frozenset({"attn.bias", "vision"}),
    transposed=frozenset({"self_attn.qkv_proj", "mlp.experts.*.gate_up_proj"}),
    rows={"self_attn.qkv_proj": np.array([2, 0, 1]), "mlp.experts.*.gate_proj": np.array([1, 0])},
)


class Arrays:
    """A checkpoint in memory; what is two-dimensional has blocks too."""

    def __init__(self, arrays: dict[str, FloatArray]) -> None:
        self.config: dict[str, object] = {}
        self._arrays = arrays
        self.items_read: list[int] = []

    def names(self) -> Collection[str]:
        return self._arrays.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        return self._arrays[name][rows or slice(None)]

    def read_item(self, name: str, index: int) -> FloatArray:
        self.items_read.append(index)
        return self._arrays[name][index]

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        values = self._arrays[name][rows or slice(None)].astype(np.uint8)
        scales = np.ones((len(values), 1), np.float32)
        return BlockWeight(values=values, scales=scales, bits=8, block_size=32) if values.ndim == 2 else None

    def read_item_blocks(self, name: str, index: int) -> BlockWeight | None:
        return None


def source(**arrays: FloatArray) -> StoredSource:
    return StoredSource(Arrays({name.replace("__", "."): array for name, array in arrays.items()}), GPT2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stored", "ours"),
    [
        ("transformer.wte.weight", "model.embed_tokens.weight"),
        ("transformer.h.11.attn.c_attn.bias", "model.layers.11.self_attn.qkv_proj.bias"),
        ("transformer.h.1.experts.7.w1.weight", "model.layers.1.mlp.experts.7.gate_proj.weight"),
        ("transformer.h.1.experts.inner.weight", "model.layers.1.mlp.experts.*.gate_up_proj.weight"),
        ("transformer.h.1.ln_10.weight", "model.layers.1.ln_10.weight"),
        ("transformer.ln_f.weight", "model.ln_f.weight"),
        ("transformers.h.1.ln_1.weight", "transformers.h.1.ln_1.weight"),
        ("transformer.h.1.attn.bias", None),
        ("vision.tower.weight", None),
        ("visions.weight", "visions.weight"),
    ],
)
def test_names_are_translated_at_dots(stored: str, ours: str | None) -> None:
    assert GPT2.our_name(stored) == ours


def test_transposed_and_reordered() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    checkpoint = source(
        transformer__h__0__attn__c_attn__weight=weight,
        transformer__h__0__attn__c_attn__bias=np.arange(3, dtype=np.float32),
        transformer__h__0__experts__0__w1__weight=weight,
        vision__weight=weight,
    )
    fused, expert = "model.layers.0.self_attn.qkv_proj", "model.layers.0.mlp.experts.0.gate_proj.weight"
    assert set(checkpoint.names()) == {f"{fused}.weight", f"{fused}.bias", expert}
    assert checkpoint.shape(f"{fused}.weight") == (3, 2)
    np.testing.assert_array_equal(checkpoint.read(f"{fused}.weight"), weight.T[[2, 0, 1]])
    np.testing.assert_array_equal(checkpoint.read(f"{fused}.bias"), [2, 0, 1])
    assert checkpoint.read_blocks(f"{fused}.weight") is None, "blocks run along the other axis"
    blocks = checkpoint.read_blocks(expert)
    assert blocks is not None
    np.testing.assert_array_equal(blocks.values, weight[[1, 0]])


def test_errors_name_what_is_stored() -> None:
    weight = np.zeros((2, 2), np.float32)
    with pytest.raises(WeightsError, match=r"both 'model\.\S+norm\.weight' and 'transformer\.h\.0\.ln_1\.weight'"):
        source(transformer__h__0__ln_1__weight=weight, model__layers__0__norm__weight=weight)
    checkpoint = source(transformer__h__0__attn__c_attn__weight=weight)
    with pytest.raises(WeightsError, match=r"attn\.c_attn\.weight' has 2 rows, its configuration says 3"):
        checkpoint.read("model.layers.0.self_attn.qkv_proj.weight")
    with pytest.raises(WeightsError, match=r"no tensor 'model\.norm\.weight'"):
        checkpoint.read("model.norm.weight")


def test_what_is_stacked_is_read_one_by_one() -> None:
    stack, biases = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(8, dtype=np.float32).reshape(2, 4)
    arrays = Arrays({"transformer.h.0.experts.inner": stack, "transformer.h.0.experts.inner_bias": biases})
    inside = GPT2.inside | {"experts.inner": "mlp.experts.*.gate_up_proj.weight"}
    checkpoint = StoredSource(arrays, replace(GPT2, inside=inside))  # type: ignore[arg-type]
    name = "model.layers.0.mlp.experts.{}.gate_up_proj.{}"
    assert set(checkpoint.names()) == {name.format(e, kind) for e in range(2) for kind in ("weight", "bias")}
    assert checkpoint.shape(name.format(1, "weight")) == (4, 3)
    np.testing.assert_array_equal(checkpoint.read(name.format(1, "weight")), stack[1].T)
    np.testing.assert_array_equal(checkpoint.read(name.format(0, "bias")), biases[0])
    assert arrays.items_read == [1, 0]
    assert checkpoint.read_blocks(name.format(0, "weight")) is None


def test_some_rows_are_those_of_the_whole() -> None:
    """Also of what is stored the other way round, in another order, or in a stack."""
    stored = source(
        transformer__wte__weight=np.arange(60, dtype=np.float32).reshape(15, 4),
        transformer__h__0__attn__c_attn__weight=np.arange(12, dtype=np.float32).reshape(4, 3),
        transformer__h__0__experts__0__w1__weight=np.arange(8, dtype=np.float32).reshape(2, 4),
        transformer__h__0__experts__inner__weight=np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    )
    assert len(stored.names()) == 5
    for name in stored.names():
        whole, blocks = stored.read(name), stored.read_blocks(name, slice(1, 2))
        np.testing.assert_array_equal(stored.read(name, slice(1, 2)), whole[1:2])
        assert blocks is None or np.array_equal(blocks.values, whole[1:2])
