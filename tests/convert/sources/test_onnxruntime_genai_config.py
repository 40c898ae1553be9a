"""`genai_config.json`: what is read, what is left behind, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genai.convert.sources.onnxruntime_genai.config import check_inputs, read_genai_config
from genai.errors import ModelError, UnsupportedModelError
from tests.convert.sources.genai_folders import change_config

CONFIG: dict[str, Any] = {
    "model": {
        "type": "llama",
        "bos_token_id": 1,
        "eos_token_id": [2, 7, 2],
        "pad_token_id": 0,
        "vocab_size": 300,
        "context_length": 256,
        "decoder": {
            "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
            "filename": "model.onnx",
            "head_size": 16,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "inputs": {
                "input_ids": "tokens",
                "attention_mask": "attention_mask",
                "past_key_names": "past.%d.k",
                "past_value_names": "past.%d.v",
            },
            "outputs": {"logits": "scores"},
        },
    },
    "search": {"do_sample": True, "temperature": 0.7, "top_k": 40, "max_length": 256, "num_beams": 1},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "genai_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_read(folder: Path) -> None:
    config = read_genai_config(folder)
    check_inputs(config)
    assert config.graph == folder / "model.onnx"
    assert (config.num_layers, config.facts.num_heads, config.facts.num_kv_heads, config.facts.head_dim) == (
        3,
        4,
        2,
        16,
    )
    assert (config.facts.hidden_size, config.facts.max_position) == (64, 256)
    assert (config.facts.eos_token_ids, config.facts.bos_token_id, config.facts.pad_token_id) == ((2, 7), 1, 0)
    assert (config.names.input_ids, config.names.position_ids, config.names.logits) == ("tokens", None, "scores")
    assert (config.names.past_key, config.names.present_value) == ("past.%d.k", "present.%d.value")
    assert config.facts.generation == {"do_sample": True, "temperature": 0.7, "top_k": 40}
    assert config.unused == ()


def test_a_single_end_token(folder: Path) -> None:
    change_config(folder, model__eos_token_id=5, model__pad_token_id=-1, model__bos_token_id=None)
    config = read_genai_config(folder)
    assert (config.facts.eos_token_ids, config.facts.bos_token_id, config.facts.pad_token_id) == ((5,), None, None)


def test_no_search_section_means_no_defaults(folder: Path) -> None:
    change_config(folder, search=...)
    assert read_genai_config(folder).facts.generation == {}


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"search__num_beams": 4}, "search.num_beams=4"),
        ({"search__length_penalty": 0.5}, "search.length_penalty=0.5"),
        ({"model__eor_token_id": 9}, "model.eor_token_id=9"),
        ({"engine": {"dynamic_batching": {}}}, 'engine={"dynamic_batching": {}}'),
        (
            {"model__decoder__session_options__provider_options": [{"cuda": {}}]},
            'model.decoder.session_options.provider_options=[{"cuda": {}}]',
        ),
    ],
)
def test_what_is_not_used_is_told(folder: Path, change: dict[str, Any], entry: str) -> None:
    change_config(folder, **change)
    assert read_genai_config(folder).unused == (entry,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model__vision": {"filename": "v.onnx"}}, "vision"),
        ({"model__encoder": {"filename": "e.onnx"}}, "encoder"),
        ({"model__speech": {}, "model__embedding": {}}, "embedding, speech"),
        ({"model__decoder__pipeline": [{}]}, "pipeline"),
        ({"model__decoder__inputs__block_table": "block_table"}, "block_table"),
        ({"model__decoder__inputs": {"inputs_embeds": "x"}}, "inputs_embeds"),
        ({"model__decoder__inputs__cross_past_key_names": "c.%d"}, "cross_past_key_names"),
    ],
)
def test_refused_by_name(folder: Path, change: dict[str, Any], said: str) -> None:
    change_config(folder, **change)
    with pytest.raises(UnsupportedModelError, match=said):
        check_inputs(read_genai_config(folder))


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/passwd", "a/../../b.onnx", "C:\\model.onnx", "..\\m.onnx", "\\\\host\\m", "a\0b"]
)
def test_a_file_name_cannot_leave_the_folder(folder: Path, name: str) -> None:
    change_config(folder, model__decoder__filename=name)
    with pytest.raises(ModelError, match="leads out of its folder"):
        read_genai_config(folder)


def test_a_file_in_a_subfolder(folder: Path) -> None:
    change_config(folder, model__decoder__filename="cpu/decoder.onnx")
    assert read_genai_config(folder).graph == folder / "cpu" / "decoder.onnx"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": []}, "model is"),
        ({"model__decoder": "x"}, "model.decoder is"),
        ({"model__decoder__num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"model__decoder__num_hidden_layers": True}, "num_hidden_layers is true"),
        ({"model__decoder__head_size": 10**30}, "head_size"),
        ({"model__context_length": None}, "context_length is null"),
        ({"model__decoder__hidden_size": "64"}, "hidden_size"),
        ({"model__eos_token_id": [2, "x"]}, "eos_token_id"),
        ({"model__eos_token_id": 2.5}, "eos_token_id"),
        ({"model__decoder__filename": 3}, "filename"),
        ({"model__decoder__inputs__past_key_names": "past.key"}, "past_key_names"),
        ({"model__decoder__inputs__past_key_names": "%s.%d"}, "past_key_names"),
        ({"search__temperature": "hot"}, "temperature"),
        ({"search__top_p": 7}, "top_p"),
        ({"search": [1]}, "search is"),
    ],
)
def test_damaged(folder: Path, change: dict[str, Any], said: str) -> None:
    change_config(folder, **change)
    with pytest.raises(ModelError, match=said):
        read_genai_config(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"model": ' + "[" * 100_000, "\udcff"])
def test_not_a_json_object(folder: Path, text: str) -> None:
    (folder / "genai_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"genai_config\.json"):
        read_genai_config(folder)


def test_a_huge_file_is_not_read(folder: Path) -> None:
    with (folder / "genai_config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ModelError, match="at most"):
        read_genai_config(folder)
