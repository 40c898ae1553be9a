"""GPT-Neo: GPT-2 with q, k and v apart, scores that are not scaled, and a window on every other layer."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import gpt2
from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm
from genai.errors import UnsupportedModelError

_NAMES = {
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "window_size": "sliding_window",
}
_DEFAULTS: dict[str, JSON] = {"hidden_act": "gelu_new", "sliding_window": 256, "tie_word_embeddings": True}
_KINDS = ("global", "local")


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """`attention_layers` has each layer's kind; else global ones and local ones take turns."""
    config = config.renamed(_NAMES).with_defaults(_DEFAULTS).ungrouped()
    kinds = config.items("attention_layers", config.num_layers) or _in_turns(config)
    if unknown := [kind for kind in kinds if kind not in _KINDS]:
        raise UnsupportedModelError(f"attention layer {unknown[0]!r} is not supported; supported: global, local")
    attention = dataclasses.replace(config.attention(None), scale=1.0, biases=frozenset({"o_proj"}))
    windows = [config.window if kind == "local" else None for kind in kinds]
    return gpt2.decoder(config, with_windows(attention, windows))


def _in_turns(config: ConfigReader) -> list[JSON]:
    config.refuse("attention_types", but=([[["global", "local"], config.num_layers // 2]],))
    return [_KINDS[layer % 2] for layer in range(config.num_layers)]


def stored_form(_: ConfigReader) -> StoredForm:
    """GPT-2's names outside, q, k and v within one module more; matrices as [out, in]."""
    return StoredForm(
        outside={f"transformer.{name}": ours for name, ours in gpt2.OUTSIDE.items()},
        inside={f"attn.attention.{part}_proj": f"self_attn.{part}_proj" for part in "qkv"}
        | {"attn.attention.out_proj": "self_attn.o_proj"}
        | {name: ours for name, ours in gpt2.INSIDE.items() if not name.startswith("attn.")},
        ignored=frozenset({"attn.attention.bias", "attn.attention.masked_bias"}),
    )
