"""`genai score`: how well documents answer a query."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from genai.cli import options
from genai.cli.loading import Loading
from genai.cli.texts import given_texts


def score(
    model: options.Model,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is looked for.")],
    documents: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DOCUMENT]...", help="Texts; `-` or nothing: the lines of standard input."),
    ] = None,
    *,
    instruction: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Which documents are wanted, in the model's prompt.")
    ] = None,
    adapter: options.Adapter = None,
    precision: options.PrecisionOption = "auto",
    device: options.DeviceOption = "auto",
    threads: options.Threads = None,
    max_seq_len: options.MaxSeqLen = None,
    json_output: options.Json = False,
) -> None:
    """Score documents by how well they answer a query.

    Scores go from 0 to 1, the model is a reranker such as Qwen3-Reranker. A line for each document, in their order:
    its score, a tab, and the document.
    """
    texts = given_texts(documents, "document")
    loading = Loading(precision=precision, device=device, threads=threads, max_seq_len=max_seq_len)
    with loading.open(model, adapter) as llm:
        chosen = options.given(adapter=options.name_of(adapter))
        scores = llm.score(query, texts, instruction=instruction, **chosen).tolist()
    if json_output:
        print(json.dumps({"model": model, "scores": scores}))
        return
    for number, text in zip(scores, texts, strict=True):
        print(f"{number:.6f}\t{' '.join(text.split())}")
