"""The ways in which families put attention and feed-forward into blocks, and what their norms are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from genai.build.spec import BlockSpec, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class NormNames:
    """Which checkpoint norm stands where in a layer of two blocks; None where the model has none."""

    attention_in: str | None
    attention_out: str | None
    mlp_in: str | None
    mlp_out: str | None


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


FeedForward: TypeAlias = Part | tuple[Part, ...]
"""What feeds forward in a layer: one part, or several whose sum does."""


def sequential(attentions: Sequence[Part], mlps: Sequence[FeedForward], norms: NormNames) -> tuple[BlockSpec, ...]:
    """Layers of two blocks: attention, and then what feeds forward."""
    blocks: list[BlockSpec] = []
    for layer, (attention, mlp) in enumerate(zip(attentions, mlps, strict=True)):
        parts = mlp if isinstance(mlp, tuple) else (mlp,)
        blocks += [
            BlockSpec(layer=layer, parts=(attention,), norm_in=norms.attention_in, norm_out=norms.attention_out),
            BlockSpec(layer=layer, parts=parts, norm_in=norms.mlp_in, norm_out=norms.mlp_out),
        ]
    return tuple(blocks)


def parallel(
    attentions: Sequence[Part], mlps: Sequence[Part], norms: str | tuple[str, str] = "input_layernorm"
) -> tuple[BlockSpec, ...]:
    """Layers of one block: attention and what feeds forward read the same norm, or each its own; both are added."""
    return tuple(
        BlockSpec(layer=layer, parts=(attention, mlp), norm_in=norms)
        for layer, (attention, mlp) in enumerate(zip(attentions, mlps, strict=True))
    )
