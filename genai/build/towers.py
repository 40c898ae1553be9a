"""Models of several parts, of which the text decoder is built: its configuration, and which tensors are its own.

    model.language_model.layers.0.…   ─►   model.layers.0.…
    model.visual.blocks.0.…           ─►   left out

Where the parts meet, images and sounds become embeddings among those of the text: without them the decoder is the
model that its own configuration describes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.refused import refuse
from genai.build.class_defaults import completed
from genai.build.source import JSON
from genai.errors import UnsupportedModelError, WeightsError

_log = logging.getLogger(__name__)

_TEXT_TYPES = {
    "aya_vision": "cohere2",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "glm4v": "glm4v_text",
    "idefics3": "llama",
    "internvl": "qwen2",
    "llama4": "llama4_text",
    "lfm2_vl": "lfm2",
    "llava": "llama",
    "llava_next": "llama",
    "llava_onevision": "qwen2",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "smolvlm": "llama",
}
"""What stands inside, where the inner configuration does not say it."""
_TIED = "tie_word_embeddings"
_FLAT = frozenset({"qwen2_vl", "qwen2_5_vl"})
"""Published with the text's configuration beside `vision_config`, not inside of `text_config`."""
_TEXT_PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
}
_OTHER_PARTS = (
    "audio_tower",
    "connector",
    "embed_audio",
    "embed_vision",
    "image_newline",
    "multi_modal_projector",
    "vision_embedder",
    "vision_model",
    "vision_tower",
    "visual",
)
"""Which tensors are no part of the text decoder, with or without "model." before them: these, and no others."""


def is_tower(config: Mapping[str, JSON]) -> bool:
    """Whether the text decoder is one part among others."""
    return isinstance(config.get("text_config"), dict) or config.get("model_type") in _FLAT


def text_config(config: Mapping[str, JSON], source: object) -> dict[str, JSON]:
    """The text decoder's configuration, with what its class would fill in.

    Token ids and whether the head is tied may stand outside of it. The head is tied if either place says so, or none
    says anything: of a head that is called tied the tensors decide.
    Raises: UnsupportedModelError for a model that is refused by name, or whose decoder's type is not said.
    """
    refuse(ConfigReader(config))
    model_type, inner = str(config["model_type"]), config.get("text_config")
    own = dict(inner) if isinstance(inner, dict) else {k: v for k, v in config.items() if k != "model_type"}
    kind = own.get("model_type") or _TEXT_TYPES.get(model_type)
    if not isinstance(kind, str):
        raise UnsupportedModelError(f"{source}: {model_type!r} has a text_config without a model_type")
    shared = {key: value for key, value in config.items() if key.endswith("_token_id")}
    said = [place[_TIED] for place in (config, own) if place.get(_TIED) is not None]
    return completed(kind, shared | own | {"model_type": kind, _TIED: True in said or not said})


def text_tensors(names: Collection[str], source: object) -> dict[str, str]:
    """The text decoder's tensors: the name that each would have if it were alone, and its own.

    Says in one line which parts are left out. Raises: WeightsError if two tensors get the same name.
    """
    kept: dict[str, str] = {}
    left_out: list[str] = []
    for stored in names:
        if (part := other_part(stored)) is not None:
            left_out.append(part)
            continue
        name = text_name(stored)
        if name in kept:
            raise WeightsError(f"{source}: two tensors stand for {name!r}, {kept[name]!r} and {stored!r}")
        kept[name] = stored
    if left_out:
        parts = ", ".join(dict.fromkeys(left_out))
        _log.warning("%s: only its text decoder is built; left out: %s (%d tensors)", source, parts, len(left_out))
    return kept


def other_part(stored: str) -> str | None:
    """Which part a tensor or a module belongs to that is none of the text decoder; None for the decoder's own."""
    part = stored.removeprefix("model.").split(".", 1)[0]
    return part if part in _OTHER_PARTS else None


def text_name(stored: str) -> str:
    """The name that one of the text decoder's tensors would have if that were alone."""
    for prefix, replacement in _TEXT_PREFIXES.items():
        if stored.startswith(prefix):
            return replacement + stored.removeprefix(prefix)
    return stored
