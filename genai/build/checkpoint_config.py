"""A Hugging Face folder's `config.json`: read strictly, refused where it asks for what is not built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from genai.build.source import JSON
from genai.errors import ModelNotFoundError, UnsupportedModelError, WeightsError

CONFIG_FILE = "config.json"
_MAX_JSON_BYTES = 100_000_000

# Published Gemma 3 configurations leave out whatever equals the class's defaults.
_GEMMA3_TEXT: dict[str, JSON] = {
    "model_type": "gemma3_text",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
_TEXT_PREFIXES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


def read_json_object(path: Path, content: bytes | None = None) -> dict[str, JSON]:
    """A JSON object from a file, or from this content of it. Raises: ModelNotFoundError, WeightsError."""
    value = read_json_value(path, content)
    if not isinstance(value, dict):
        raise WeightsError(f"{path} is damaged: not a JSON object")
    return value


def read_json_value(path: Path, content: bytes | None = None) -> JSON:
    """Whatever JSON a file holds, or this content of it. Raises: ModelNotFoundError, WeightsError."""
    try:
        if content is None:
            if (size := path.stat().st_size) > _MAX_JSON_BYTES:
                raise WeightsError(f"{path} has {size:,} bytes; at most {_MAX_JSON_BYTES:,} are read")
            content = path.read_bytes()
        return cast(JSON, json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates))
    except FileNotFoundError:
        raise ModelNotFoundError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged or no JSON ({str(error)[:200]})") from None


def is_multimodal(config: Mapping[str, JSON]) -> bool:
    """Whether the language model is one part among others."""
    return isinstance(config.get("text_config"), dict)


def text_config(config: Mapping[str, JSON], folder: Path) -> dict[str, JSON]:
    """The language model's configuration. Raises: UnsupportedModelError, WeightsError if there is no `model_type`."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise WeightsError(f"{folder / CONFIG_FILE} has no model_type")
    _refuse_quantized(config, folder)
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return _gemma3_defaults(config) | dict(config) if model_type == "gemma3_text" else dict(config)
    if model_type != "gemma3":
        raise UnsupportedModelError(f"{folder}: {model_type!r} is multimodal; of these only 'gemma3' is supported")
    _refuse_quantized(inner, folder)
    shared = {key: value for key, value in config.items() if key.endswith("_token_id")}
    return _gemma3_defaults(inner) | shared | inner | {"model_type": "gemma3_text"}


def text_tensor_name(stored: str) -> str | None:
    """A multimodal checkpoint's tensor under the name it has in the language model alone; None for other parts."""
    if stored.startswith(_OTHER_PARTS):
        return None
    for prefix, replacement in _TEXT_PREFIXES:
        if stored.startswith(prefix):
            return replacement + stored.removeprefix(prefix)
    return stored


def _gemma3_defaults(config: Mapping[str, JSON]) -> dict[str, JSON]:
    """The defaults that apply beside `config`; `rope_parameters` says in the newer way what two older keys said."""
    superseded = {"rope_theta", "rope_local_base_freq"} if config.get("rope_parameters") else set()
    return {key: value for key, value in _GEMMA3_TEXT.items() if key not in superseded}


def _refuse_quantized(config: Mapping[str, JSON], folder: Path) -> None:
    for key in ("quantization_config", "compression_config"):
        settings = config.get(key)
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise UnsupportedModelError(
                f"{folder} is quantized (method {str(method)[:40]!r}); use the original checkpoint, or a GGUF"
            )


def _without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result
