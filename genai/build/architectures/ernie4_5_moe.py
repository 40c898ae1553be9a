"""ERNIE 4.5 with experts: neighbours rotated together, experts chosen by corrected shares of a softmax."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, feed_forwards, shared
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
    "moe_layer_start_index": 1,
    "moe_num_shared_experts": 2,
    "moe_k": 6,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """`use_bias` is for all products, the head's too; the shares of chosen experts are divided by their sum."""
    config = config.with_defaults(_DEFAULTS)
    has_bias = config.flag("use_bias")
    biases = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"} if has_bias else ())
    rotary = dataclasses.replace(config.rotary(), is_interleaved=True)
    attention = dataclasses.replace(config.attention(rotary), biases=biases)
    products = frozenset({"gate_proj", "up_proj", "down_proj"} if has_bias else ())
    dense = dataclasses.replace(config.mlp(), biases=products)
    moe = experts(config, RouterSpec(has_correction=True), top_k_key="moe_k")
    count = config.count("moe_num_shared_experts")
    everyones = (
        [dataclasses.replace(shared(config, moe.size * count, "mlp.shared_experts"), biases=products)] if count else []
    )
    mlps = feed_forwards(config, (moe, *everyones), _layers(config), dense)
    return dataclasses.replace(config.decoder([attention] * config.num_layers, mlps), head_bias=has_bias)


def stored_form(config: ConfigReader) -> StoredForm:
    """The scores' correction stands beside the router; what predicts further tokens is left out."""
    return StoredForm(
        inside={"mlp.moe_statics": "mlp.gate"},
        predicting=frozenset(_PREDICTING),
    )


_PREDICTING = ("model.mtp_block", "model.mtp_emb_norm", "model.mtp_hidden_norm", "model.mtp_linear_proj")


def _layers(config: ConfigReader) -> list[int]:
    interval, first = config.size("moe_layer_interval", 1), config.count("moe_layer_start_index")
    last = config.number("moe_layer_end_index", -1)
    layers = range(first, config.num_layers if last == -1 else min(int(last) + 1, config.num_layers))
    return [layer for layer in layers if (layer + 1) % interval == 0]
