"""Search by meaning: the lines of a file that are closest to a question, and of those what answers it best.

    python examples/semantic_search.py Qwen/Qwen3-Embedding-0.6B lines.txt "Where does the Rhine rise?"
    python examples/semantic_search.py Qwen/Qwen3-Embedding-0.6B lines.txt "Where …?" Qwen/Qwen3-Reranker-0.6B

A fourth argument is a reranker: slower than embeddings, and better at telling what answers a question.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import genai
from genai.errors import GenAIError

NUM_FOUND = 5


def nearest(embedder: genai.LLM, texts: list[str], question: str) -> list[tuple[float, str]]:
    """The texts that are most like a question, with the cosine of each, the best first."""
    known = embedder.embed(texts, truncate=True)
    name = "query" if embedder.config.embedding and "query" in embedder.config.embedding.prompts else None
    likeness = known @ embedder.embed(question, prompt_name=name)[0]
    return [(float(likeness[place]), texts[place]) for place in np.argsort(-likeness)[:NUM_FOUND]]


def main(arguments: list[str]) -> int:
    """Print what is found. Returns the exit code."""
    if len(arguments) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    model, file, question, *reranker = arguments
    try:
        texts = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        with genai.load(model) as embedder:
            found = nearest(embedder, texts, question)
        if reranker:
            with genai.load(reranker[0]) as judge:
                scores = judge.score(question, [text for _, text in found])
            found = sorted(zip(scores.tolist(), [text for _, text in found], strict=True), reverse=True)
    except (GenAIError, OSError) as error:
        print(f"semantic_search: {error}", file=sys.stderr)
        return 2
    for number, text in found:
        print(f"{number:.3f}  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
