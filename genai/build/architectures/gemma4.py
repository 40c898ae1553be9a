"""Gemma 4 (text): two sizes of heads, keys and values that several layers read, embeddings of each layer's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from genai.build.architectures.blocks import SANDWICH_NORM, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import AttentionSpec, BlockSpec, DecoderSpec, MlpSpec, PerLayerSpec
from genai.errors import UnsupportedModelError, WeightsError

_DEFAULTS: Mapping[str, JSON] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
    "global_head_dim": 512,
    "tie_word_embeddings": True,
}
_UNIFIED: Mapping[str, JSON] = {"hidden_size_per_layer_input": None, "sliding_window": 1024}
"""Of `gemma4_unified_text` (12B)."""
_ROTARY: Mapping[str, JSON] = {
    "rope_theta": 1_000_000.0,
    "rope_scaling": {"rope_type": "proportional", "partial_rotary_factor": 0.25},
}
"""Of full layers, where the configuration has no `rope_parameters`."""
_BY_LAYER = {"head_dim", "num_key_value_heads"}
"""Keys that may have other values in some layers."""


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """The last `num_kv_shared_layers` read the keys and values of the last layer of their type before them.

    Norm weights are used as they are stored, and scores are not scaled: queries and keys are normalised. The residual
    stream reaches hundreds of thousands, beyond float16.
    """
    if config.text("model_type") == "gemma4_unified_text":
        config = config.with_defaults(_UNIFIED)
    config = config.with_defaults(_DEFAULTS)
    if not config.mapping("rope_parameters"):
        config = config.with_defaults(_ROTARY)
    config.refuse("use_bidirectional_attention", but=("vision",))  # pictures see all of themselves; texts have none
    types = _layer_types(config)
    first_shared = config.num_layers - config.count("num_kv_shared_layers")
    attentions = [_attention(config, types, layer, first_shared) for layer in range(config.num_layers)]
    mlp = config.mlp()
    shared = dataclasses.replace(mlp, size=2 * mlp.size) if config.flag("use_double_wide_mlp") else mlp
    mlps = [mlp if layer < first_shared else shared for layer in range(config.num_layers)]
    return dataclasses.replace(
        config.decoder(attentions, mlps),
        blocks=_blocks(attentions, mlps, _per_layer(config)),
        embedding_scale=config.size("hidden_size") ** 0.5,
        logits_softcap=config.optional_positive("final_logit_softcapping"),
        has_wide_residual=True,
    )


def _layer_types(config: ConfigReader) -> list[str]:
    """Every sixth layer is a full one unless `layer_types` says otherwise; the last one is, whatever that says."""
    layers = range(config.num_layers)
    types = config.layer_types(["sliding_attention" if (layer + 1) % 6 else "full_attention" for layer in layers])
    return [*types[:-1], "full_attention"]


def _attention(config: ConfigReader, types: Sequence[str], layer: int, first_shared: int) -> AttentionSpec:
    """One layer's attention; from `first_shared` on keys and values are those of an earlier layer."""
    kind, is_full = types[layer], types[layer] == "full_attention"
    own = config.replaced(_of_layer(config, layer, is_full=is_full))
    usual = own.attention(own.rotary(kind, "rope_theta" if is_full else "rope_local_base_freq"))
    keys_of = None
    if layer >= first_shared:
        keys_of = max((other for other in range(first_shared) if types[other] == kind), default=None)
        if keys_of is None:
            raise WeightsError(f"layer {layer} reads the keys of a layer of type {kind} before {first_shared}: none is")
    value_is_key = is_full and config.flag("attention_k_eq_v")
    left_out = {"k_proj", "v_proj"} if keys_of is not None else {"v_proj"} if value_is_key else set()
    return dataclasses.replace(
        usual,
        scale=1.0,
        sliding_window=None if is_full else config.window,
        qk_norm="per_head",
        has_value_norm=True,
        value_is_key=value_is_key,
        keys_of=keys_of,
        biases=usual.biases - left_out,
    )


def _of_layer(config: ConfigReader, layer: int, *, is_full: bool) -> dict[str, JSON]:
    """What a layer has otherwise: in `per_layer_config` (transformers 5.24), or in two keys about full layers."""
    if config.mapping("per_layer_config"):
        found = config.inner("per_layer_config").mapping(str(layer))
        if unknown := found.keys() - _BY_LAYER:
            raise UnsupportedModelError(f"the model's configuration has {min(unknown)!r} by layer: not supported")
        return found
    if not is_full:
        return {}
    sizes: dict[str, JSON] = {"head_dim": config.size("global_head_dim")}
    if config.flag("attention_k_eq_v") and (heads := config.optional_size("num_global_key_value_heads")):
        sizes["num_key_value_heads"] = heads
    return sizes


def _per_layer(config: ConfigReader) -> PerLayerSpec | None:
    """The layers' own embeddings, which the smaller models have."""
    if not (size := config.count("hidden_size_per_layer_input")):
        return None
    vocab_size = config.size("vocab_size_per_layer_input", config.size("vocab_size"))
    if vocab_size < config.size("vocab_size"):
        raise UnsupportedModelError(f"embeddings by layer of only {vocab_size} of {config.size('vocab_size')} tokens")
    return PerLayerSpec(size=size, vocab_size=vocab_size, activation=config.activation)


def _blocks(
    attentions: Sequence[AttentionSpec], mlps: Sequence[MlpSpec], per_layer: PerLayerSpec | None
) -> tuple[BlockSpec, ...]:
    """Attention, MLP, and the layer's own embedding if there is one; then the stream is scaled."""
    blocks: list[BlockSpec] = []
    for attention, mlp in zip(*[iter(sequential(attentions, mlps, SANDWICH_NORM))] * 2, strict=True):
        blocks += [attention, mlp]
        if per_layer is not None:
            norm = "post_per_layer_input_norm"
            blocks.append(BlockSpec(layer=mlp.layer, parts=(per_layer,), norm_in=None, norm_out=norm))
        blocks[-1] = dataclasses.replace(blocks[-1], stream_scale="layer_scalar")
    return tuple(blocks)
