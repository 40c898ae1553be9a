"""What a decoder looks like, as data: the one thing an architecture file has to produce.

`architectures/<model_type>.py` reads a checkpoint's configuration into a `DecoderSpec`; `decoder.py` turns any spec
into a graph. A model family that needs something new adds a field here and a few lines in `layers.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RotarySpec:
    """Rotary embedding: one angle per position and entry of `inverse_frequencies` (half the rotated size).

    scale multiplies cosines and sines (yarn and longrope's attention factor).
    """

    inverse_frequencies: tuple[float, ...]
    scale: float = 1.0

    @property
    def size(self) -> int:
        """How many of a head's elements are rotated; the rest pass unchanged."""
        return 2 * len(self.inverse_frequencies)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """One layer's attention.

    scale: multiplies q·k; softcap: `softcap * tanh(score / softcap)`, None for none; sliding_window: a query sees this
    many newest keys, itself included; rotary: None for layers without position encoding; qk_norm: RMS norm of queries
    and keys over each head, or over all heads together, before the rotary embedding.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rotary: RotarySpec | None
    softcap: float | None = None
    sliding_window: int | None = None
    qk_norm: Literal["none", "per_head", "all_heads"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormNames:
    """Which checkpoint norm stands where in a layer; None where the model has none."""

    attention_in: str | None
    attention_out: str | None
    mlp_in: str | None
    mlp_out: str | None

    def of_layer(self, layer: int) -> NormNames:
        """The names with one layer's prefix."""
        names = {key: name and f"model.layers.{layer}.{name}" for key, name in dataclasses.asdict(self).items()}
        return NormNames(**names)


PRE_NORM = NormNames(
    attention_in="input_layernorm", attention_out=None, mlp_in="post_attention_layernorm", mlp_out=None
)
POST_NORM = NormNames(
    attention_in=None, attention_out="post_attention_layernorm", mlp_in=None, mlp_out="post_feedforward_layernorm"
)
SANDWICH_NORM = NormNames(
    attention_in="input_layernorm",
    attention_out="post_attention_layernorm",
    mlp_in="pre_feedforward_layernorm",
    mlp_out="post_feedforward_layernorm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A whole decoder.

    norm_offset: added to every norm weight (Gemma stores `w - 1`); embedding_scale, residual_scale and logits_scale
    multiply what their names say; fused_checkpoint: the checkpoint itself holds q/k/v and gate/up fused (Phi-3);
    biases: products ("q_proj", …) that must have a bias in every layer, others have one where the checkpoint does;
    has_wide_residual: the residual stream outgrows float16 and is kept in float32 there.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    max_position: int
    layers: tuple[AttentionSpec, ...]
    norm_eps: float
    is_head_tied: bool
    activation: Activation = "silu"
    norms: NormNames = PRE_NORM
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    logits_softcap: float | None = None
    fused_checkpoint: bool = False
    biases: frozenset[str] = frozenset()
    has_wide_residual: bool = False

    @property
    def sliding_window(self) -> int | None:
        """The smallest window of any layer, None if every layer sees everything."""
        return min((layer.sliding_window for layer in self.layers if layer.sliding_window), default=None)
