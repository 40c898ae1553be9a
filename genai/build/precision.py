"""What a precision name means for each weight and for the activations.

| precision | weights | activations and cache |
|---|---|---|
| f32 | as they are, standard operators only, but MoE for experts | f32 |
| f16, bf16 | f16, bf16; norms, rotary angles, softmax and logits in f32 | the same |
| int8 | 8-bit blocks, symmetric | f32 on CPU, f16 on CUDA |
| int4 | 4-bit blocks of 32 with offsets; values' products, embedding and head as in auto | f32 on CPU, f16 on CUDA |
| auto | CPU: a GGUF's own blocks of up to 4 bits, and those of 8 that are symmetric; else as int8; CUDA: as f16 | |

What recurrences compute between products, their states and their small weights are f32 in all of these; in f32 itself
they are loops of standard operators, for checking.

A mixture of experts is MoE with float weights and QMoE with integers. Blocks that the file has in that form are kept,
offsets included (`quantize.with_offset_columns`); what is rounded anew to 8 bits gets blocks of 64 weights (32 where
rows are no multiple of 64), and so do 6 bits in blocks of 16. On CPU a product with blocks of 64 takes 11 to 14 % less
time than with 32; SmolLM2's mean KL to f32 goes from 0.0035 to 0.0050. Of 5 bits with offsets (Q5_K, Q5_1) the blocks
stay those of the file, 32 weights: SmolLM2's Q5_K_M then costs 0.0045 instead of 0.0056 (llama.cpp: 0.0049), for 4 %
more bytes. Embedding, head and experts have no place for offsets: they become 8 bits. (An expert's first product could
have them in further columns; its second reads what only the operator sees, and on CPU QMoE refuses other bits for the
one than for the other.) In int4 the products of attention's values keep more bits where the file has more: Gemma 3
270M's mean KL goes from 0.140 to 0.090 for half a per cent more bytes. Nor are the small matrices that make a latent's
heads rounded to 4 bits (tiny DeepSeek V3, all else in 8: mean KL 0.115, with 8 for them 0.008, as floats 0.007).
Routers stay floats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from genai.build.quantize import quantize, quantize_with_offsets, requantized
from genai.build.source import BlockWeight, WeightSource
from genai.config import PRECISIONS, Precision
from genai.errors import ConfigError
from genai.runtime.providers import provider_class

FloatType = Literal["float32", "float16", "bfloat16"]
IntegerForm = Literal["exact", "int8", "int4"]
WeightForm = Literal["float"] | IntegerForm

_SENSITIVE = re.compile(r"\.(v_proj|in_proj_(a|b|ba)|[kv]_b_proj\.[0-9]+)\.weight")
"""What is not rounded to 4 bits."""
_FLOATS: dict[str, FloatType] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_INTEGERS: dict[str, tuple[IntegerForm, IntegerForm]] = {
    "auto": ("exact", "exact"),
    "int8": ("int8", "int8"),
    "int4": ("int4", "exact"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How weights and activations are held.

    dtype: activations, caches and float weights; matrices: the layers' products; ends: embedding and head.
    """

    dtype: FloatType
    matrices: WeightForm
    ends: WeightForm

    @property
    def is_standard(self) -> bool:
        """Only operators of the standard `ai.onnx` domain, but for experts, and recurrences in 16 bits."""
        return self.matrices == "float"

    @property
    def has_loops(self) -> bool:
        """Whether recurrences are standard operators, too: a loop over tokens, in float32 alone.

        Elsewhere they are LinearAttention of contrib, ten times faster.
        """
        return self.is_standard and self.dtype == "float32"

    @classmethod
    def of(cls, precision: Precision, device: str) -> Plan:
        """The plan for a precision on a device. Raises: ConfigError for an unknown precision or device."""
        if precision not in PRECISIONS:
            raise ConfigError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}")
        provider = provider_class(device)
        name = provider.auto_precision if precision == "auto" else precision
        if name in _FLOATS:
            return cls(dtype=_FLOATS[name], matrices="float", ends="float")
        matrices, ends = _INTEGERS[name]
        return cls(dtype=provider.activations, matrices=matrices, ends=ends)


def read_quantized(
    source: WeightSource, name: str, form: IntegerForm, *, may_have_offsets: bool, rows: slice | None = None
) -> BlockWeight:
    """A matrix [N, K], or these rows of it, in blocks: the file's own where they have the form asked for, else rounded.

    may_have_offsets: it becomes a product; other readers of blocks know none.
    """
    if _SENSITIVE.search(name):
        form = "exact" if form == "int4" else form
    stored, columns = source.read_blocks(name, rows), source.shape(name)[-1]
    may_have_offsets = may_have_offsets and columns % 32 == 0
    has_offsets = stored is not None and stored.offsets is not None
    if stored is not None and form != "int8" and stored.bits == 4 and (may_have_offsets or not has_offsets):
        return stored
    block_size = 64 if columns % 64 == 0 else 32
    if form == "int4":
        weight = source.read(name, rows)
        if may_have_offsets:
            return quantize_with_offsets(weight)
        return quantize(weight, bits=4, block_size=block_size)
    if stored is None:
        return quantize(source.read(name, rows), bits=8, block_size=block_size)
    return requantized(stored, block_size=stored.block_size if stored.bits == 8 and has_offsets else block_size)
