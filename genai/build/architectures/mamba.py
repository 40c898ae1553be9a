"""What families with Mamba-2 have in common: sizes, bounds, and the kinds of layers under their old and new names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import Mamba2Spec
from genai.errors import UnsupportedModelError, WeightsError

V = TypeVar("V")


def mamba2(config: ConfigReader, inner_size: int) -> Mamba2Spec:
    """The mixer by the usual keys, `mamba_*`; inner_size: elements of all heads together.

    Raises: WeightsError for numbers that contradict each other, UnsupportedModelError for another activation.
    """
    if config.activation != "silu":
        raise UnsupportedModelError(f"Mamba-2 with activation {config.activation!r}: only silu is supported")
    heads, groups = config.size("mamba_n_heads"), config.size("mamba_n_groups", 1)
    head_dim = inner_size // heads if config.get("mamba_d_head") == "auto" else config.size("mamba_d_head")
    if heads * head_dim != inner_size or heads % groups:
        raise WeightsError(
            f"the model's configuration has {heads} Mamba heads of {head_dim} elements in {groups} groups; they should "
            f"divide evenly and make {inner_size} elements"
        )
    has = {"in_proj": "mamba_proj_bias", "conv1d": "mamba_conv_bias", "out_proj": "mamba_proj_bias"}
    config = config.with_defaults({"mamba_conv_bias": True})
    return Mamba2Spec(
        num_heads=heads,
        head_dim=head_dim,
        num_groups=groups,
        state_size=config.size("mamba_d_state"),
        kernel=config.kernel("mamba_d_conv", 4),
        norm_eps=config.positive("rms_norm_eps", 1e-5),
        bounds=_bounds(config),
        biases=frozenset(name for name, key in has.items() if config.flag(key)),
    )


def kinds_of(parts: Mapping[str, V], types: Sequence[JSON]) -> list[V]:
    """Each layer's part by the kind that a configuration calls it, as transformers does today or did before version 5.

    Raises: UnsupportedModelError for a kind that is not among the parts.
    """
    kinds = [_NEW_NAMES.get(str(kind), str(kind)) for kind in types]
    if unknown := sorted(set(kinds) - parts.keys()):
        raise UnsupportedModelError(f"layer type {unknown[0]!r} is not supported; supported: {', '.join(parts)}")
    return [parts[kind] for kind in kinds]


_NEW_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}


def _bounds(config: ConfigReader) -> tuple[float, float]:
    """Of the time step: the upper one may be infinite, which JSON files say in one way or another."""
    limits = config.items("time_step_limit", 2)
    if limits is None:
        return 0.0, math.inf
    found = [limit.get("__float__") if isinstance(limit, dict) else limit for limit in limits]
    try:
        least, most = (float(limit) for limit in found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        least = most = math.nan
    if not 0 <= least < most:
        raise WeightsError(f"the model's configuration has time_step_limit={str(limits)[:80]}, not two rising numbers")
    return least, most
