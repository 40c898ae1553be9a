"""One short file per model family, named after its `model_type`: its configuration read into a `DecoderSpec`.

`spec_of` finds the file; the file's `decoder_spec(config)` does the rest, and its `stored_form(config)`, if it has one,
tells how its checkpoints differ from Llama's in names and layout.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.refused import refuse, unknown_model_type
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_SHARED = {"blocks", "config", "experts", "latent", "mamba", "refused", "rotary"}
"""Files here that are no family."""
_OTHER_NAMES = {
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
    "gemma4_unified_text": "gemma4",
    "glm4v_text": "glm4",
    "iquestcoder": "llama",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen3_5_text": "qwen3_5",
    "qwen3_vl_text": "qwen3",
}
"""Further `model_type`s that a file reads: text decoders inside of other models, and what is one in all but name."""


def supported() -> tuple[str, ...]:
    """The `model_type`s that can be built."""
    files = {module.name for module in pkgutil.iter_modules(__path__)} - _SHARED
    return tuple(sorted(files | _OTHER_NAMES.keys()))


def described(model_type: str) -> str:
    """What is special about a supported `model_type`: the first line of its family's file."""
    return (_file_of(model_type).__doc__ or "").partition("\n")[0]


def spec_of(config: ConfigReader) -> DecoderSpec:
    """The specification of a checkpoint. Raises: UnsupportedModelError, WeightsError for a bad configuration."""
    spec: DecoderSpec = _family(config).decoder_spec(config)
    return spec


def stored_form_of(config: ConfigReader) -> StoredForm:
    """How a safetensors checkpoint calls and lays out its tensors. Raises: as `spec_of`."""
    family = _family(config)
    form: StoredForm = family.stored_form(config) if hasattr(family, "stored_form") else StoredForm()
    return form


def _family(config: ConfigReader) -> ModuleType:
    """The file of a checkpoint's family. Raises: UnsupportedModelError."""
    refuse(config)
    model_type = config.text("model_type")
    if model_type not in supported():
        raise unknown_model_type(model_type, supported())
    return _file_of(model_type)


def _file_of(model_type: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{_OTHER_NAMES.get(model_type, model_type)}")
