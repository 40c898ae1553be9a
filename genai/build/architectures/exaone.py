"""EXAONE 3 and 3.5: Llama under GPT-2's names."""

from __future__ import annotations

from genai.build.architectures import llama
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_NAMES = {
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "rms_norm_eps",
    "num_layers": "num_hidden_layers",
}
_DEFAULTS: dict[str, JSON] = {"rms_norm_eps": 1e-5, "rope_theta": 500_000.0}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers, from keys of its own."""
    return llama.decoder_spec(config.renamed(_NAMES).with_defaults(_DEFAULTS))


def stored_form(_: ConfigReader) -> StoredForm:
    """As it is published, and as transformers writes it."""
    return StoredForm(
        outside={
            "transformer.wte": "model.embed_tokens", "transformer.h": "model.layers", "transformer.ln_f": "model.norm"
        },
        inside={f"attn.attention.{part}_proj": f"self_attn.{part}_proj" for part in "qkv"}
        | {
            "attn.attention.out_proj": "self_attn.o_proj",
            "ln_1": "input_layernorm",
            "ln_2": "post_attention_layernorm",
            "mlp.c_fc_0": "mlp.gate_proj",
            "mlp.c_fc_1": "mlp.up_proj",
            "mlp.c_proj": "mlp.down_proj",
        },
        ignored=frozenset({"attn.attention.rotary", "attn.attention.rotary_emb"}),
    )  # fmt: skip
