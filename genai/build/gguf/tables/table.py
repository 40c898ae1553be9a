"""What one `general.architecture` is: the names of its tensors, its conventions, the configuration keys it adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from genai.build.gguf.metadata import ArchitectureMetadata, Norm
from genai.build.source import JSON
from genai.errors import UnsupportedModelError

Extras: TypeAlias = Callable[[ArchitectureMetadata], dict[str, JSON]]

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
PRE_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
PLAIN = ATTENTION | MLP | PRE_NORMS
FUSED_ATTENTION = {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj"}
UNGATED_MLP = {"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
ROUTER = {"ffn_gate_inp": "mlp.gate", "exp_probs_b.bias": "mlp.gate.e_score_correction_bias"}
"""Of mixtures of experts, whose own tensors `tensors.py` names."""


def shared_expert(module: str) -> dict[str, str]:
    """An expert that all tokens go through, as this module."""
    return {f"ffn_{part}_shexp": f"{module}.{part}_proj" for part in ("gate", "up", "down")}


def windowless(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    """The extras of architectures whose files cannot say which layers a window is for: none.

    Raises: UnsupportedModelError for a file with a window.
    """
    if window := metadata.window():
        raise UnsupportedModelError(f"{metadata.path}: a sliding window of {window} in {metadata.arch!r} files")
    return {}


SOFTMAX, SIGMOID = 1, 2
"""Values of `expert_gating_func`."""


def expert_sizes(metadata: ArchitectureMetadata, *, gating: int = SOFTMAX, groups: bool = False) -> dict[str, JSON]:
    """How many experts there are, how many are chosen, and their size, under Mixtral's and Qwen's names.

    gating: what the architecture does to the router's logits; groups: it knows groups of experts.
    Raises: UnsupportedModelError for a file that says something else.
    """
    if (found := metadata.size("expert_gating_func", gating)) != gating:
        raise UnsupportedModelError(f"{metadata.path}: {metadata.arch}.expert_gating_func={found} is not supported")
    if not groups and (count := metadata.size("expert_group_count", 1)) != 1:
        raise UnsupportedModelError(f"{metadata.path}: {metadata.arch}.expert_group_count={count} is not supported")
    used = metadata.size("expert_used_count")
    # Files made before the key was there: llama.cpp takes the dense size, divided among those that are used.
    size = metadata.optional_size("expert_feed_forward_length")
    if size is None:
        size = max(1, metadata.size("feed_forward_length") // used)
    return {
        "num_experts": metadata.size("expert_count"),
        "num_experts_per_tok": used,
        "moe_intermediate_size": size,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One `general.architecture`.

    model_type: Hugging Face's; layer: names inside a layer, top: names outside of layers, each without ".weight" or
    ".bias", or with it where only that one tensor is meant ("attn_sinks.weight": "self_attn.sinks").
    extras: configuration keys beyond the common ones (they replace common ones).
    reads: metadata keys that would change other models, but are handled here; by_layer: keys whose values differ from
    layer to layer in such files: the common configuration has the largest, extras say more.
    has_tiled_heads: value heads of recurrences lie in tiles, one of each key head, and again.
    norm: whose epsilon files have; norm_offset: what files have added to its weights.
    has_experts: files hold stacks of experts, which get names of their own (`tensors.py`).
    has_latent: keys and values come from one vector; files tell sizes of that, and of heads' matrices hold stacks.
    numbers: weights of one element in each layer that files hold as lists in their metadata: name inside a layer to
    the whole key.
    """

    model_type: str
    layer: Mapping[str, str]
    top: Mapping[str, str] = field(default_factory=lambda: TOP)
    extras: Extras = windowless
    has_paired_heads: bool = False
    has_tiled_heads: bool = False
    norm: Norm = "rms"
    norm_offset: float = 0.0
    reads: frozenset[str] = frozenset()
    by_layer: frozenset[str] = frozenset()
    has_experts: bool = False
    has_latent: bool = False
    numbers: Mapping[str, str] = field(default_factory=dict)
