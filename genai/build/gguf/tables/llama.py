"""Llama and what is laid out like it: query and key rows lie in pairs, as ggml rotates neighbours there."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import PLAIN, ROUTER, Architecture, expert_sizes, windowless
from genai.build.source import JSON
from genai.errors import UnsupportedModelError


def _llama(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    window = metadata.window()
    if metadata.optional_size("expert_count"):
        return expert_sizes(metadata) | {"model_type": "mixtral", "sliding_window": window}
    return {"model_type": "mistral", "sliding_window": window} if window else {}


def _mistral3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    weight = metadata.number("attention.temperature_scale", 0.0)
    if not weight:
        return windowless(metadata) | {"rope_parameters": {}}
    length = metadata.size("rope.scaling.original_context_length", metadata.size("context_length"))
    period = metadata.size("attention.temperature_length", length)
    temperature: dict[str, JSON] = {"llama_4_scaling_beta": weight, "original_max_position_embeddings": period}
    return windowless(metadata) | {"rope_parameters": temperature}


def _arcee(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {"hidden_act": "relu2"}


def _smollm3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # llama.cpp has the interval as a constant: no key holds it.
    uses_rotary: list[JSON] = [int((layer + 1) % 4 != 0) for layer in range(metadata.num_layers)]
    return windowless(metadata) | {"no_rope_layers": uses_rotary, "no_rope_layer_interval": 4}


GRANITE_MULTIPLIERS = frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"})


def granite_multipliers(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    """Granite's four. Raises: UnsupportedModelError for a model without rotary embedding."""
    if metadata.flag("rope.scaling.finetuned") is False:
        raise UnsupportedModelError(f"{metadata.path}: Granite without rotary embedding (rope.scaling.finetuned=False)")
    return windowless(metadata) | granite_scales(metadata)


def granite_scales(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    """The same, whether or not it has one."""
    return {
        "attention_multiplier": metadata.number("attention.scale", metadata.head_dim**-0.5),
        "embedding_multiplier": metadata.number("embedding_scale", 1.0),
        "residual_multiplier": metadata.number("residual_scale", 1.0),
        "logits_scaling": metadata.number("logit_scale"),
    }


ARCHITECTURES = {
    "llama": Architecture(
        model_type="llama",
        layer=PLAIN | ROUTER,
        extras=_llama,
        has_paired_heads=True,
        reads=frozenset({"expert_count"}),
        has_experts=True,
    ),
    "mistral3": Architecture(
        model_type="ministral3",
        layer=PLAIN,
        extras=_mistral3,
        has_paired_heads=True,
        reads=frozenset({"attention.temperature_scale"}),
    ),
    "arcee": Architecture(model_type="arcee", layer=PLAIN, extras=_arcee, has_paired_heads=True),
    "smollm3": Architecture(model_type="smollm3", layer=PLAIN, extras=_smollm3, has_paired_heads=True),
    "granite": Architecture(
        model_type="granite",
        layer=PLAIN,
        extras=granite_multipliers,
        has_paired_heads=True,
        reads=GRANITE_MULTIPLIERS,
    ),
}
