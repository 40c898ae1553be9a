"""What a precision name means for each weight and for the activations.

| precision | weights | activations and cache |
|---|---|---|
| f32 | as they are, standard operators only | f32 |
| f16, bf16 | f16, bf16; norms, rotary angles, softmax and logits in f32 | the same |
| int8 | 8-bit blocks of 32, symmetric | f32 on CPU, f16 on CUDA |
| int4 | 4-bit blocks of 32, symmetric; embedding and head in 8 bits | f32 on CPU, f16 on CUDA |
| auto | CPU: a GGUF's own blocks where MatMulNBits holds them exactly, else as int8; CUDA: f16 | |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genai.build.quantize import quantize, requantized
from genai.build.source import BlockWeight, WeightSource
from genai.config import Precision
from genai.errors import ConfigError

FloatType = Literal["float32", "float16", "bfloat16"]
WeightForm = Literal["float", "exact", "int8", "int4"]

BLOCK_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How weights and activations are held.

    dtype: activations, cache and float weights; matrices: the layers' products; ends: embedding and head.
    """

    dtype: FloatType
    matrices: WeightForm
    ends: WeightForm

    @property
    def is_standard(self) -> bool:
        """Only operators of the standard `ai.onnx` domain."""
        return self.matrices == "float"

    @classmethod
    def of(cls, precision: Precision, device: str) -> Plan:
        """The plan for a precision on a device ("cpu" or "cuda")."""
        activations: FloatType = "float16" if device == "cuda" else "float32"
        if precision == "auto":
            precision = "f16" if device == "cuda" else "auto"
        match precision:
            case "f32":
                return cls(dtype="float32", matrices="float", ends="float")
            case "f16":
                return cls(dtype="float16", matrices="float", ends="float")
            case "bf16":
                return cls(dtype="bfloat16", matrices="float", ends="float")
            case "int8":
                return cls(dtype=activations, matrices="int8", ends="int8")
            case "int4":
                return cls(dtype=activations, matrices="int4", ends="int8")
            case "auto":
                return cls(dtype=activations, matrices="exact", ends="exact")
        raise ConfigError(f"precision={precision!r}: allowed are auto, f32, f16, bf16, int8, int4")


def read_quantized(source: WeightSource, name: str, form: WeightForm) -> BlockWeight:
    """A matrix [N, K] in the integer form that a plan asks for."""
    stored = source.read_blocks(name)
    bits: Literal[4, 8] = 4 if form == "int4" else 8
    if stored is not None and stored.offsets is None and stored.bits <= (4 if form == "int4" else 8):
        return stored
    if stored is not None and form != "int4":
        return requantized(stored)
    return quantize(source.read(name), bits=bits, block_size=BLOCK_SIZE)
