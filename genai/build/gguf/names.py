"""GGUF's names and conventions against Hugging Face's: tensor names, row orders, and the configuration.

What differs per architecture stands in `_ARCHITECTURES`. The conventions are those of llama.cpp's converter
(`convert_hf_to_gguf.py`) and of its readers (`src/models/*.cpp`):

- Llama, Granite and SmolLM3 files hold query and key rows in pairs (0, D/2), (1, D/2 + 1), … of each head, because
  ggml rotates neighbours there; Hugging Face rotates halves.
- Gemma files hold norm weights with 1 already added.
- Llama 3's rotary scaling is a tensor of divisors, LongRoPE's two lists are tensors too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from genai.build.gguf.file import GgufFile
from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.rotary import ROTARY_TENSORS, rotary_config
from genai.build.source import JSON
from genai.errors import UnsupportedModelError, WeightsError

_Extras: TypeAlias = Callable[[ArchitectureMetadata], dict[str, JSON]]

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_PRE_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_PLAIN = _ATTENTION | _MLP | _PRE_NORMS

_LAYER_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,6})\.(.+)")
# Kept by old converters though the configuration says it all.
_REDUNDANT = re.compile(r"blk\.[0-9]+\.(attn_rot_embd|rope_freqs)\.weight")
_EXPERTS = re.compile(r"_(exps|shexp|chexps)(\.|$)|ffn_gate_inp|ffn_(gate|up|down)\.[0-9]+\.")


def _llama(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    window = metadata.window()
    return {"model_type": "mistral", "sliding_window": window} if window else {}


def _windowless(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    """Architectures whose files cannot say which layers a window is for."""
    if window := metadata.window():
        raise UnsupportedModelError(f"{metadata.path}: a sliding window of {window} in {metadata.arch!r} files")
    return {}


def _phi3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return {"sliding_window": metadata.window()}


def _smollm3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # llama.cpp has the interval as a constant: no key holds it.
    uses_rotary: list[JSON] = [int((layer + 1) % 4 != 0) for layer in range(metadata.num_layers)]
    return _windowless(metadata) | {"no_rope_layers": uses_rotary, "no_rope_layer_interval": 4}


def _gemma3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # The 27B model, known by its depth, is the one that scales queries by something else than the head size.
    scalar = metadata.hidden_size // metadata.num_heads if metadata.num_layers == 62 else metadata.head_dim
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": metadata.window(),
        "layer_types": metadata.layer_types(default_period=6),
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": metadata.optional_number("final_logit_softcapping"),
        "attn_logit_softcapping": metadata.optional_number("attn_logit_softcapping"),
    }


def _olmo2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    if not (window := metadata.window()):
        return {}
    return {"model_type": "olmo3", "sliding_window": window, "layer_types": metadata.layer_types(default_period=4)}


def _granite(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    if metadata.flag("rope.scaling.finetuned") is False:
        raise UnsupportedModelError(f"{metadata.path}: Granite without rotary embedding (rope.scaling.finetuned=False)")
    return _windowless(metadata) | {
        "attention_multiplier": metadata.number("attention.scale", metadata.head_dim**-0.5),
        "embedding_multiplier": metadata.number("embedding_scale", 1.0),
        "residual_multiplier": metadata.number("residual_scale", 1.0),
        "logits_scaling": metadata.number("logit_scale"),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """One `general.architecture`.

    layer: names inside a layer; extras: configuration keys beyond the common ones (they replace common ones);
    reads: metadata keys that would change other models, but are handled here.
    """

    model_type: str
    layer: Mapping[str, str]
    extras: _Extras = _windowless
    has_paired_heads: bool = False
    norm_offset: float = 0.0
    reads: frozenset[str] = frozenset()


_ARCHITECTURES: dict[str, _Architecture] = {
    "llama": _Architecture(model_type="llama", layer=_PLAIN, extras=_llama, has_paired_heads=True),
    "qwen2": _Architecture(model_type="qwen2", layer=_PLAIN),
    "qwen3": _Architecture(model_type="qwen3", layer=_PLAIN | _HEAD_NORMS),
    "gemma3": _Architecture(
        model_type="gemma3_text",
        layer=_ATTENTION | _MLP | _PRE_NORMS | _HEAD_NORMS | _POST_NORMS | {"ffn_norm": "pre_feedforward_layernorm"},
        extras=_gemma3,
        norm_offset=1.0,
        reads=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
    ),
    "phi3": _Architecture(
        model_type="phi3",
        layer=_PRE_NORMS
        | {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj"}
        | {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"},
        extras=_phi3,
    ),
    "smollm3": _Architecture(model_type="smollm3", layer=_PLAIN, extras=_smollm3, has_paired_heads=True),
    "olmo2": _Architecture(model_type="olmo2", layer=_ATTENTION | _MLP | _HEAD_NORMS | _POST_NORMS, extras=_olmo2),
    "granite": _Architecture(
        model_type="granite",
        layer=_PLAIN,
        extras=_granite,
        has_paired_heads=True,
        reads=frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"}),
    ),
}

SUPPORTED = tuple(sorted(_ARCHITECTURES))
"""The values of `general.architecture` that can be read."""


def architecture_of(file: GgufFile) -> str:
    """The file's `general.architecture`. Raises: UnsupportedModelError if it is not one of `SUPPORTED`."""
    arch = file.metadata.get("general.architecture")
    if not isinstance(arch, str):
        raise WeightsError(f"{file.path}: metadata 'general.architecture' is missing")
    if arch not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file.path}: architecture {arch!r} is not supported; supported: {', '.join(SUPPORTED)}"
        )
    return arch


def tensor_name(arch: str, gguf_name: str) -> str | None:
    """A tensor's Hugging Face name; None for those that are part of the configuration (rotary factors).

    Raises: UnsupportedModelError for a tensor that this architecture does not have.
    """
    if gguf_name in ROTARY_TENSORS or _REDUNDANT.fullmatch(gguf_name):
        return None
    stem, _, kind = gguf_name.rpartition(".")
    if kind in ("weight", "bias"):
        if stem in _TOP:
            return f"{_TOP[stem]}.{kind}"
        match = _LAYER_NAME.fullmatch(stem)
        if match and (name := _ARCHITECTURES[arch].layer.get(match[2])):
            return f"model.layers.{match[1]}.{name}.{kind}"
    reason = "mixtures of experts are not supported" if _EXPERTS.search(gguf_name) else "not part of that architecture"
    raise UnsupportedModelError(f"tensor {gguf_name!r} in an {arch!r} file: {reason}")


def norm_offset(arch: str, hf_name: str) -> float:
    """What the file has added to this tensor: 1 for Gemma's norms."""
    return _ARCHITECTURES[arch].norm_offset if hf_name.endswith("norm.weight") else 0.0


def paired_heads(arch: str, hf_name: str, config: Mapping[str, JSON]) -> int | None:
    """How many heads' rows are stored in pairs in this tensor; None if its rows are in Hugging Face's order."""
    if _ARCHITECTURES[arch].has_paired_heads:
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
    known = _ARCHITECTURES[arch]
    metadata = ArchitectureMetadata(file, arch)
    metadata.refuse_unhandled(known.reads)
    config = (
        metadata.common() | {"model_type": known.model_type} | rotary_config(file, metadata) | known.extras(metadata)
    )
    partial = config.get("partial_rotary_factor")
    if known.has_paired_heads and partial is not None:
        raise UnsupportedModelError(f"{file.path}: {arch!r} with only {partial} of each head rotated")
    return config
