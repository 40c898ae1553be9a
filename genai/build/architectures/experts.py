"""What families of experts have in common: sizes under several keys, layers without experts, names in checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from genai.build.architectures.blocks import FeedForward
from genai.build.architectures.config import ConfigReader
from genai.build.spec import MlpSpec, MoeSpec, RouterSpec
from genai.build.stored import StoredForm
from genai.errors import UnsupportedModelError, WeightsError

_COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

MIXTRAL_NAMES = {
    "block_sparse_moe.gate": "mlp.gate",
    "block_sparse_moe.experts.*.w1": "mlp.experts.*.gate_proj",
    "block_sparse_moe.experts.*.w3": "mlp.experts.*.up_proj",
    "block_sparse_moe.experts.*.w2": "mlp.experts.*.down_proj",
}
"""Modules within a layer as Mixtral and Phi's experts call them."""


def experts(
    config: ConfigReader,
    router: RouterSpec,
    *,
    size_key: str = "moe_intermediate_size",
    top_k_key: str = "num_experts_per_tok",
) -> MoeSpec:
    """The usual experts, gated by SiLU.

    Raises: WeightsError for numbers that contradict each other, UnsupportedModelError for another activation.
    """
    if config.activation != "silu":
        raise UnsupportedModelError(f"experts with activation {config.activation!r}: only silu has a kernel")
    count, top_k = config.first_size(*_COUNT_KEYS), config.size(top_k_key)
    if top_k > count:
        raise WeightsError(f"the model's configuration chooses {top_k} experts of {count}")
    _check_groups(router, count, top_k)
    return MoeSpec(num_experts=count, top_k=top_k, size=config.size(size_key), router=router)


def feed_forwards(
    config: ConfigReader, with_experts: FeedForward, layers: Collection[int], dense: MlpSpec | None = None
) -> list[FeedForward]:
    """Each layer's feed-forward: with experts in these layers, else the usual one."""
    other: FeedForward = dense or config.mlp()
    return [with_experts if layer in layers else other for layer in range(config.num_layers)]


def shared(config: ConfigReader, size: int, name: str, output_gate: str | None = None) -> MlpSpec:
    """An expert that all tokens go through."""
    return dataclasses.replace(config.mlp(), size=size, name=name, output_gate=output_gate)


def sparse_layers(config: ConfigReader) -> Sequence[int]:
    """Qwen's layers with experts: every `decoder_sparse_step`-th, less `mlp_only_layers`."""
    step, left_out = config.size("decoder_sparse_step", 1), config.numbers("mlp_only_layers")
    return [layer for layer in range(config.num_layers) if (layer + 1) % step == 0 and layer not in left_out]


def corrected_sigmoid(config: ConfigReader) -> RouterSpec:
    """The router of DeepSeek V3 and later."""
    return RouterSpec(
        score="sigmoid",
        has_correction=True,
        groups=config.size("n_group", 1),
        kept_groups=config.size("topk_group", 1),
        group_score="two_best",
        is_normalised=config.flag("norm_topk_prob"),
        scale=config.number("routed_scaling_factor", 1.0),
    )


def predicting_form(config: ConfigReader) -> StoredForm:
    """Layers behind the last one predict further tokens; `num_nextn_predict_layers` says how many."""
    count = config.count("num_nextn_predict_layers")
    return StoredForm(predicting=frozenset(f"model.layers.{config.num_layers + index}" for index in range(count)))


def _check_groups(router: RouterSpec, count: int, top_k: int) -> None:
    groups, kept = router.groups, router.kept_groups
    least = 2 if router.group_score == "two_best" and groups > 1 else 1
    if count % groups or kept > groups or count // groups < least or count // groups * kept < top_k:
        raise WeightsError(
            f"the model's configuration chooses {top_k} of {count} experts, in {kept} of {groups} groups: impossible"
        )
