"""OPT: learned positions after two unused rows, norms and products with biases, an ungated MLP with ReLU."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import NormNames, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm
from genai.errors import UnsupportedModelError

_NAMES = {"activation_function": "hidden_act", "ffn_dim": "intermediate_size"}
_DEFAULTS: dict[str, JSON] = {
    "do_layer_norm_before": True,
    "enable_bias": True,
    "hidden_act": "relu",
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}
_PRODUCTS = ("q_proj", "k_proj", "v_proj", "o_proj")
_UNUSED_ROWS = 2
_NORMS = NormNames(attention_in="self_attn_layer_norm", attention_out=None, mlp_in="final_layer_norm", mlp_out=None)


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """The 350M model, alone with norms behind the residual sum and a narrower embedding, is refused."""
    config = config.renamed(_NAMES).with_defaults(_DEFAULTS).ungrouped()
    _refuse_variants(config)
    has_biases = config.flag("enable_bias")
    attention = dataclasses.replace(config.attention(None), biases=frozenset(_PRODUCTS if has_biases else ()))
    attentions, mlps = [attention] * config.num_layers, [config.plain_mlp(has_biases=has_biases)] * config.num_layers
    decoder = config.decoder_of(sequential(attentions, mlps, _NORMS), config.layer_norm)
    return dataclasses.replace(decoder, positions=config.learned_positions(offset=_UNUSED_ROWS))


def _refuse_variants(config: ConfigReader) -> None:
    for key in ("do_layer_norm_before", "layer_norm_elementwise_affine"):
        if not config.flag(key):
            raise UnsupportedModelError(f"OPT with {key}=false (as OPT-350M has it) is not supported; others are")
    config.refuse("_remove_final_layer_norm")
    width = config.size("word_embed_proj_dim", config.size("hidden_size"))
    if width != config.size("hidden_size"):
        raise UnsupportedModelError(f"OPT with an embedding of its own width, {width}, is not supported; others are")


def stored_form(_: ConfigReader) -> StoredForm:
    """A decoder within the model; old checkpoints leave `model.` out."""
    inner = {"embed_tokens": "model.embed_tokens", "embed_positions": "model.embed_positions", "layers": "model.layers"}
    inner |= {"final_layer_norm": "model.norm"}
    return StoredForm(
        outside={f"{prefix}.{name}": ours for prefix in ("model.decoder", "decoder") for name, ours in inner.items()},
        inside={"self_attn.out_proj": "self_attn.o_proj", "fc1": "mlp.up_proj", "fc2": "mlp.down_proj"},
    )
