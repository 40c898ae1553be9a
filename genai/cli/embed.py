"""`genai embed`: texts to embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genai.cli import options
from genai.cli.loading import Loading
from genai.cli.texts import given_texts
from genai.errors import ConfigError


def embed(
    model: options.Model,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="Texts; `-` or nothing: the lines of standard input."),
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.npy", help="Write a NumPy array instead of lines.")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only so many first numbers of each, made one long again.")
    ] = None,
    prompt_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the model's own texts that stand in front: query.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The words that stand in front of each text.")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long.")] = False,
    adapter: options.Adapter = None,
    precision: options.PrecisionOption = "auto",
    device: options.DeviceOption = "auto",
    threads: options.Threads = None,
    max_seq_len: options.MaxSeqLen = None,
) -> None:
    """Embed texts with a model for that (Qwen3-Embedding, …).

    A line of JSON for each text, in their order: the list of its numbers.
    """
    given = given_texts(texts, "text")
    if output is not None and output.suffix != ".npy":
        raise ConfigError(f"--output {output}: must be called *.npy")
    loading = Loading(precision=precision, device=device, threads=threads, max_seq_len=max_seq_len)
    with loading.open(model, adapter) as llm:
        vectors = llm.embed(
            given,
            dimensions=dimensions,
            prompt_name=prompt_name,
            prompt=prompt,
            truncate=truncate,
            **options.given(adapter=options.name_of(adapter)),
        )
    if output is None:
        for vector in vectors:
            print(json.dumps(vector.tolist()))
        return
    import numpy as np

    try:
        np.save(output, vectors)
    except OSError as error:
        raise ConfigError(f"--output {output} cannot be written: {error.strerror or error}") from None
    print(output)
