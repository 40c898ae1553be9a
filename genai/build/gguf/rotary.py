"""A GGUF file's rotary embedding as Hugging Face configuration keys."""

from __future__ import annotations

import numpy as np

from genai.build.gguf.file import GgufFile
from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.source import JSON
from genai.errors import UnsupportedModelError, WeightsError

_DIVISORS = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
ROTARY_TENSORS = frozenset({_DIVISORS, _LONG, _SHORT})
"""Tensors that are configuration, not weights."""

_ORIGINAL_CONTEXT = "rope.scaling.original_context_length"
_YARN_KEYS = {
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}


def rotary_config(file: GgufFile, metadata: ArchitectureMetadata) -> dict[str, JSON]:
    """`rope_theta`, `rope_scaling` and, where they are needed, two more keys.

    `rope_scaling` is None or has `rope_type` linear, yarn or longrope with Hugging Face's keys, or `gguf_factors`
    with `factors`: what each inverse frequency is divided by (Llama 3's scaling, already worked out by the converter).
    Raises: UnsupportedModelError for another scaling, WeightsError.
    """
    config: dict[str, JSON] = {"rope_theta": metadata.number("rope.freq_base", 10000.0)}
    rotated = metadata.size("rope.dimension_count", metadata.head_dim)
    if rotated > metadata.head_dim:
        raise WeightsError(f"{file.path}: {rotated} rotated elements in heads of {metadata.head_dim}")
    if rotated < metadata.head_dim:
        config["partial_rotary_factor"] = rotated / metadata.head_dim
    if original := metadata.optional_size(_ORIGINAL_CONTEXT):
        config["original_max_position_embeddings"] = original
    config["rope_scaling"] = _scaling(file, metadata, rotated // 2)
    return config


def _scaling(file: GgufFile, metadata: ArchitectureMetadata, num_factors: int) -> JSON:
    kind = metadata.text("rope.scaling.type")
    # The key is optional, and so is the factor; llama.cpp takes a factor without a type for linear scaling.
    factor = metadata.number("rope.scaling.factor", metadata.optional_number("rope.scale_linear") or 0.0)
    is_scaled = kind not in ("none", "longrope") and factor not in (0.0, 1.0)
    if _LONG in file.tensors or kind == "longrope":
        return _longrope(file, metadata, num_factors)
    if _DIVISORS in file.tensors:
        if is_scaled:
            raise UnsupportedModelError(f"{file.path}: rotary divisors together with {kind or 'linear'} scaling")
        factors = _factors(file, _DIVISORS, num_factors)
        return None if factors == [1.0] * num_factors else {"rope_type": "gguf_factors", "factors": factors}
    if not is_scaled:
        return None
    if kind in (None, "linear"):
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return yarn(metadata, factor)
    raise UnsupportedModelError(f"{file.path}: rotary scaling {kind!r}; supported: none, linear, yarn, longrope")


def yarn(metadata: ArchitectureMetadata, factor: float) -> dict[str, JSON]:
    """YaRN's `rope_scaling`. Raises: UnsupportedModelError for an extrapolation factor."""
    if (extrapolation := metadata.number("rope.scaling.yarn_ext_factor", 1.0)) not in (1.0, -1.0):
        raise UnsupportedModelError(f"{metadata.path}: yarn with an extrapolation factor of {extrapolation}")
    scaling: dict[str, JSON] = {"rope_type": "yarn", "factor": factor}
    if original := metadata.optional_size(_ORIGINAL_CONTEXT):
        scaling["original_max_position_embeddings"] = original
    for key, name in _YARN_KEYS.items():
        if (value := metadata.optional_number(key)) is not None:
            scaling[name] = value
    if all_dims := metadata.optional_number("rope.scaling.yarn_log_multiplier"):
        scaling |= {"mscale": 1.0, "mscale_all_dim": all_dims}
        if metadata.has_latent:  # such files hold a tenth of it, and mean both numbers
            scaling |= {"mscale": 10 * all_dims, "mscale_all_dim": 10 * all_dims}
    return scaling


def _longrope(file: GgufFile, metadata: ArchitectureMetadata, num_factors: int) -> JSON:
    scaling: dict[str, JSON] = {
        "rope_type": "longrope",
        "long_factor": _factors(file, _LONG, num_factors),
        "short_factor": _factors(file, _SHORT, num_factors),
        "original_max_position_embeddings": metadata.size(_ORIGINAL_CONTEXT, metadata.size("context_length")),
    }
    if (attention := metadata.optional_number("rope.scaling.attn_factor")) is not None:
        scaling["attention_factor"] = attention
    return scaling


def _factors(file: GgufFile, name: str, count: int) -> list[JSON]:
    if file.info(name).shape != (count,):
        raise WeightsError(f"{file.path}: tensor {name!r} has shape {file.info(name).shape}, not ({count},)")
    factors = file.read(name)
    if not np.isfinite(factors).all() or (factors <= 0).any():
        raise WeightsError(f"{file.path}: tensor {name!r} has factors that are not positive numbers")
    return [float(str(factor)) for factor in factors]
