"""Rotary frequencies for every scaling that checkpoints use, following transformers' `modeling_rope_utils`.

Sources: RoPE (arXiv 2104.09864), linear interpolation (2306.15595), YaRN (2309.00071), LongRoPE (2402.13753), and the
code published with Llama 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from genai.build.source import JSON, FloatArray
from genai.build.spec import RotarySpec
from genai.errors import UnsupportedModelError, WeightsError


def finite(key: str, value: JSON) -> float:
    """A finite number. Raises: WeightsError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WeightsError(f"the model's configuration has {key}={repr(value)[:80]}, not a number")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One checkpoint's rotary settings: `size` elements are rotated; positions are as in `spec_of`."""

    parameters: Mapping[str, JSON]
    size: int
    max_position: int
    model_max_position: int
    original_max_position: int | None

    def number(self, key: str, default: float | None = None) -> float:
        value = self.parameters.get(key)
        if value is None and default is not None:
            return default
        return finite(key, value)

    def factors(self, key: str) -> FloatArray:
        value = self.parameters.get(key)
        if not isinstance(value, list) or len(value) != self.size // 2:
            raise WeightsError(f"the model's configuration has no list of {self.size // 2} numbers in {key}")
        factors = np.array([finite(key, item) for item in value], np.float32)
        if not (factors > 0).all():
            raise WeightsError(f"the model's configuration has a {key} that is not positive")
        return factors

    @property
    def base(self) -> float:
        return self.number("rope_theta", 10000.0)

    @property
    def original(self) -> float:
        """Longest position the model was first trained for; the key beside the parameters goes before theirs."""
        if self.original_max_position is not None:
            return float(self.original_max_position)
        return self.number("original_max_position_embeddings", float(self.model_max_position))

    @property
    def extension(self) -> float:
        return self.number("factor", self.model_max_position / self.original)

    def plain(self, base: float | None = None) -> FloatArray:
        exponents = np.arange(0, self.size, 2, dtype=np.float32) / np.float32(self.size)
        return (np.float32(1.0) / np.float32(self.base if base is None else base) ** exponents).astype(np.float32)


def spec_of(
    parameters: Mapping[str, JSON],
    *,
    size: int,
    max_position: int,
    model_max_position: int,
    original_max_position: int | None,
) -> RotarySpec:
    """Frequencies for one set of parameters (`rope_type`, `rope_theta`, and what the type needs).

    size: elements rotated; max_position: the context to build for; model_max_position: the checkpoint's own.
    Raises: UnsupportedModelError for an unknown type, WeightsError for missing or bad values.
    """
    kind = str(parameters.get("rope_type") or parameters.get("type") or "default")
    if kind in _OLD_LONGROPE and "long_factor" in parameters:
        kind = "longrope"
    if kind not in _TYPES:
        raise UnsupportedModelError(f"rotary scaling {kind!r} is not supported; supported: {', '.join(sorted(_TYPES))}")
    if size < 2 or size % 2:
        raise WeightsError(f"rotary embedding of {size} elements: an even number is needed")
    request = _Request(
        parameters=parameters,
        size=size,
        max_position=max_position,
        model_max_position=model_max_position,
        original_max_position=original_max_position,
    )
    try:
        with np.errstate(all="ignore"):
            frequencies, scale = _TYPES[kind](request)
    except (ArithmeticError, ValueError):
        frequencies, scale = np.array([np.nan], np.float32), 1.0
    if not np.isfinite(frequencies).all() or not math.isfinite(scale) or scale <= 0:
        raise WeightsError(
            f"the model's configuration has rotary parameters that make no sense: {str(parameters)[:200]}"
        )
    return RotarySpec(inverse_frequencies=tuple(frequencies.astype(np.float32).tolist()), scale=scale)


def _default(request: _Request) -> tuple[FloatArray, float]:
    return request.plain(), 1.0


def _dynamic(request: _Request) -> tuple[FloatArray, float]:
    """Hunyuan's alpha is a larger base, once and for all; a factor is about texts beyond the model's own context."""
    if (alpha := request.number("alpha", 0.0)) <= 0:
        return request.plain(), 1.0  # no package is built for a longer one
    return request.plain(request.base * alpha ** (request.size / (request.size - 2))), 1.0


def _linear(request: _Request) -> tuple[FloatArray, float]:
    return request.plain() / np.float32(request.number("factor")), 1.0


def _proportional(request: _Request) -> tuple[FloatArray, float]:
    """The slowest of the whole head's frequencies do not rotate: in Gemma 4 three of four."""
    fraction = request.number("partial_rotary_factor", 1.0)
    if not 0 < fraction <= 1:
        raise WeightsError(f"the model's configuration has partial_rotary_factor={fraction}, not a part of 1")
    frequencies = request.plain() / np.float32(request.number("factor", 1.0))
    frequencies[int(fraction * request.size // 2) :] = 0
    return frequencies, 1.0


def _given_factors(request: _Request) -> tuple[FloatArray, float]:
    """GGUF stores Llama 3's scaling as one divisor per frequency."""
    return request.plain() / request.factors("factors"), 1.0


def _llama3(request: _Request) -> tuple[FloatArray, float]:
    plain = request.plain()
    factor, original = request.number("factor"), request.original
    low, high = request.number("low_freq_factor"), request.number("high_freq_factor")
    wavelengths = 2 * np.pi / plain
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * plain / factor + smooth * plain
    result = np.where(wavelengths > original / low, plain / factor, plain)
    is_medium = (wavelengths <= original / low) & (wavelengths >= original / high)
    return np.where(is_medium, blended, result).astype(np.float32), 1.0


def _yarn(request: _Request) -> tuple[FloatArray, float]:
    factor = request.extension

    def correction(rotations: float) -> float:
        return request.size * math.log(request.original / (rotations * 2 * math.pi)) / (2 * math.log(request.base))

    low = correction(request.number("beta_fast", 32.0) or 32.0)
    high = correction(request.number("beta_slow", 1.0) or 1.0)
    if request.parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, request.size - 1)
    if low == high:
        high += 0.001  # the ramp needs a width
    ramp = np.clip((np.arange(request.size // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    plain = request.plain()
    return (plain / factor * ramp + plain * (1 - ramp)).astype(np.float32), _yarn_scale(request, factor)


def _yarn_scale(request: _Request, factor: float) -> float:
    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if request.parameters.get("attention_factor") is not None:
        return request.number("attention_factor")
    all_dims = request.number("mscale_all_dim", 0.0)
    one = request.number("mscale", 0.0)
    return magnitude(one) / magnitude(all_dims) if one and all_dims else magnitude(1.0)


def _longrope(request: _Request) -> tuple[FloatArray, float]:
    """Long factors when the context to build for goes beyond the original one, else short ones.

    transformers switches by the length of each call, which changes the meaning of keys already cached; a choice made
    once keeps chunks, batches and rewinding equivalent. Phi-3.5-MoE gives the scale itself, one for each.
    """
    is_long = request.max_position > request.original
    frequencies = request.plain() / request.factors("long_factor" if is_long else "short_factor")
    scale = "long_mscale" if is_long else "short_mscale"
    if request.parameters.get(scale) is not None:
        return frequencies, request.number(scale)
    if request.parameters.get("attention_factor") is not None:
        return frequencies, request.number("attention_factor")
    factor = request.extension
    return frequencies, 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(request.original))


_OLD_LONGROPE = ("su", "yarn")
"""What LongRoPE was called in the first Phi-3 configurations."""

_TYPES: dict[str, Callable[[_Request], tuple[FloatArray, float]]] = {
    "default": _default,
    "mrope": _default,  # time, height and width of a place in an image: for text all three are the position
    "dynamic": _dynamic,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
    "gguf_factors": _given_factors,
}
