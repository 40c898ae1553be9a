"""Qwen3-Next: Qwen3.5's layers with experts; the products of a delta rule are stored as one, by key head."""

from __future__ import annotations

import numpy as np

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, feed_forwards, shared, sparse_layers
from genai.build.architectures.qwen3_5 import DEFAULTS, decoder_of
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import Rows, StoredForm


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts in every `decoder_sparse_step`-th layer, less `mlp_only_layers`, beside one for all tokens."""
    config = config.with_defaults({"norm_topk_prob": True})
    moe = experts(config, RouterSpec(is_normalised=config.flag("norm_topk_prob")))
    everyones = shared(
        config, config.size("shared_expert_intermediate_size"), "mlp.shared_expert", "mlp.shared_expert_gate"
    )
    return decoder_of(config, feed_forwards(config, (moe, everyones), sparse_layers(config)))


def stored_form(config: ConfigReader) -> StoredForm:
    """q, k, v and z of a key head stand together; layers that predict further tokens are left out."""
    return StoredForm(
        rows={"linear_attn.in_proj_qkvz": _apart(config.with_defaults(DEFAULTS))}, predicting=frozenset({"mtp"})
    )


def _apart(config: ConfigReader) -> Rows:
    """q k v v z z  q' k' v' v' z' z'   ─►   q q' k k' v v v' v' z z z' z'"""
    keys, values = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    key_dim, shared_size = config.size("linear_key_head_dim"), values // keys * config.size("linear_value_head_dim")
    sizes = [key_dim, key_dim, shared_size, shared_size]
    rows = np.arange(keys * sum(sizes), dtype=np.int64).reshape(keys, -1)
    return np.concatenate([part.reshape(-1) for part in np.split(rows, np.cumsum(sizes)[:-1], axis=1)])
