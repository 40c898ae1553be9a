"""Text decoders inside of other models: their configurations, and their tensors among those of other parts."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genai.build import class_defaults
from genai.build.open import open_source
from genai.errors import UnsupportedModelError, WeightsError

NORM = np.ones(2, np.float32)
ELSEWHERE = {"rope_theta", "rope_local_base_freq"}
"""What transformers keeps in `rope_parameters`."""


def folder(path: Path, names: list[str], config: dict[str, object]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(dict.fromkeys(names, NORM), path / "model.safetensors")
    return path


@pytest.mark.parametrize(
    ("prefix", "other"),
    [
        ("language_model.model.", "vision_tower.x.weight"),
        ("model.language_model.", "model.multi_modal_projector.y"),
        ("model.text_model.", "model.vision_model.x.weight"),
        ("model.", "visual.blocks.0.norm.weight"),
        ("model.language_model.", "model.image_newline"),
    ],
)
def test_the_text_decoder_is_shown_as_if_it_were_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str, other: str
) -> None:
    config = {"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": {"hidden_size": 2}}
    names = [f"{prefix}norm.weight", f"{prefix}layers.0.mlp.up_proj.weight", other]
    with caplog.at_level(logging.WARNING):
        source = open_source(folder(tmp_path, names, config))
    assert set(source.names()) == {"model.norm.weight", "model.layers.0.mlp.up_proj.weight"}
    assert source.config["model_type"] == "gemma3_text"
    assert source.config["eos_token_id"] == [1, 106]
    assert (source.config["hidden_size"], source.config["num_attention_heads"]) == (2, 8)
    part = other.removeprefix("model.").split(".")[0]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: only its text decoder is built; left out: {part} (1 tensors)"
    ]


def test_the_head_of_the_decoder_is_found(tmp_path: Path) -> None:
    names = ["language_model.model.norm.weight", "language_model.lm_head.weight"]
    source = open_source(folder(tmp_path, names, {"model_type": "llava", "text_config": {}}))
    assert set(source.names()) == {"model.norm.weight", "lm_head.weight"}


def test_only_parts_that_are_known_are_left_out(tmp_path: Path) -> None:
    names = ["model.norm.weight", "model.visual_memory.weight"]
    source = open_source(folder(tmp_path, names, {"model_type": "llava", "text_config": {}}))
    assert set(source.names()) == set(names)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    names = ["model.norm.weight", "language_model.model.norm.weight"]
    with pytest.raises(WeightsError, match=r"two tensors stand for 'model\.norm\.weight'"):
        open_source(folder(tmp_path, names, {"model_type": "gemma3", "text_config": {"hidden_size": 2}}))


@pytest.mark.parametrize(
    ("outer", "kind"),
    [
        ({"model_type": "llava", "text_config": {}}, "llama"),
        ({"model_type": "llava", "text_config": {"model_type": "qwen2"}}, "qwen2"),
        ({"model_type": "newest", "text_config": {"model_type": "mistral"}}, "mistral"),
        ({"model_type": "qwen2_5_vl", "vision_config": {}, "hidden_size": 8}, "qwen2_5_vl_text"),
        ({"model_type": "qwen2_vl", "text_config": {"hidden_size": 8}}, "qwen2_vl_text"),
    ],
)
def test_the_decoder_says_what_it_is_or_the_model_around_it_does(
    tmp_path: Path, outer: dict[str, object], kind: str
) -> None:
    assert open_source(folder(tmp_path, ["t"], outer)).config["model_type"] == kind


@pytest.mark.parametrize(
    ("outside", "inside", "tied"),
    [(None, None, True), (None, False, False), (False, True, True), (False, None, False), (True, None, True)],
)
def test_whether_the_head_is_tied(tmp_path: Path, outside: bool | None, inside: bool | None, tied: bool) -> None:
    """If either place says so, or none says anything: the tensors decide then."""
    inner = {} if inside is None else {"tie_word_embeddings": inside}
    outer = {} if outside is None else {"tie_word_embeddings": outside}
    source = open_source(folder(tmp_path, ["t"], {"model_type": "llava", "text_config": inner, **outer}))
    assert source.config["tie_word_embeddings"] is tied


def test_what_is_no_text_decoder_is_refused(tmp_path: Path) -> None:
    config: dict[str, object] = {"model_type": "paligemma", "text_config": {"model_type": "gemma2"}}
    with pytest.raises(UnsupportedModelError, match="'paligemma' is not supported: "):
        open_source(folder(tmp_path, ["t"], config))
    with pytest.raises(UnsupportedModelError, match="'newest' has a text_config without a model_type"):
        open_source(folder(tmp_path, ["t"], {"model_type": "newest", "text_config": {}}))


def test_quantized_decoders_are_refused(tmp_path: Path) -> None:
    inner = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(UnsupportedModelError, match="quantized"):
        open_source(folder(tmp_path, ["t"], {"model_type": "llava", "text_config": inner}))


@pytest.mark.parametrize("model_type", sorted(class_defaults.MODEL_TYPES))
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    configuration_auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    class_ = configuration_auto.CONFIG_MAPPING[model_type]
    fields = {field.name: field.default for field in dataclasses.fields(class_)}
    found = class_defaults.completed(model_type, {})
    assert {key: value for key, value in found.items() if key not in ELSEWHERE} == {
        key: fields.get(key) for key in found if key not in ELSEWHERE
    }
    theta = class_.default_theta
    expected = (theta["global"], theta["local"]) if isinstance(theta, dict) else (theta, None)
    assert (found["rope_theta"], found.get("rope_local_base_freq")) == expected


def test_gemma_alone_is_completed_too(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path, ["t"], {"model_type": "gemma3_text"}))
    assert source.config == class_defaults.completed("gemma3_text", {"model_type": "gemma3_text"})


def test_newer_rotary_settings_are_not_contradicted_by_defaults(tmp_path: Path) -> None:
    rope = {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 2.0}}
    config: dict[str, object] = {"model_type": "gemma3_text", "rope_parameters": rope}
    assert not ELSEWHERE & open_source(folder(tmp_path, ["t"], config)).config.keys()
