"""What a decode step of a mixture of experts costs beside that of a dense model of the active size.

    python -m benchmarks.experts [--precision int8] [--experts 8] [--chosen 2] [--hidden 1024] [--size 1024]

Both models have random weights: Qwen3's attention, and as many feed-forward elements for each token.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import tokenizers
from safetensors.numpy import save_file

from benchmarks.environments import ROOT
from benchmarks.in_place import steps_from
from benchmarks.measure import ratios
from benchmarks.protocol import JSON
from benchmarks.results import Cell, markdown_table
from benchmarks.rounds import Action, quiet_rounds
from genai.bench import Stepper
from genai.build.package import build_package
from genai.config import PRECISIONS, EngineConfig, Precision

SPARSE, DENSE = "experts", "dense"
VOCAB_SIZE = 4096
VALID_TOKENS = 64
TARGET = 1.3
"""At most so many times the dense model's step."""


def configurations(args: argparse.Namespace) -> dict[str, dict[str, JSON]]:
    """Both models' `config.json`."""
    common: dict[str, JSON] = {
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.hidden // 64,
        "num_key_value_heads": max(1, args.hidden // 256),
        "head_dim": 64,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "intermediate_size": args.size * args.chosen,
        "eos_token_id": 1,
    }
    mixture: dict[str, JSON] = {
        "num_experts": args.experts,
        "num_experts_per_tok": args.chosen,
        "moe_intermediate_size": args.size,
        "norm_topk_prob": True,
    }
    return {SPARSE: common | mixture | {"model_type": "qwen3_moe"}, DENSE: common | {"model_type": "qwen3"}}


def write_checkpoint(config: Mapping[str, JSON], folder: Path) -> Path:
    """A Hugging Face folder with random weights."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        f"{name}.weight": (1 + rng.standard_normal(shape, np.float32) * 0.1)
        if len(shape) == 1
        else rng.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)
        for name, shape in _shapes(config).items()
    }
    save_file(
        {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
    words = {f"t{index}": index for index in range(VOCAB_SIZE)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0")).save(str(folder / "tokenizer.json"))
    return folder


def _shapes(config: Mapping[str, JSON]) -> dict[str, tuple[int, ...]]:
    sizes = {key: value for key, value in config.items() if isinstance(value, int)}
    hidden, layers, head = sizes["hidden_size"], sizes["num_hidden_layers"], sizes["head_dim"]
    queries, keys = sizes["num_attention_heads"] * head, sizes["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB_SIZE, hidden), "model.norm": (hidden,)}
    for prefix in (f"model.layers.{layer}" for layer in range(layers)):
        shapes |= {f"{prefix}.{name}": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{prefix}.self_attn.{name}_norm": (head,) for name in "qk"}
        products = {"q": queries, "k": keys, "v": keys}
        shapes |= {f"{prefix}.self_attn.{name}_proj": (rows, hidden) for name, rows in products.items()}
        shapes[f"{prefix}.self_attn.o_proj"] = (hidden, queries)
        networks = {f"{prefix}.mlp": sizes["intermediate_size"]}
        if count := sizes.get("num_experts"):
            shapes[f"{prefix}.mlp.gate"] = (count, hidden)
            networks = {f"{prefix}.mlp.experts.{each}": sizes["moe_intermediate_size"] for each in range(count)}
        for network, size in networks.items():
            shapes |= {f"{network}.gate_proj": (size, hidden), f"{network}.up_proj": (size, hidden)}
            shapes[f"{network}.down_proj"] = (hidden, size)
    return shapes


def compared(packages: Mapping[str, Path], rounds: int, threads: int | None) -> Cell:
    """Seconds of decode steps of each package, interleaved."""
    prompt = np.random.default_rng(1).integers(2, VOCAB_SIZE, VALID_TOKENS).tolist()
    with ExitStack() as stack:
        steppers = {
            name: stack.enter_context(Stepper(package, EngineConfig(max_seq_len=256, max_batch=1, num_threads=threads)))
            for name, package in packages.items()
        }
        actions = {
            name: Action(run=partial(steps_from, stepper, prompt), process_id=os.getpid())
            for name, stepper in steppers.items()
        }
        found = quiet_rounds(actions, rounds, patience=3, pause=0.05)
    title = f"Decode step, {VALID_TOKENS} valid tokens"
    return Cell(title=title, work=1, rounds=found.results, disturbance=found.disturbance)


def as_markdown(cell: Cell) -> str:
    """The steps as a table, and their ratio."""
    rows = [(name, f"{cell.median(name) * 1e3:.2f}", f"{cell.best(name) * 1e3:.2f}") for name in cell.rounds]
    ratio = ratios(cell.medians(), DENSE)[SPARSE]
    told = f"Ratio {ratio:.3f}, at most {TARGET} wanted (others took up to {cell.disturbance:.0%} of the processors)."
    return f"## {cell.title}\n\n{markdown_table(('', 'ms', 'best ms'), rows)}\n\n{told}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    found.add_argument("--precision", choices=PRECISIONS, default="int8")
    sizes = {"experts": 8, "chosen": 2, "hidden": 1024, "size": 1024, "layers": 6, "rounds": 9}
    for name, default in sizes.items():
        found.add_argument(f"--{name}", type=int, default=default)
    found.add_argument("--threads", type=int)
    return found


def build(args: argparse.Namespace, precision: Precision, folder: Path) -> dict[str, Path]:
    """Both models' packages."""
    return {
        name: build_package(write_checkpoint(config, folder / f"{name}-source"), folder / name, precision=precision)
        for name, config in configurations(args).items()
    }


def as_json(cell: Cell) -> dict[str, JSON]:
    """The steps as data."""
    return {
        "median_seconds": {name: cell.median(name) for name in cell.rounds},
        "ratio": ratios(cell.medians(), DENSE)[SPARSE],
        "disturbance": cell.disturbance,
    }


def main() -> None:
    """Build, measure, print Markdown, keep JSON in benchmarks/results."""
    args = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cell = compared(build(args, args.precision, Path(folder)), args.rounds, args.threads)
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "experts.json").write_text(json.dumps(as_json(cell), indent=1), encoding="utf-8")
    print(as_markdown(cell))


if __name__ == "__main__":
    main()
