"""The tables of architectures: found by themselves, each `general.architecture` once."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai.build.gguf import names, tables

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


def test_no_architecture_stands_in_two_files(tables_folder: Path) -> None:
    (tables_folder / "twice_in_tests.py").write_text(NEWCOMER.replace("{arch}", "llama"))
    with pytest.raises(AssertionError, match=r"twice_in_tests has \['llama'\] again"):
        tables.architectures()
