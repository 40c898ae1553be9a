"""The tables of architectures: found by themselves, each `general.architecture` once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from genai.build.gguf import names, tables
from genai.build.gguf.file import GgufFile
from genai.build.gguf.numbers import named_numbers
from genai.build.gguf.source import GgufSource
from genai.errors import WeightsError

NEWCOMER = """
from genai.build.gguf.tables.table import PLAIN, TOP, Architecture

ARCHITECTURES = {
    "{arch}": Architecture(
        model_type="newcomer",
        layer=PLAIN | {"attn_sinks.weight": "self_attn.sinks", "exp_probs_b.bias": "mlp.correction"},
        top=TOP | {"token_embd_norm": "model.embedding_norm"},
    )
}
"""


def test_a_file_in_the_folder_is_an_architecture(tables_folder: Path) -> None:
    (tables_folder / "newcomer_of_tests.py").write_text(NEWCOMER.replace("{arch}", "newcomer"))
    assert names.tensor_name("newcomer", "blk.3.attn_q.bias") == "model.layers.3.self_attn.q_proj.bias"
    assert names.tensor_name("newcomer", "blk.0.attn_sinks.weight") == "model.layers.0.self_attn.sinks"
    assert names.tensor_name("newcomer", "blk.0.exp_probs_b.bias") == "model.layers.0.mlp.correction"
    assert names.tensor_name("newcomer", "token_embd_norm.weight") == "model.embedding_norm.weight"


@pytest.mark.parametrize(("arch", "depth", "scalar"), [("gemma2", 46, 16), ("gemma2", 42, 24), ("gemma3", 62, 16)])
def test_gemmas_27b_scale_queries_by_the_width_for_each_head(
    tmp_path: Path, arch: str, depth: int, scalar: int
) -> None:
    """As llama.cpp knows them: by their depth, as no key says it."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", arch)
    writer.add_block_count(depth)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_key_length(24)
    writer.add_value_length(24)
    writer.add_layer_norm_rms_eps(1e-6)
    for layer in range(depth):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(64, np.float32))
    writer.add_tensor("token_embd.weight", np.ones((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufSource(tmp_path / "m.gguf") as source:
        assert source.config["query_pre_attn_scalar"] == scalar


XIELU = {name: [0.5, 0.25] for name in ("alpha_p", "alpha_n", "beta", "eps")}


@pytest.mark.parametrize(
    "change", [{"beta": [0.5]}, {"eps": [0.5, float("nan")]}, {"alpha_p": ["a", "b"]}, {"beta": []}]
)
def test_lists_of_numbers_have_one_for_each_layer(tmp_path: Path, change: dict[str, Any]) -> None:
    numbers = XIELU | change
    assert named_numbers(_apertus(tmp_path / "good.gguf", XIELU), "apertus")["model.layers.1.mlp.act_fn.beta"] == 0.25
    with pytest.raises(WeightsError, match=rf"metadata xielu\.{next(iter(change))} should be a list of 2 numbers"):
        named_numbers(_apertus(tmp_path / "bad.gguf", numbers), "apertus")


def _apertus(path: Path, numbers: dict[str, list[Any]]) -> GgufFile:
    writer = gguf.GGUFWriter(path, "apertus")
    writer.add_block_count(2)
    for name, values in numbers.items():
        if values:
            writer.add_array(f"xielu.{name}", values)
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GgufFile(path)


def test_no_architecture_stands_in_two_files(tables_folder: Path) -> None:
    (tables_folder / "twice_in_tests.py").write_text(NEWCOMER.replace("{arch}", "llama"))
    with pytest.raises(AssertionError, match=r"twice_in_tests has \['llama'\] again"):
        tables.architectures()
