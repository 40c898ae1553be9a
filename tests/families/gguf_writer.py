"""GGUF files of tiny checkpoints in llama.cpp's conventions: the inverse of what `genai/build/gguf` reads.

A family's conventions are data, a `GgufForm`. Tensor names come from the gguf package's own table, after the form's
steps have changed tensors as llama.cpp's converter (`convert_hf_to_gguf.py`) does. A step takes every tensor under its
Hugging Face name and gives them back changed; the functions here make steps.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np

Tensors: TypeAlias = dict[str, np.ndarray]
Step: TypeAlias = Callable[[Tensors, Any], Tensors]
"""All tensors, and transformers' configuration of the text decoder, to all tensors."""
Key: TypeAlias = str | Callable[[Any], object] | None
"""A metadata value: an attribute of the configuration, or what a function of that makes; None: the key is left out."""

KEYS: dict[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers",),
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size", "ffn_dim"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
}
"""Metadata that most files have, and the attributes of configurations that hold it: the first that is there."""


@dataclass(frozen=True, kw_only=True)
class GgufForm:
    """How one architecture's files are written.

    arch: `general.architecture`; steps: what the converter changes; names: Hugging Face names (as patterns) that the
    gguf package's table lacks, and what they become: whole ones, or both without ".weight" and ".bias"; keys: metadata
    beyond `KEYS`, or in place of it, without the architecture's prefix; numbers: tensors of one element that become a
    list of metadata, by its whole key: a pattern of their names; pre_tokenizer: its name, where the reader asks for it.
    """

    arch: str
    steps: tuple[Step, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    pre_tokenizer: str | None = None


def write(
    form: GgufForm, tensors: Tensors, config: Any, path: Path, change: Callable[[Any], None] = lambda _: None
) -> Path:
    """Write a file. config: transformers', of the text decoder; change: is given the writer before it writes."""
    writer = gguf.GGUFWriter(path, form.arch)
    for key, value in metadata(form, config).items():
        put(writer, key, value)
    for step in form.steps:
        tensors = step(tensors, config)
    tensors = dict(tensors)
    for key, pattern in form.numbers.items():
        found = sorted(name for name in tensors if re.search(pattern, name))
        put(writer, key, [tensors.pop(name).item() for name in found])
    change(writer)
    for name, tensor in stored(form, tensors, config).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored(form: GgufForm, tensors: Tensors, config: Any) -> Tensors:
    """Tensors under their names in the file, with those that hold the rotary embedding."""
    result = {}
    for name, tensor in tensors.items():
        found = stored_name(form, name, config.num_hidden_layers)
        assert found is not None, f"{name} has no name in a GGUF file: a step or an entry of `names` is missing"
        assert found not in result, f"{name} becomes {found}, which is there already"
        result[found] = tensor
    return result | rotary_tensors(config)


def stored_name(form: GgufForm, name: str, num_layers: int) -> str | None:
    """A tensor's name in the file, None if it has none; what has no suffix gets ".weight", as from the converter."""
    stem, kind = next(((name[: -len(end)], end) for end in (".weight", ".bias") if name.endswith(end)), (name, ""))
    for pattern, new in form.names.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, new, name)
        if re.fullmatch(pattern, stem):
            return re.sub(pattern, new, stem) + kind
    known = name_map(form.arch, num_layers)
    found: str | None = known.get_name(stem) or known.get_name(name)
    return found and found + (kind or ".weight")


@functools.cache
def name_map(arch: str, num_layers: int) -> Any:
    """The gguf package's table of tensor names."""
    return gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), num_layers
    )


def metadata(form: GgufForm, config: Any) -> dict[str, object]:
    """All metadata of a file under full keys."""
    values = {
        key: next((value for name in names if (value := getattr(config, name, None)) is not None), None)
        for key, names in KEYS.items()
    }
    values |= rotary_metadata(config)
    for key, source in form.keys.items():
        values[key] = source(config) if callable(source) else source and getattr(config, source)
    result = {f"{form.arch}.{key}": value for key, value in values.items() if value is not None}
    for key, name in {"bos": "bos", "eos": "eos", "padding": "pad"}.items():
        result[f"tokenizer.ggml.{key}_token_id"] = getattr(config, f"{name}_token_id")
    result["tokenizer.ggml.pre"] = form.pre_tokenizer
    return {key: value for key, value in result.items() if value is not None}


def put(writer: Any, key: str, value: object) -> None:
    """Add metadata in the type that the converter would give it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        assert isinstance(value, Sequence), f"{key}={value!r}"
        writer.add_array(key, value)


def write_vocabulary(writer: Any, size: int) -> None:
    """A tokenizer of so many tokens, the first three of them special."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, size))])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([2, 3, 3, *[1] * (size - 3)])


def rotary_metadata(config: Any) -> dict[str, object]:
    """The rotary embedding, of full layers where layers differ."""
    every = getattr(config, "rope_parameters", None)
    if not every:
        return {}
    rope = every.get("full_attention", every)
    kind = rope["rope_type"]
    values: dict[str, object] = {"rope.freq_base": float(rope["rope_theta"])}
    if "sliding_attention" in every:
        values["rope.freq_base_swa"] = float(every["sliding_attention"]["rope_theta"])
    if (partial := rope.get("partial_rotary_factor", 1.0)) != 1:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        values["rope.dimension_count"] = int(head_dim * partial)
    if kind in ("linear", "yarn"):
        values |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind in ("yarn", "longrope"):
        values["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if kind == "yarn":
        keys = {"yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
        values |= {f"rope.scaling.{key}": rope[name] for key, name in keys.items() if rope.get(name) is not None}
    if kind == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = np.sqrt(1 + np.log(config.max_position_embeddings / original) / np.log(original))
        values["rope.scaling.attn_factor"] = float(scale)
    return values


def rotary_tensors(config: Any) -> Tensors:
    """Rotary scaling that the converter writes as tensors: Llama 3's divisors, LongRoPE's two lists."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": llama3_divisors(config)}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{kind}.weight": np.array(rope[f"{kind}_factor"], np.float32) for kind in ("long", "short")
        }
    return {}


def llama3_divisors(config: Any) -> np.ndarray:
    """Plain inverse frequencies over Llama 3's, as transformers computes them."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
    return np.asarray(plain / scaled.numpy(), np.float32)


def mapped(pattern: str, change: Callable[[np.ndarray], np.ndarray]) -> Step:
    """Tensors whose names match somewhere are changed: `mapped(r"norm\\.weight$", lambda w: w + 1)`."""

    def step(tensors: Tensors, config: Any) -> Tensors:
        return {name: change(tensor) if re.search(pattern, name) else tensor for name, tensor in tensors.items()}

    return step


def plus_one(pattern: str = r"norm\.weight$") -> Step:
    """Norm weights with 1 added, as ggml multiplies by what is stored."""
    return mapped(pattern, lambda weight: weight + np.float32(1))


def transposed(pattern: str) -> Step:
    """The last two dimensions swapped."""
    return mapped(pattern, lambda weight: weight.swapaxes(-1, -2))


def paired(pattern: str, heads: str) -> Step:
    """Rows of each head from halves to pairs; heads: the attribute that holds how many there are.

    0 1 2 … 0' 1' 2' …   ─►   0 0' 1 1' 2 2' …     in every head
    """

    def step(tensors: Tensors, config: Any) -> Tensors:
        return mapped(pattern, lambda weight: paired_rows(weight, getattr(config, heads)))(tensors, config)

    return step


PAIRED = (paired(r"\.q_proj\.", "num_attention_heads"), paired(r"\.k_proj\.", "num_key_value_heads"))
"""Queries and keys of architectures that ggml rotates by neighbours and Hugging Face by halves."""


def paired_rows(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """One tensor's rows of each head from halves to pairs."""
    return weight.reshape(num_heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def renamed(pattern: str, new: str) -> Step:
    """Names changed by `re.sub`; an empty new name leaves the tensor out."""

    def step(tensors: Tensors, config: Any) -> Tensors:
        names = {name: "" if re.search(pattern, name) and not new else re.sub(pattern, new, name) for name in tensors}
        return {names[name]: tensor for name, tensor in tensors.items() if names[name]}

    return step


def stacked(pattern: str, new: str) -> Step:
    """Tensors that differ in the number that the group `expert` matches become one of a dimension more.

    stacked(r"(.*\\.experts)\\.(?P<expert>\\d+)\\.(\\w+\\.weight)", r"\\1.\\3")
    """

    def step(tensors: Tensors, config: Any) -> Tensors:
        result: Tensors = {}
        parts: dict[str, dict[int, np.ndarray]] = {}
        for name, tensor in tensors.items():
            match = re.fullmatch(pattern, name)
            if match is None:
                result[name] = tensor
            else:
                parts.setdefault(match.expand(new), {})[int(match["expert"])] = tensor
        stacks = {name: np.stack([each[index] for index in range(len(each))]) for name, each in parts.items()}
        return result | stacks

    return step


STACKED = stacked(r"(.*\.experts)\.(?P<expert>\d+)\.(\w+\.weight)", r"\1.\3")
"""Experts that Hugging Face keeps one by one."""


def split(pattern: str, *new: str, axis: int = 0) -> Step:
    """Tensors cut into equal parts, named by `re.sub`: `split("gate_up_proj", "gate_proj", "up_proj")`."""

    def step(tensors: Tensors, config: Any) -> Tensors:
        result: Tensors = {}
        for name, tensor in tensors.items():
            if not re.search(pattern, name):
                result[name] = tensor
                continue
            parts = np.split(tensor, len(new), axis=axis)
            result |= {re.sub(pattern, each, name): part for each, part in zip(new, parts, strict=True)}
        return result

    return step
