"""What a package says of its graph's caches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from genai import contract
from genai.build.graph import ExternalData, GraphBuilder, numpy_dtype
from genai.build.row_start import write_contract
from genai.config import ModelConfig, Provenance
from genai.contract import Cache, uniform_caches
from genai.runtime.cache_shape import CacheShape
from genai.runtime.row_start import read_row_start

CACHES = (Cache("key_cache.1", 3), Cache("key_cache.4", 2), Cache("value_cache.4", 1))


def config(dtype: str = "float32") -> ModelConfig:
    return ModelConfig(
        contract_version=1, model_type="x", num_layers=2, hidden_size=4, vocab_size=5, num_heads=1, num_kv_heads=1,
        head_dim=2, max_position=8, cache_dtype=dtype, eos_token_ids=(),  # type: ignore[arg-type]
        provenance=Provenance(source="", sha256="", precision="f32", builder=""),
    )  # fmt: skip


def graph(folder: Path, caches: tuple[Cache, ...]) -> onnx.ModelProto:
    output = contract.Output(contract.LOGITS, 5)
    with ExternalData(folder / "data") as data:
        return GraphBuilder(data).model(
            contract.inputs(caches, "float32"), contract.outputs(caches, "float32", output), {}
        )


def test_a_uniform_graph_is_contract_1_and_says_nothing_of_reserved_slots(tmp_path: Path) -> None:
    written = write_contract(tmp_path, config(), graph(tmp_path, uniform_caches(2, 2)), {})
    assert (written.contract_version, written.reserved_slots) == (1, 0)
    assert "reserved_slots" not in json.loads((tmp_path / "genai.json").read_text())
    assert ModelConfig.read(tmp_path) == config()
    assert not (tmp_path / "row_start.bin").exists()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_slot_is_written_by_cache_and_read_by_buffer(tmp_path: Path, dtype: str) -> None:
    row_start = {"value_cache.4": np.array([7], np.float32), "key_cache.1": np.array([1, -2, 0.5], np.float32)}
    written = write_contract(tmp_path, config(dtype), graph(tmp_path, CACHES), row_start)
    assert (written.contract_version, written.reserved_slots) == (2, 1)
    shape = CacheShape(caches=CACHES, dtype=dtype)
    found = read_row_start(tmp_path, ModelConfig.read(tmp_path), shape)
    values = [data.view(numpy_dtype(dtype)).astype(np.float32).tolist() for data in found]
    assert values == [[1, -2, 0.5], [0, 0], [7]]


def test_layers_that_differ_are_contract_2(tmp_path: Path) -> None:
    written = write_contract(tmp_path, config(), graph(tmp_path, CACHES), {})
    assert (written.contract_version, written.reserved_slots) == (2, 0)
    assert ModelConfig.read(tmp_path) == written


@pytest.mark.parametrize(("name", "size"), [("key_cache.0", 3), ("key_cache.1", 2)])
def test_a_start_that_the_graph_has_no_cache_for_is_refused(tmp_path: Path, name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"for '{name}'; the graph's caches are"):
        write_contract(tmp_path, config(), graph(tmp_path, CACHES), {name: np.zeros(size, np.float32)})
