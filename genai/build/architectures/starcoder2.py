"""StarCoder2: norms and products with biases, an ungated MLP, and a window where the configuration has one."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import PRE_NORM, sequential
from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {
    "hidden_act": "gelu_pytorch_tanh",
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "use_bias": True,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Mistral's attention; `use_bias` is about all products of a layer."""
    config = config.renamed({"norm_epsilon": "layer_norm_eps"}).with_defaults(_DEFAULTS)
    has_biases = config.flag("use_bias")
    attention = dataclasses.replace(
        config.attention(config.rotary()),
        biases=frozenset({"q_proj", "k_proj", "v_proj", "o_proj"} if has_biases else ()),
    )
    attentions = with_windows(attention, [config.window] * config.num_layers)
    mlps = [config.plain_mlp(has_biases=has_biases)] * config.num_layers
    return config.decoder_of(sequential(attentions, mlps, PRE_NORM), config.layer_norm)


def stored_form(_: ConfigReader) -> StoredForm:
    """GPT-2's names of the MLP."""
    return StoredForm(inside={"mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"})
