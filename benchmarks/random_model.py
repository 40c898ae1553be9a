"""Random models of the shapes that people run, as GGUF files: what costs time and memory, without the download.

    python -m benchmarks.random_model llama-3.2-1b 1b.gguf                    Q4_K_M, by llama.cpp's own function
    python -m benchmarks.random_model llama-3.1-8b 8b.gguf --form blocks      random blocks of the types of Q4_K_M
    python -m benchmarks.random_model qwen3.5-0.8b 0.8b.gguf --form Q8_0      rounded here, as llama.cpp does it
    python -m benchmarks.random_model qwen3-1.7b 1.7b.gguf --form F16

Tensors are drawn and written one by one. The tokenizer is SmolLM2's, its vocabulary filled up with tokens
that no text has.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, TokenType

from benchmarks.quantized import FORMS, quantize
from genai import models
from genai.build.gguf.file import GgufFile

TOKENIZER_OF = "smollm2-135m-instruct"
_FILE_TYPES = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "blocks": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
DRAWN_FORMS = tuple(_FILE_TYPES)
"""Those that need no llama.cpp."""
_CHUNK_ELEMENTS = 1 << 24

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Gated delta rules in all layers but every `interval`-th; keys and values have heads of the same size."""

    interval: int
    num_key_heads: int
    num_value_heads: int
    head_dim: int
    kernel: int

    @property
    def value_size(self) -> int:
        """Elements of all value heads."""
        return self.num_value_heads * self.head_dim

    @property
    def conv_size(self) -> int:
        """Channels of the convolution: queries, keys and values."""
        return 2 * self.num_key_heads * self.head_dim + self.value_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Llama-like decoder. arch: its GGUF name; has_head_norms: queries and keys are normed (Qwen 3).

    delta: recurrences, and with them attention that has gates and rotates a quarter of each head.
    """

    arch: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    is_head_tied: bool
    rope_theta: float
    max_position: int
    has_head_norms: bool = False
    delta: Delta | None = None

    @property
    def rotated(self) -> int:
        """Elements of a head that are rotated."""
        return self.head_dim // 4 if self.delta else self.head_dim


SHAPES = {
    "llama-3.2-1b": Shape(
        arch="llama", num_layers=16, hidden_size=2048, intermediate_size=8192, num_heads=32, num_kv_heads=8,
        head_dim=64, vocab_size=128_256, is_head_tied=True, rope_theta=5e5, max_position=131_072,
    ),
    "qwen3-1.7b": Shape(
        arch="qwen3", num_layers=28, hidden_size=2048, intermediate_size=6144, num_heads=16, num_kv_heads=8,
        head_dim=128, vocab_size=151_936, is_head_tied=True, rope_theta=1e6, max_position=40_960, has_head_norms=True,
    ),
    "qwen3-4b": Shape(
        arch="qwen3", num_layers=36, hidden_size=2560, intermediate_size=9728, num_heads=32, num_kv_heads=8,
        head_dim=128, vocab_size=151_936, is_head_tied=True, rope_theta=1e6, max_position=40_960, has_head_norms=True,
    ),
    "qwen3.5-0.8b": Shape(
        arch="qwen35", num_layers=24, hidden_size=1024, intermediate_size=3584, num_heads=8, num_kv_heads=2,
        head_dim=256, vocab_size=248_320, is_head_tied=True, rope_theta=1e7, max_position=262_144, has_head_norms=True,
        delta=Delta(interval=4, num_key_heads=16, num_value_heads=16, head_dim=128, kernel=4),
    ),
    "llama-3.1-8b": Shape(
        arch="llama", num_layers=32, hidden_size=4096, intermediate_size=14_336, num_heads=32, num_kv_heads=8,
        head_dim=128, vocab_size=128_256, is_head_tied=False, rope_theta=5e5, max_position=131_072,
    ),
}  # fmt: skip


def write_model(shape: Shape, path: Path, form: str, *, seed: int = 0) -> Path:
    """Write a random model; `path` appears when it is whole. form: one of `DRAWN_FORMS`, or of `FORMS`.

    Raises: PeerUnavailableError if llama.cpp, which makes `FORMS`, cannot be had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".random-") as folder:
        written = Path(folder, "drawn.gguf")
        is_drawn = form in DRAWN_FORMS
        _write(shape, written, form if is_drawn else "F16", seed=seed)
        if not is_drawn:
            drawn, written = written, Path(folder, path.name)
            quantize(drawn, written, form)
        os.replace(written, path)
    return path


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each tensor's GGUF name and shape; matrices are [out, in], vectors are norms, or belong to a recurrence."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    yield "token_embd.weight", (shape.vocab_size, hidden)
    for layer in range(shape.num_layers):
        mixer = _attention(shape) if not shape.delta or (layer + 1) % shape.delta.interval == 0 else _delta(shape)
        parts: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (hidden,),
            **mixer,
            "post_attention_norm.weight" if shape.delta else "ffn_norm.weight": (hidden,),
            "ffn_gate.weight": (inner, hidden),
            "ffn_up.weight": (inner, hidden),
            "ffn_down.weight": (hidden, inner),
        }
        yield from ((f"blk.{layer}.{name}", size) for name, size in parts.items())
    yield "output_norm.weight", (hidden,)
    if not shape.is_head_tied:
        yield "output.weight", (shape.vocab_size, hidden)


def _attention(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, queries = shape.hidden_size, shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    norms = ("attn_q_norm.weight", "attn_k_norm.weight") if shape.has_head_norms else ()
    return {
        "attn_q.weight": (2 * queries if shape.delta else queries, hidden),
        "attn_k.weight": (keys, hidden),
        "attn_v.weight": (keys, hidden),
        "attn_output.weight": (hidden, queries),
        **dict.fromkeys(norms, (shape.head_dim,)),
    }


def _delta(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, delta = shape.hidden_size, shape.delta
    assert delta
    return {
        "attn_qkv.weight": (delta.conv_size, hidden),
        "attn_gate.weight": (delta.value_size, hidden),
        "ssm_alpha.weight": (delta.num_value_heads, hidden),
        "ssm_beta.weight": (delta.num_value_heads, hidden),
        "ssm_conv1d.weight": (delta.conv_size, delta.kernel),
        "ssm_a": (delta.num_value_heads,),
        "ssm_dt.bias": (delta.num_value_heads,),
        "ssm_norm.weight": (delta.head_dim,),
        "ssm_out.weight": (hidden, delta.value_size),
    }


def stored_type(shape: Shape, name: str, size: tuple[int, ...], form: str) -> GGMLQuantizationType:
    """The type that a tensor has in a file of one of `DRAWN_FORMS`: what is no matrix of a product is float32."""
    if len(size) == 1 or name.endswith("conv1d.weight"):
        return GGMLQuantizationType.F32
    return _block_type(shape, name) if form == "blocks" else GGMLQuantizationType[form]


def _block_type(shape: Shape, name: str) -> GGMLQuantizationType:
    """The type in a Q4_K_M file of llama.cpp: six bits for the head and for half of what matters."""
    head = "token_embd.weight" if shape.is_head_tied else "output.weight"
    if name == head:
        return GGMLQuantizationType.Q6_K
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), shape.num_layers // 8
        if layer < eighth or layer >= 7 * shape.num_layers // 8 or (layer - eighth) % 3 == 2:
            return GGMLQuantizationType.Q6_K
    return GGMLQuantizationType.Q4_K


def _write(shape: Shape, path: Path, form: str, *, seed: int) -> None:
    writer = gguf.GGUFWriter(path, shape.arch)
    _add_metadata(writer, shape, form)
    kinds = {name: stored_type(shape, name, size, form) for name, size in tensors(shape)}
    for name, size in tensors(shape):
        elements, nbytes = GGML_QUANT_SIZES[kinds[name]]
        row = size[-1] // elements * nbytes
        writer.add_tensor_info(
            name, (*size[:-1], row), np.dtype(np.uint8), math.prod(size[:-1]) * row, raw_dtype=kinds[name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    for name, size in tensors(shape):
        writer.write_tensor_data(_drawn(rng, name, size, kinds[name]))
    writer.close()


def _drawn(rng: np.random.Generator, name: str, size: tuple[int, ...], kind: GGMLQuantizationType) -> Array:
    if name.endswith("ssm_a"):
        return -rng.uniform(1, 16, size).astype(np.float32)
    if name.endswith("ssm_dt.bias"):  # times between 0.001 and 0.1, as recurrences are initialised
        times = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), size))
        return np.log(np.expm1(times)).astype(np.float32)
    if len(size) == 1:
        return np.ones(size, np.float32)
    if kind in (GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K):
        return _blocks(rng, size, kind)
    return _normal(rng, size, kind)


def _normal(rng: np.random.Generator, size: tuple[int, ...], kind: GGMLQuantizationType) -> Array:
    """Normal numbers whose products keep the size of their inputs, in this type."""
    step = max(1, _CHUNK_ELEMENTS // size[1])
    parts = []
    for start in range(0, size[0], step):
        shape = (min(step, size[0] - start), size[1])
        parts.append(quants.quantize(rng.standard_normal(shape, np.float32) * np.float32(size[1] ** -0.5), kind))
    return np.concatenate(parts)


def _blocks(rng: np.random.Generator, size: tuple[int, ...], kind: GGMLQuantizationType) -> Array:
    """Blocks of random integers around zero, all of one scale. The layouts are ggml's."""
    elements, nbytes = GGML_QUANT_SIZES[kind]
    blocks = np.frombuffer(rng.bytes(size[0] * size[1] // elements * nbytes), np.uint8).reshape(-1, nbytes).copy()
    spread = size[1] ** -0.5 / 32
    if kind == GGMLQuantizationType.Q4_K:
        # All scales and minima are 32: w = 32 d q - 32 m, q in 0 … 15.
        step = spread / np.sqrt((16**2 - 1) / 12)
        blocks[:, :4] = np.array([step, 7.5 * step], "<f2").view(np.uint8)
        blocks[:, 4:16] = [32 | 2 << 6] * 8 + [0] * 4
    else:
        step = spread / np.sqrt((64**2 - 1) / 12)
        blocks[:, 192:208] = 32
        blocks[:, 208:] = np.array([step], "<f2").view(np.uint8)
    return blocks.reshape(size[0], -1)


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape, form: str) -> None:
    writer.add_context_length(shape.max_position)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.rotated)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(_FILE_TYPES[form])
    if delta := shape.delta:
        writer.add_rope_dimension_sections([11, 11, 10, 0])
        writer.add_full_attention_interval(delta.interval)
        writer.add_ssm_conv_kernel(delta.kernel)
        writer.add_ssm_state_size(delta.head_dim)
        writer.add_ssm_group_count(delta.num_key_heads)
        writer.add_ssm_time_step_rank(delta.num_value_heads)
        writer.add_ssm_inner_size(delta.value_size)
    with GgufFile(models.pull(TOKENIZER_OF)) as file:
        known = {key.removeprefix("tokenizer.ggml."): value for key, value in file.metadata.items()}
    missing = shape.vocab_size - len(known["tokens"])  # type: ignore[arg-type]
    writer.add_tokenizer_model(str(known["model"]))
    writer.add_tokenizer_pre(str(known["pre"]))
    writer.add_token_list([*known["tokens"], *(f"<unused{i}>" for i in range(missing))])  # type: ignore[misc]
    writer.add_token_types([*map(int, known["token_type"]), *[TokenType.UNUSED] * missing])  # type: ignore[arg-type]
    writer.add_token_merges(known["merges"])  # type: ignore[arg-type]
    writer.add_bos_token_id(int(str(known["bos_token_id"])))
    writer.add_eos_token_id(int(str(known["eos_token_id"])))


def main(arguments: Sequence[str]) -> None:
    """Write the model that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.random_model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("path", type=Path)
    parser.add_argument(
        "--form", default="Q4_K_M", choices=[*DRAWN_FORMS, *(form for form in FORMS if form not in DRAWN_FORMS)]
    )
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    path = write_model(SHAPES[chosen.shape], chosen.path, chosen.form, seed=chosen.seed)
    print(f"{path}: {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
