"""A model's own settings of sampling, from where its makers write them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from genai.build.checkpoint_config import read_json_object
from genai.errors import ConfigError, ModelError
from genai.options.generation_config import GenerationConfig

_log = logging.getLogger(__name__)

Settings = dict[str, int | float | bool | list[int]]

_KEYS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_SUPPRESSED = "suppress_tokens"
_GGUF = "general.sampling."
_GGUF_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
}


def defaults_of_folder(folder: Path) -> Settings:
    """The settings of a folder's `generation_config.json`, if it has one; without `do_sample` they are off.

    Raises: ModelError for settings that could not be used.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    written = read_json_object(path)
    given = _numbers(written, {key: key for key in _KEYS})
    if written.get(_SUPPRESSED):
        given[_SUPPRESSED] = cast(list[int], written[_SUPPRESSED])
    return _usable({"do_sample": False} | given if given else {}, str(path))


def within(settings: Mapping[str, int | float | bool | list[int]], vocab_size: int) -> Settings:
    """Settings without tokens that a vocabulary does not have: transformers does not mind them."""
    tokens = settings.get(_SUPPRESSED)
    known = [token for token in tokens if token < vocab_size] if isinstance(tokens, list) else []
    others = {name: value for name, value in settings.items() if name != _SUPPRESSED}
    return others | ({_SUPPRESSED: known} if known else {})


def defaults_of_gguf(metadata: Mapping[str, object], path: Path) -> Settings:
    """The settings under `general.sampling.*`: on where there are some, as in llama.cpp; a `temp` of 0 is off.

    A penalty on repetition looks at the whole text, as transformers' does, whose number the file has.
    Raises: ModelError for settings that could not be used.
    """
    given = _numbers(metadata, {f"{_GGUF}{key}": name for key, name in _GGUF_KEYS.items()})
    if metadata.get(f"{_GGUF}penalty_last_n") == 0:
        given.pop("repetition_penalty", None)
    unread = {f"{_GGUF}sequence"} | ({f"{_GGUF}mirostat"} if metadata.get(f"{_GGUF}mirostat") else set())
    if left := sorted(unread & metadata.keys()):
        _log.warning("%s: %s: not supported, and left out of the model's defaults", path, ", ".join(left))
    # Files have float32: 0.95 reads as 0.949999988079071.
    settings = {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in given.items()}
    if settings.get("temperature") == 0:
        return {}
    return _usable({"do_sample": True} | settings if settings else {}, f"{path}: {_GGUF}*")


def _numbers(values: Mapping[str, object], names: Mapping[str, str]) -> Settings:
    """Those of the values that are numbers, under the names of options."""
    return {name: value for key, name in names.items() if isinstance(value := values.get(key), int | float)}


def _usable(settings: Settings, place: str) -> Settings:
    try:
        GenerationConfig().updated(**settings)
    except ConfigError as error:
        raise ModelError(f"{place} has settings that cannot be used: {error}") from None
    return settings
