"""`genai_config.json`: what an onnxruntime-genai folder says about its graph, tokens and search defaults.

Keys that change what the model computes are read or refused by name; the rest is collected in `unused`, so that whoever
converts the folder is told. Source: onnxruntime-genai's documentation of its configuration file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeGuard

from genai.build.checkpoint_config import read_json_object
from genai.build.source import JSON
from genai.convert.rewritten import ModelFacts
from genai.errors import ConfigError, ModelError, UnsupportedModelError
from genai.options.generation_config import GenerationConfig

CONFIG_FILE = "genai_config.json"

_MAX_NUMBER = 2**31
_TOKENS = ("input_ids", "attention_mask", "position_ids")
_PASTS = ("past_key_names", "past_value_names", "past_conv_names", "past_recurrent_names")
_PARTS = ("encoder", "embedding", "vision", "speech", "audio")
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size")
_NEUTRAL: Mapping[str, JSON] = {
    "diversity_penalty": 0.0, "length_penalty": 1.0, "min_length": 0, "no_repeat_ngram_size": 0, "num_beams": 1,
    "num_return_sequences": 1, "chunk_size": 0,
}  # fmt: skip
"""Search defaults that change nothing."""
_OWN_BUSINESS = {
    "search": {"early_stopping", "max_length", "past_present_share_buffer", "batch_size"},
    "model": {"type", "context_length", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "decoder"},
    "model.decoder": {
        "filename", "head_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
        "inputs", "outputs", "session_options", "sliding_window", "state_groups",
    },
    "model.decoder.session_options": {"log_id"},
}  # fmt: skip
"""Keys that are read here, and those that say how that runtime manages its own memory and logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNames:
    """What the decoder's graph calls its inputs and outputs; `%d` stands for the layer. None: the graph has none."""

    input_ids: str = "input_ids"
    position_ids: str | None = None
    logits: str = "logits"
    past_key: str = "past_key_values.%d.key"
    past_value: str = "past_key_values.%d.value"
    present_key: str = "present.%d.key"
    present_value: str = "present.%d.value"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenaiConfig:
    """A `genai_config.json` that can be converted.

    graph: the decoder's file; facts: what a package says of the model, search defaults included; inputs: what its
    inputs mean, as the file's keys; unused: `key=value` of what conversion leaves behind.
    """

    graph: Path
    facts: ModelFacts
    inputs: tuple[str, ...]
    names: TensorNames
    num_layers: int
    unused: tuple[str, ...] = ()


def read_genai_config(folder: Path) -> GenaiConfig:
    """Read a folder's `genai_config.json`.

    Raises: ModelError if it is damaged, UnsupportedModelError for what cannot be converted, naming it.
    """
    root = _Section(read_json_object(folder / CONFIG_FILE), CONFIG_FILE)
    model = root.section("model")
    _refuse_parts(model)
    decoder = model.section("decoder")
    inputs = decoder.section("inputs", optional=True).values
    return GenaiConfig(
        graph=folder / _plain_name(decoder),
        facts=_facts(root, model, decoder),
        inputs=tuple(key for key, value in inputs.items() if value is not None),
        names=_names(decoder),
        num_layers=decoder.size("num_hidden_layers"),
        unused=tuple(_unused(root)),
    )


def check_inputs(config: GenaiConfig) -> None:
    """Whether the decoder takes tokens, and keeps keys and values, and states of recurrent layers, only.

    Raises: UnsupportedModelError that names what it asks for besides.
    """
    if "block_table" in config.inputs:
        raise UnsupportedModelError(
            "the model keeps a paged cache (model.decoder.inputs.block_table): build it without use_paged_attention"
        )
    if "inputs_embeds" in config.inputs and "input_ids" not in config.inputs:
        raise UnsupportedModelError(
            "the model reads inputs_embeds, embeddings that another graph computes: build it without exclude_embeds"
        )
    if unknown := sorted(set(config.inputs) - {*_TOKENS, *_PASTS}):
        raise UnsupportedModelError(f"the decoder has the inputs {', '.join(unknown)}: not supported")


class _Section:
    """A JSON object within the file, and where it stands."""

    def __init__(self, values: Mapping[str, JSON], path: str) -> None:
        self.values = values
        self.path = path

    def section(self, key: str, *, optional: bool = False) -> _Section:
        """An object within this one; an optional one that is missing is empty."""
        value = self.values.get(key)
        if value is None and optional:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return _Section(value, key if self.path == CONFIG_FILE else f"{self.path}.{key}")

    def text(self, key: str, default: str | None = None) -> str:
        """A string that is not empty."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "a string")
        return value

    def size(self, key: str) -> int:
        """A positive whole number."""
        value = self.values.get(key)
        if not _is_whole(value) or not 0 < value < _MAX_NUMBER:
            raise self.wrong(key, "a positive whole number")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One token id, several, or none; -1 is how some builders write that there is none."""
        value = self.values.get(key)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        ids = [item for item in listed if _is_whole(item) and -1 <= item < _MAX_NUMBER]
        if len(ids) != len(listed):
            raise self.wrong(key, "a token id or a list of them")
        return tuple(dict.fromkeys(item for item in ids if item >= 0))

    def wrong(self, key: str, wanted: str) -> ModelError:
        """The error for a value of another kind."""
        where = key if self.path == CONFIG_FILE else f"{self.path}.{key}"
        return ModelError(f"{CONFIG_FILE} is damaged: {where} is {_shown(self.values.get(key))}, not {wanted}")


def _facts(root: _Section, model: _Section, decoder: _Section) -> ModelFacts:
    return ModelFacts(
        model_type=model.text("type"),
        hidden_size=decoder.size("hidden_size"),
        num_heads=decoder.size("num_attention_heads"),
        num_kv_heads=decoder.size("num_key_value_heads"),
        head_dim=decoder.size("head_size"),
        max_position=model.size("context_length"),
        eos_token_ids=model.token_ids("eos_token_id"),
        bos_token_id=next(iter(model.token_ids("bos_token_id")), None),
        pad_token_id=next(iter(model.token_ids("pad_token_id")), None),
        generation=_generation(root.section("search", optional=True)),
    )


def _refuse_parts(model: _Section) -> None:
    """Models that are more than one decoder."""
    parts = [key for key in _PARTS if model.values.get(key) is not None]
    if parts:
        raise UnsupportedModelError(
            f"the model has the parts {', '.join(parts)} beside its decoder: models that read images or sound, and "
            "encoder-decoders, are not supported"
        )
    decoder = model.values.get("decoder")
    if isinstance(decoder, dict) and decoder.get("pipeline") is not None:
        raise UnsupportedModelError("the decoder is a pipeline of graphs (model.decoder.pipeline): not supported")


def _plain_name(decoder: _Section) -> str:
    """The graph's file name: it must lie in the folder."""
    name = decoder.text("filename", "model.onnx")
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts or "\0" in name:
        raise ModelError(f"{CONFIG_FILE}: model.decoder.filename={name[:80]!r} leads out of its folder")
    return name


def _names(decoder: _Section) -> TensorNames:
    inputs, outputs = decoder.section("inputs", optional=True), decoder.section("outputs", optional=True)
    default = TensorNames()
    return TensorNames(
        input_ids=inputs.text("input_ids", default.input_ids),
        position_ids=inputs.text("position_ids") if inputs.values.get("position_ids") is not None else None,
        logits=outputs.text("logits", default.logits),
        past_key=_pattern(inputs, "past_key_names", default.past_key),
        past_value=_pattern(inputs, "past_value_names", default.past_value),
        present_key=_pattern(outputs, "present_key_names", default.present_key),
        present_value=_pattern(outputs, "present_value_names", default.present_value),
    )


def _pattern(section: _Section, key: str, default: str) -> str:
    """A name with one `%d` in it, for the layer."""
    pattern = section.text(key, default)
    if pattern.count("%") != 1 or "%d" not in pattern:
        raise section.wrong(key, "a name with one %d for the layer")
    return pattern


def _generation(search: _Section) -> dict[str, int | float | bool]:
    """The search defaults that change what is sampled."""
    settings: dict[str, int | float | bool] = {}
    for key in _SAMPLING:
        value = search.values.get(key)
        if value is not None and not isinstance(value, int | float):
            raise search.wrong(key, "a number")
        if value is not None and value != _NEUTRAL.get(key):
            settings[key] = value
    try:
        GenerationConfig().updated(**settings)
    except ConfigError as error:
        raise ModelError(f"{CONFIG_FILE}: search has settings that cannot be used: {error}") from None
    return {"do_sample": False} | settings if settings else {}


def _unused(root: _Section) -> Iterator[str]:
    """What the file says and conversion does not take over, as `key=value`."""
    model = root.section("model")
    decoder = model.section("decoder")
    for key, value in root.values.items():
        if key not in ("model", "search"):
            yield f"{key}={_shown(value)}"
    search = root.section("search", optional=True)
    for key, value in search.values.items():
        if key not in _OWN_BUSINESS["search"] | set(_SAMPLING) and value != _NEUTRAL.get(key) and value is not None:
            yield f"search.{key}={_shown(value)}"
    session = decoder.section("session_options", optional=True)
    for section in (model, decoder, session):
        for key, value in section.values.items():
            if key not in _OWN_BUSINESS[section.path] and value not in (None, [], {}):
                yield f"{section.path}.{key}={_shown(value)}"


def _is_whole(value: JSON) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: JSON) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
