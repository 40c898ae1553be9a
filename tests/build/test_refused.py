"""Models that are refused by name, and what a newcomer is told about others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from genai.build.architectures import spec_of, supported
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.refused import REFUSED
from genai.build.gguf.source import GgufSource
from genai.build.package import build_package
from genai.errors import UnsupportedModelError

REASONS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "gemma3n_text"}, "four residual streams"),
    ({"model_type": "gemma3n"}, "Gemma 4 took its place"),
    ({"model_type": "deepseek_v32"}, "indexer"),
    ({"model_type": "deepseek_v4"}, "indexer"),
    ({"model_type": "glm_moe_dsa"}, "indexer"),
    ({"model_type": "kimi_linear"}, "linear attention with states"),
    ({"model_type": "gemma4_text", "enable_moe_block": True}, "gated by GELU"),
    ({"model_type": "paligemma"}, "both directions"),
    ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-M-ME*E"}, "square what ReLU leaves"),
    ({"model_type": "nemotron_h", "layers_block_type": ["linear_attention", "moe"]}, "square what ReLU leaves"),
]


@pytest.mark.parametrize(("config", "reason"), REASONS)
def test_what_no_operator_can_do_is_refused_by_name(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(
        UnsupportedModelError, match=f"^model type '{config['model_type']}' is not supported: .*{reason}"
    ):
        spec_of(ConfigReader(config))


def test_every_refusal_is_tried_and_is_no_family() -> None:
    assert {config["model_type"] for config, _ in REASONS} == REFUSED.keys()
    always = {config["model_type"] for config, _ in REASONS if len(config) == 1}
    assert not always & set(supported())


@pytest.mark.parametrize("config", [config for config, _ in REASONS if len(config) > 1])
def test_others_of_the_same_type_are_not(config: dict[str, Any]) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever else this configuration lacks)
        spec_of(ConfigReader({"model_type": config["model_type"]}))
    assert "experts" not in str(caught.value)


def test_an_unknown_model_type_is_told_in_one_line_what_else_may_work(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    save_file({"a": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError) as caught:
        build_package(tmp_path, tmp_path / "package")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("model type 'unheard_of' is not supported. Something else may run it: `genai export ")
    for way in (
        "genai export SOURCE OUT",
        "genai build SOURCE -o OUT --builder mobius",
        "genai convert MODEL.onnx OUT",
    ):
        assert f"`{way}`" in message
    assert message.endswith(", ".join(supported()))


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("gemma3n", "'gemma3n' is not supported: it has four residual streams"),
        ("kimi-linear", "linear attention with states"),
        ("deepseek32", "indexer"),
        ("deepseek4", "indexer"),
        ("glm-dsa", "indexer"),
        ("nemotron_h_moe", "square what ReLU leaves"),
        (
            "unheard-of",
            r"'unheard-of' is not supported\. Something else may run .* --builder mobius`\. Supported: .*llama",
        ),
    ],
)
def test_gguf_files_are_told_apart_too(tmp_path: Path, arch: str, told: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", arch)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=told):
        GgufSource(tmp_path / "m.gguf")
