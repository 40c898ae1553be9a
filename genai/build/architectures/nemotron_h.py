"""Nemotron-H: one part to a layer, Mamba-2, attention without positions, or an ungated MLP of squares."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.mamba import kinds_of, mamba2
from genai.build.source import JSON
from genai.build.spec import BlockSpec, DecoderSpec, NormSpec, Part
from genai.build.stored import StoredForm

_MODULE = "mixer"
_LETTERS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}
_MAMBA_KEYS = {
    "mamba_num_heads": "mamba_n_heads",
    "mamba_head_dim": "mamba_d_head",
    "n_groups": "mamba_n_groups",
    "ssm_state_size": "mamba_d_state",
    "conv_kernel": "mamba_d_conv",
    "use_conv_bias": "mamba_conv_bias",
    "use_bias": "mamba_proj_bias",
    "mamba_hidden_act": "hidden_act",
    "layer_norm_epsilon": "rms_norm_eps",
}
_DEFAULTS: dict[str, JSON] = {
    "rms_norm_eps": 1e-5, "mlp_hidden_act": "relu2", "head_dim": 128, "time_step_min": 0.001, "mamba_n_groups": 8,
    "mamba_d_state": 128,
}  # fmt: skip


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Blocks of one part each, behind one norm; the time step has a lower bound, and no upper one."""
    types = layer_types(config)
    config = config.renamed(_MAMBA_KEYS).with_defaults(_DEFAULTS)
    config = config.replaced({"attention_bias": False, "num_hidden_layers": len(types)})
    mamba = mamba2(config, config.size("mamba_n_heads") * config.size("mamba_d_head"))
    bounds = (config.number("time_step_min", 0.0), mamba.bounds[1])
    mlp_config = config.renamed({"mlp_hidden_act": "hidden_act"})
    parts: dict[str, Part] = {
        "full_attention": dataclasses.replace(config.attention(None), name=_MODULE),
        "linear_attention": dataclasses.replace(mamba, bounds=bounds, name=_MODULE),
        "mlp": dataclasses.replace(mlp_config.plain_mlp(has_biases=config.flag("mlp_bias")), name=_MODULE),
    }
    blocks = (
        BlockSpec(layer=layer, parts=(part,), norm_in="norm") for layer, part in enumerate(kinds_of(parts, types))
    )
    return config.decoder_of(tuple(blocks), NormSpec(eps=config.positive("rms_norm_eps", 1e-5)))


def stored_form(config: ConfigReader) -> StoredForm:
    """Other names outside of layers, older ones and newer, without layers that predict further tokens."""
    names = {"layers": "layers", "embeddings": "embed_tokens", "norm_f": "norm"}
    return StoredForm(
        outside={f"{model}.{own}": f"model.{ours}" for model in ("backbone", "model") for own, ours in names.items()},
        predicting=frozenset({"mtp"}),
    )


def layer_types(config: ConfigReader) -> list[JSON]:
    """Each layer's kind: a list, or a letter each."""
    for key in ("layers_block_type", "layer_types"):
        if isinstance(listed := config.get(key), list):
            return listed
    return [_LETTERS[letter] for letter in config.letters("hybrid_override_pattern", "".join(_LETTERS)) or ""]
