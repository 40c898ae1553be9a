"""What each precision costs in truth: divergence from float32 on 512 tokens of English, teacher-forced.

python -m benchmarks.fidelity [MODEL …] [--precisions auto,int8,int4]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import genai
from benchmarks.environments import ROOT
from benchmarks.measure import FloatArray, divergence
from benchmarks.protocol import JSON
from benchmarks.results import markdown_table
from benchmarks.texts import english_tokens
from genai import models
from genai.config import PRECISIONS, Precision

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
NUM_TOKENS = 512


def measured(model: str, precisions: Sequence[Precision]) -> list[dict[str, JSON]]:
    """One row for each precision: mean KL(f32 ‖ precision) in nats, top-1 agreement, and the package's size."""
    tokens = english_tokens(models.package(model, precision="f32"))[:NUM_TOKENS]
    reference = logits(model, "f32", tokens)
    rows: list[dict[str, JSON]] = []
    for precision in precisions:
        found = divergence(reference, logits(model, precision, tokens))
        size = package_bytes(models.package(model, precision=precision))
        rows.append(
            {
                "model": model,
                "precision": precision,
                "mean_kl": found.mean_kl,
                "top1": found.top1,
                "bytes": size,
            }
        )
        print(f"{model} {precision}: mean KL {found.mean_kl:.4f}, top-1 {found.top1:.1%}", file=sys.stderr)
    return rows


def logits(model: str, precision: Precision, tokens: list[int]) -> FloatArray:
    """Teacher-forced logits [T, V]."""
    with genai.load(model, precision=precision, max_seq_len=len(tokens), max_batch=1) as llm:
        return llm.logits(tokens)


def package_bytes(package: Path) -> int:
    """What the graph and its weights take on disk."""
    return sum(file.stat().st_size for file in package.glob("model.onnx*"))


def as_markdown(rows: Sequence[dict[str, JSON]]) -> str:
    """The rows as a table."""
    cells = [
        (
            f"{row['model']} {row['precision']}",
            f"{float(str(row['mean_kl'])):.4f}",
            f"{float(str(row['top1'])):.1%}",
            f"{float(str(row['bytes'])) / 1e6:.0f}",
        )
        for row in rows
    ]
    return markdown_table(("", "mean KL to f32", "top-1", "MB"), cells)


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, keep JSON in benchmarks/results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precisions", default="auto,int8,int4")
    chosen = parser.parse_args(arguments)
    precisions = [precision for precision in PRECISIONS if precision in chosen.precisions.split(",")]
    if len(precisions) != len(set(chosen.precisions.split(","))):
        parser.error(f"--precisions {chosen.precisions!r}: some of {', '.join(PRECISIONS)} between commas")
    rows = [row for model in chosen.models for row in measured(model, precisions)]
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "fidelity.json").write_text(json.dumps(rows, indent=1))
    print(as_markdown(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
