"""How a model is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genai.errors import ConfigError

Dtype = Literal["f32", "f16", "bf16"]
DTYPES: tuple[Dtype, ...] = ("f32", "f16", "bf16")
Accumulate = Literal["f32", "hardware"]
ACCUMULATE: tuple[Accumulate, ...] = ("f32", "hardware")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    dtype: of weights, activations and caches; accumulate: how 16-bit models add up in softmax: "f32" asks the operator
    Attention for 32 bits, "hardware" leaves it to the runtime. Normalizations always add up in 32 bits, which is the
    only form that runtimes have.
    """

    dtype: Dtype = "f32"
    accumulate: Accumulate = "f32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype={self.dtype!r}: must be one of {', '.join(DTYPES)}")
        if self.accumulate not in ACCUMULATE:
            raise ConfigError(f"accumulate={self.accumulate!r}: must be one of {', '.join(ACCUMULATE)}")
        if self.accumulate != "f32" and self.dtype == "f32":
            raise ConfigError(f"accumulate={self.accumulate!r}: only models in 16 bits have a choice; give dtype, too")
