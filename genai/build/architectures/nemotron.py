"""Nemotron and Minitron: norms with bias and weights stored as `w - 1`, partial rotary, an ungated MLP of squares."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import PRE_NORM, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {"hidden_act": "relu2", "partial_rotary_factor": 0.5}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers with up and down only: `down(relu(up(x))²)`."""
    config = config.renamed({"norm_eps": "layer_norm_eps"}).with_defaults(_DEFAULTS)
    attentions = [config.attention(config.rotary())] * config.num_layers
    mlps = [config.plain_mlp(has_biases=config.flag("mlp_bias"))] * config.num_layers
    blocks = sequential(attentions, mlps, PRE_NORM)
    return config.decoder_of(blocks, dataclasses.replace(config.layer_norm, offset=1.0))
