"""One short file per model family: its configuration read into a `DecoderSpec`.

`spec_of` finds the file by the configuration's `model_type`; the file's `decoder_spec(config)` does the rest.
"""

from __future__ import annotations

import importlib

from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec
from genai.errors import UnsupportedModelError

_MODULES = {
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "granite": "granite",
    "llama": "llama",
    "mistral": "mistral",
    "olmo2": "olmo2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
}

SUPPORTED = tuple(sorted(_MODULES))
"""The `model_type`s that can be built."""


def spec_of(config: ConfigReader) -> DecoderSpec:
    """The specification of a checkpoint. Raises: UnsupportedModelError, WeightsError for a bad configuration."""
    model_type = config.text("model_type")
    if model_type not in _MODULES:
        raise UnsupportedModelError(f"model type {model_type!r} is not supported; supported: {', '.join(SUPPORTED)}")
    module = importlib.import_module(f"genai.build.architectures.{_MODULES[model_type]}")
    spec: DecoderSpec = module.decoder_spec(config)
    return spec
