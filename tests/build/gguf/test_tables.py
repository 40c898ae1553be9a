"""The tables of architectures: found by themselves, each `general.architecture` once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from genai.build.architectures import spec_of
from genai.build.architectures.config import ConfigReader
from genai.build.gguf import names, tables
from genai.build.gguf.file import GgufFile
from genai.build.gguf.numbers import named_numbers
from genai.build.gguf.source import GgufSource
from genai.build.spec import DecoderSpec
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


def write(path: Path, arch: str, depth: int, **metadata: list[Any]) -> Path:
    """A file of so many layers with next to nothing in them; metadata: lists under `xielu.`."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(depth)
    writer.add_context_length(8192)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_key_length(24)
    writer.add_value_length(24)
    writer.add_layer_norm_rms_eps(1e-6)
    for name, values in metadata.items():
        if values:
            writer.add_array(f"xielu.{name}", values)
    for layer in range(depth):
        tensor = "post_ffw_norm" if arch == "exaone4" else "attn_norm"
        writer.add_tensor(f"blk.{layer}.{tensor}.weight", np.ones(64, np.float32))
    writer.add_tensor("token_embd.weight", np.ones((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def spec(path: Path) -> DecoderSpec:
    with GgufSource(path) as source:
        return spec_of(ConfigReader(source.config))


@pytest.mark.parametrize(("arch", "depth", "scalar"), [("gemma2", 46, 16), ("gemma2", 42, 24), ("gemma3", 62, 16)])
def test_gemmas_27b_scale_queries_by_the_width_for_each_head(
    tmp_path: Path, arch: str, depth: int, scalar: int
) -> None:
    """As llama.cpp knows them: by their depth, as no key says it."""
    assert spec(write(tmp_path / "m.gguf", arch, depth)).attentions[0].scale == scalar**-0.5


def test_what_first_files_were_written_without(tmp_path: Path) -> None:
    """llama.cpp has these as constants: a window, and in Gemma 2 the two caps."""
    gemma2 = spec(write(tmp_path / "gemma2.gguf", "gemma2", 2)).attentions
    assert [(each.sliding_window, each.softcap) for each in gemma2.values()] == [(4096, 50.0), (None, 50.0)]
    large = spec(write(tmp_path / "32b.gguf", "exaone4", 64)).attentions
    assert [(large[layer].sliding_window, large[layer].rotary is None) for layer in (2, 3)] == [
        (4096, False),
        (None, True),
    ]
    small = spec(write(tmp_path / "1.2b.gguf", "exaone4", 30)).attentions
    assert all(each.sliding_window is None and each.rotary for each in small.values())


XIELU = {name: [0.5, 0.25] for name in ("alpha_p", "alpha_n", "beta", "eps")}


@pytest.mark.parametrize(
    "change", [{"beta": [0.5]}, {"eps": [0.5, float("nan")]}, {"alpha_p": ["a", "b"]}, {"beta": []}]
)
def test_lists_of_numbers_have_one_for_each_layer(tmp_path: Path, change: dict[str, Any]) -> None:
    good, bad = (
        GgufFile(write(tmp_path / f"{name}.gguf", "apertus", 2, **numbers))
        for name, numbers in {"good": XIELU, "bad": XIELU | change}.items()
    )
    assert named_numbers(good, "apertus")["model.layers.1.mlp.act_fn.beta"] == 0.25
    with pytest.raises(WeightsError, match=rf"metadata xielu\.{next(iter(change))} should be a list of 2 numbers"):
        named_numbers(bad, "apertus")


def test_no_architecture_stands_in_two_files(tables_folder: Path) -> None:
    (tables_folder / "twice_in_tests.py").write_text(NEWCOMER.replace("{arch}", "llama"))
    with pytest.raises(AssertionError, match=r"twice_in_tests has \['llama'\] again"):
        tables.architectures()
