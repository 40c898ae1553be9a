"""StableLM: norms with bias, partial rotary; in the 12B attention and MLP side by side, and a norm for each head."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import PRE_NORM, parallel, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {"partial_rotary_factor": 0.25}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's parts in `use_parallel_residual`'s order."""
    config = config.with_defaults(_DEFAULTS)
    attention = dataclasses.replace(
        config.attention(config.rotary()),
        qk_norm="own_per_head" if config.flag("qk_layernorm") else "none",
        biases=frozenset({"q_proj", "k_proj", "v_proj"} if config.flag("use_qkv_bias") else ()),
    )
    attentions, mlps = [attention] * config.num_layers, [config.mlp()] * config.num_layers
    is_parallel = config.flag("use_parallel_residual")
    blocks = parallel(attentions, mlps) if is_parallel else sequential(attentions, mlps, PRE_NORM)
    return config.decoder_of(blocks, config.layer_norm)


def stored_form(_: ConfigReader) -> StoredForm:
    """The heads' norms, one by one."""
    return StoredForm(
        inside={
            "self_attn.q_layernorm.norms.*": "self_attn.q_norm.*",
            "self_attn.k_layernorm.norms.*": "self_attn.k_norm.*",
        }
    )
