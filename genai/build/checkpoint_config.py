"""A Hugging Face folder's `config.json`: read strictly, refused where it asks for what is not built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from genai.build import towers
from genai.build.class_defaults import completed
from genai.build.source import JSON
from genai.errors import ModelNotFoundError, UnsupportedModelError, WeightsError

CONFIG_FILE = "config.json"
_MAX_JSON_BYTES = 100_000_000


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


def decoder_config(config: Mapping[str, JSON], folder: Path) -> dict[str, JSON]:
    """The text decoder's configuration: the whole one, or a part of it (`towers.py`).

    Raises: UnsupportedModelError, WeightsError if there is no `model_type`.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise WeightsError(f"{folder / CONFIG_FILE} has no model_type")
    _refuse_quantized(config, folder)
    if isinstance(inner := config.get("text_config"), dict):
        _refuse_quantized(inner, folder)
    if towers.is_tower(config):
        return towers.text_config(config, folder)
    # Of those that stand alone, only Gemma 3's are published without what equals the class's defaults.
    return completed(model_type, config) if model_type == "gemma3_text" else dict(config)


def _refuse_quantized(config: Mapping[str, JSON], folder: Path) -> None:
    """Refuse quantized checkpoints, gpt-oss as it was published aside."""
    for key in ("quantization_config", "compression_config"):
        settings = config.get(key)
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            if (config.get("model_type"), method) == ("gpt_oss", "mxfp4"):
                continue
            raise UnsupportedModelError(
                f"{folder} is quantized (method {str(method)[:40]!r}); use the original checkpoint, or a GGUF"
            )


def _without_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result
