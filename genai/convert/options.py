"""What to do to a model besides putting it onto the contract."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from genai.config import PRECISIONS, Precision
from genai.errors import ConfigError

CONVERTER = "genai-convert-3"
"""Changes whenever the same source and options would give another graph: cached packages are keyed by it."""

Quantization = Literal["int4", "int8"]
QUANTIZATIONS: tuple[Quantization, ...] = ("int4", "int8")
FloatType = Literal["f32", "f16", "bf16"]
FLOAT_TYPES: tuple[FloatType, ...] = ("f32", "f16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """What to do besides putting the model onto the contract.

    quantize: round float products to blocks of 4 or 8 bits; dtype: of activations, caches and float weights, None for
    the model's own; precision: chooses among a folder's files and rounds what is float, in place of the former two
    (None: the file without an ending); file: the one to convert, by its path, name or ending; scatter_nd: write the
    caches by ScatterND, for providers without TensorScatter; max_seq_len: the longest sequence, None for what the
    model's configuration says; hf_folder: where the model's `config.json` and tokenizer are, if not
    beside it.
    """

    quantize: Quantization | None = None
    dtype: FloatType | None = None
    precision: Precision | None = None
    file: str | None = None
    scatter_nd: bool = False
    max_seq_len: int | None = None
    hf_folder: Path | None = None

    def __post_init__(self) -> None:
        given = (
            ("quantize", self.quantize, QUANTIZATIONS),
            ("dtype", self.dtype, FLOAT_TYPES),
            ("precision", self.precision, PRECISIONS),
        )
        for name, value, allowed in given:
            if value is not None and value not in allowed:
                raise ConfigError(f"{name}={value!r}: must be one of {', '.join(allowed)}")
        if self.precision is not None and (self.quantize is not None or self.dtype is not None):
            raise ConfigError("precision chooses a file and how to round it: give it, or quantize and dtype")
        if self.max_seq_len is not None and self.max_seq_len < 1:
            raise ConfigError(f"max_seq_len={self.max_seq_len}: must be at least 1")

    def as_data(self) -> dict[str, str | int | bool | None]:
        """What the result depends on, for the package's provenance."""
        return {name: value for name, value in asdict(self).items() if name != "hf_folder"}

    @property
    def has_passes(self) -> bool:
        """Whether numbers change by more than the order of sums."""
        return self.quantize is not None or self.dtype in ("f16", "bf16")
