"""A tiny llama with random weights, built by our own builder without any checkpoint on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from genai.build.architectures import spec_of
from genai.build.architectures.config import ConfigReader
from genai.build.decoder import build_decoder
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.precision import Plan
from genai.build.source import BlockWeight
from genai.build.weights import Weights
from genai.config import Precision

CONFIG = {
    "model_type": "mistral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


class RandomSource:
    """Every tensor drawn from its name, so that it is the same in every build.

    overflowing: a token whose values in the first layer are beyond float32, though all weights are finite numbers.
    """

    def __init__(self, *, overflowing: int | None = None, **changes: object) -> None:
        self.overflowing = overflowing
        self.config = {**CONFIG, **changes}
        hidden, inner, vocab_size = 64, 96, self.config["vocab_size"]
        assert isinstance(vocab_size, int)
        self._shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        for layer in range(2):
            for name, shape in {
                "self_attn.q_proj": (64, hidden),
                "self_attn.k_proj": (32, hidden),
                "self_attn.v_proj": (32, hidden),
                "self_attn.o_proj": (hidden, 64),
                "mlp.gate_proj": (inner, hidden),
                "mlp.up_proj": (inner, hidden),
                "mlp.down_proj": (hidden, inner),
                "input_layernorm": (hidden,),
                "post_attention_layernorm": (hidden,),
            }.items():
                self._shapes[f"model.layers.{layer}.{name}.weight"] = shape

    def names(self) -> set[str]:
        return set(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        values = np.random.default_rng(sum(name.encode())).standard_normal(self._shapes[name]).astype(np.float32)
        values = values * 0.15 if values.ndim == 2 else 1 + values * 0.1
        if self.overflowing is not None and name == "model.embed_tokens.weight":
            values[:, 0] = 0  # only this token has anything in the first channel
            values[self.overflowing] = 0
            values[self.overflowing, 0] = 1
        elif self.overflowing is not None and name == "model.layers.0.self_attn.v_proj.weight":
            values[:, 0] = np.copysign(3e38, values[:, 0])
        return values[rows or slice(None)]

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        return None


def build_random_model(
    folder: Path,
    precision: Precision = "f32",
    *,
    weights_of: Callable[..., RandomSource] = RandomSource,
    **changes: object,
) -> Path:
    """Build the model file (and its data) in a folder; weights_of: what has other weights; returns its path."""
    source = weights_of(**changes)
    path = folder / "model.onnx"
    with ExternalData(folder / "model.onnx.data") as data:
        weights = Weights(GraphBuilder(data), source, Plan.of(precision, "cpu"))
        model = build_decoder(spec_of(ConfigReader(source.config)), weights, {})
    onnx.save(model, path)
    return path
