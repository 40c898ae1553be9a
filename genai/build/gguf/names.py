"""GGUF's names and conventions against Hugging Face's: tensor names, row orders, and the configuration.

What differs per architecture stands in `tables/`. The conventions are those of llama.cpp's converter
(`convert_hf_to_gguf.py`) and of its readers (`src/models/*.cpp`):

- Llama, Granite and SmolLM3 files hold query and key rows in pairs (0, D/2), (1, D/2 + 1), … of each head, because
  ggml rotates neighbours there; Hugging Face rotates halves.
- Gemma, Nemotron and Qwen3.5 files hold norm weights with 1 already added.
- Files hold `-exp(A_log)` of recurrences, and Qwen3.5's their value heads in tiles: one of each key head, and again.
- Llama 3's rotary scaling is a tensor of divisors, LongRoPE's two lists are tensors too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from genai.build.architectures.qwen3_5 import TILED
from genai.build.architectures.refused import unknown_gguf
from genai.build.gguf.file import GgufFile
from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.rotary import ROTARY_TENSORS, rotary_config
from genai.build.gguf.tables import architectures
from genai.build.source import JSON
from genai.errors import UnsupportedModelError, WeightsError

_LAYER_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,6})\.(.+)")
# Kept by old converters though the configuration says it all.
_REDUNDANT = re.compile(r"blk\.[0-9]+\.(attn_rot_embd|rope_freqs)\.weight")
_EXPERTS = re.compile(r"_(exps|shexp|chexps)(\.|$)|ffn_gate_inp|ffn_(gate|up|down)\.[0-9]+\.")

SUPPORTED = tuple(sorted(architectures()))
"""The values of `general.architecture` that can be read."""


def architecture_of(file: GgufFile) -> str:
    """The file's `general.architecture`. Raises: UnsupportedModelError if it is not one of `SUPPORTED`."""
    arch = file.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise WeightsError(f"{file.path}: metadata 'general.architecture' is missing")
    if arch not in architectures():
        raise UnsupportedModelError(f"{file.path}: {unknown_gguf(arch, SUPPORTED)}")
    return arch


def tensor_name(arch: str, gguf_name: str) -> str | None:
    """A tensor's Hugging Face name; None for those that are part of the configuration (rotary factors).

    Raises: UnsupportedModelError for a tensor that this architecture does not have.
    """
    if gguf_name in ROTARY_TENSORS or _REDUNDANT.fullmatch(gguf_name):
        return None
    known = architectures()[arch]
    if name := _named(known.top, gguf_name):
        return name
    match = _LAYER_NAME.fullmatch(gguf_name)
    if match and (name := _named(known.layer, match[2])):
        return f"model.layers.{match[1]}.{name}"
    is_of_experts = _EXPERTS.search(gguf_name) and not known.has_experts
    reason = "mixtures of experts are not supported" if is_of_experts else "not part of that architecture"
    raise UnsupportedModelError(f"tensor {gguf_name!r} in an {arch!r} file: {reason}")


def _named(table: Mapping[str, str], name: str) -> str | None:
    """A tensor's name by a table that has either the whole of it, or what stands before ".weight" or ".bias"."""
    stem, _, kind = name.rpartition(".")
    if name in table:
        return table[name]
    return f"{table[stem]}.{kind}" if kind in ("weight", "bias") and stem in table else None


def norm_offset(arch: str, hf_name: str) -> float:
    """What the file has added to this tensor: 1 for Gemma's norms, but never for a norm inside of a recurrence."""
    is_norm = hf_name.endswith("norm.weight") and not hf_name.endswith(".linear_attn.norm.weight")
    return architectures()[arch].norm_offset if is_norm else 0.0


def has_tiled_heads(arch: str) -> bool:
    """Whether value heads of recurrences lie in tiles."""
    return architectures()[arch].has_tiled_heads


def paired_heads(arch: str, hf_name: str, config: Mapping[str, JSON]) -> int | None:
    """How many heads' rows are stored in pairs in this tensor; None if its rows are in Hugging Face's order."""
    if architectures()[arch].has_paired_heads:
        for part, key in ((".q_proj.", "num_attention_heads"), (".k_proj.", "num_key_value_heads")):
            if part in hf_name and isinstance(heads := config[key], int):
                return heads
    return None


def unpaired_rows(num_rows: int, num_heads: int) -> npt.NDArray[np.int64]:
    """Row indices that turn pairs into halves: `stored[unpaired_rows(...)]` is in Hugging Face's order.

        stored  0 0' 1 1' 2 2' …   ─►   0 1 2 … 0' 1' 2' …     in every head
    Raises: WeightsError if the rows do not divide into pairs of every head.
    """
    if num_rows % (2 * num_heads):
        raise WeightsError(f"{num_rows} rows cannot hold {num_heads} heads of an even size")
    return np.arange(num_rows, dtype=np.int64).reshape(num_heads, -1, 2).swapaxes(1, 2).reshape(-1)


def config_from_gguf(file: GgufFile) -> dict[str, JSON]:
    """The keys of Hugging Face's `config.json`, from the metadata and from the tensors there are.

    Rotary scaling is in the older form: `rope_theta` beside `rope_scaling` (see `rotary_config`).
    Raises: UnsupportedModelError, WeightsError for missing or contradicting metadata.
    """
    arch = architecture_of(file)
    known = architectures()[arch]
    metadata = ArchitectureMetadata(file, arch, by_layer=known.by_layer, has_latent=known.has_latent)
    metadata.refuse_unhandled(known.reads)
    config = (
        metadata.common(known.norm)
        | {"model_type": known.model_type}
        | rotary_config(file, metadata)
        | known.extras(metadata)
        | ({TILED: True} if known.has_tiled_heads else {})
    )
    partial = config.get("partial_rotary_factor")
    if known.has_paired_heads and partial is not None:
        raise UnsupportedModelError(f"{file.path}: {arch!r} with only {partial} of each head rotated")
    return config
