"""Random models of the shapes that people run, as GGUF files: what costs time and memory, without the download.

    python -m benchmarks.random_model llama-3.2-1b 1b.gguf                    Q4_K_M, by llama.cpp's own function
    python -m benchmarks.random_model llama-3.1-8b 8b.gguf --form blocks      random blocks of the types of Q4_K_M
    python -m benchmarks.random_model qwen3-1.7b 1.7b.gguf --form F16

Tensors are drawn and written one by one. The tokenizer is SmolLM2's, its vocabulary filled up with tokens
that no text has.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, TokenType

from benchmarks.quantized import FORMS, quantize
from genai import models
from genai.build.gguf.file import GgufFile

TOKENIZER_OF = "smollm2-135m-instruct"
PLAIN_FORMS = ("F16", "blocks")
_CHUNK_ELEMENTS = 1 << 24

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a Llama-like decoder. arch: its GGUF name; head_norms: queries and keys are normed, as in Qwen 3."""

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
    "llama-3.1-8b": Shape(
        arch="llama", num_layers=32, hidden_size=4096, intermediate_size=14_336, num_heads=32, num_kv_heads=8,
        head_dim=128, vocab_size=128_256, is_head_tied=False, rope_theta=5e5, max_position=131_072,
    ),
}  # fmt: skip


def write_model(shape: Shape, path: Path, form: str, *, seed: int = 0) -> Path:
    """Write a random model; `path` appears when it is whole. form: "F16", "blocks", or one of `FORMS`.

    Raises: PeerUnavailableError if llama.cpp, which makes `FORMS`, cannot be had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".random-") as folder:
        written = Path(folder, "plain.gguf")
        _write(shape, written, with_blocks=form == "blocks", seed=seed)
        if form not in PLAIN_FORMS:
            plain, written = written, Path(folder, path.name)
            quantize(plain, written, form)
        os.replace(written, path)
    return path


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each tensor's GGUF name and shape; matrices are [out, in], vectors are norms."""
    hidden, queries = shape.hidden_size, shape.num_heads * shape.head_dim
    keys, inner = shape.num_kv_heads * shape.head_dim, shape.intermediate_size
    yield "token_embd.weight", (shape.vocab_size, hidden)
    for layer in range(shape.num_layers):
        parts = {
            "attn_norm": (hidden,),
            "attn_q": (queries, hidden),
            "attn_k": (keys, hidden),
            "attn_v": (keys, hidden),
            "attn_output": (hidden, queries),
            "ffn_norm": (hidden,),
            "ffn_gate": (inner, hidden),
            "ffn_up": (inner, hidden),
            "ffn_down": (hidden, inner),
        }
        if shape.has_head_norms:
            parts |= {"attn_q_norm": (shape.head_dim,), "attn_k_norm": (shape.head_dim,)}
        yield from ((f"blk.{layer}.{name}.weight", size) for name, size in parts.items())
    yield "output_norm.weight", (hidden,)
    if not shape.is_head_tied:
        yield "output.weight", (shape.vocab_size, hidden)


def block_type(shape: Shape, name: str) -> GGMLQuantizationType:
    """The type that a tensor has in a Q4_K_M file of llama.cpp: six bits for the head and for half of what matters."""
    head = "token_embd.weight" if shape.is_head_tied else "output.weight"
    if name == head:
        return GGMLQuantizationType.Q6_K
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), shape.num_layers // 8
        if layer < eighth or layer >= 7 * shape.num_layers // 8 or (layer - eighth) % 3 == 2:
            return GGMLQuantizationType.Q6_K
    return GGMLQuantizationType.Q4_K


def _write(shape: Shape, path: Path, *, with_blocks: bool, seed: int) -> None:
    writer = gguf.GGUFWriter(path, shape.arch)
    _add_metadata(writer, shape)
    for name, size in tensors(shape):
        if len(size) == 1:
            writer.add_tensor_info(name, size, np.dtype(np.float32), 4 * size[0])
        elif with_blocks:
            kind = block_type(shape, name)
            stored = (size[0], _row_bytes(size[1], kind))
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), stored[0] * stored[1], raw_dtype=kind)
        else:
            writer.add_tensor_info(name, size, np.dtype(np.float16), 2 * size[0] * size[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    for name, size in tensors(shape):
        if len(size) == 1:
            data: Array = np.ones(size, np.float32)
        elif with_blocks:
            data = _blocks(rng, size, block_type(shape, name))
        else:
            data = _halves(rng, size)
        writer.write_tensor_data(data)
    writer.close()


def _halves(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """Normal numbers whose products keep the size of their inputs, as float16."""
    weights = np.empty(size, np.float16)
    step = max(1, _CHUNK_ELEMENTS // size[1])
    for start in range(0, size[0], step):
        part = weights[start : start + step]
        part[...] = rng.standard_normal(part.shape, np.float32) * np.float32(size[1] ** -0.5)
    return weights


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


def _row_bytes(columns: int, kind: GGMLQuantizationType) -> int:
    elements, nbytes = GGML_QUANT_SIZES[kind]
    return columns // elements * nbytes


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.max_position)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
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
    parser.add_argument("--form", default="Q4_K_M", choices=[*PLAIN_FORMS, *FORMS])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    path = write_model(SHAPES[chosen.shape], chosen.path, chosen.form, seed=chosen.seed)
    print(f"{path}: {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
