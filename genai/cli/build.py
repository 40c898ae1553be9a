"""`genai build`: a model package from weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.config import MAX_RANK


def build(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A .gguf file, a Hugging Face folder, a known name or a hub id.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The package folder to write.")],
    precision: options.PrecisionOption = "auto",
    device: options.DeviceOption = "auto",
    max_seq_len: options.MaxSeqLen = None,
    builder: Annotated[
        Literal["genai", "mobius"],
        typer.Option(help="mobius: for architectures that are not built here; from a folder or a hub id."),
    ] = "genai",
    lora_slots: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many LoRA adapters it has room for at once (docs/adapters.md).")
    ] = 0,
    max_rank: Annotated[int, typer.Option(min=1, metavar="R", help="The largest rank of those.")] = MAX_RANK,
    merge_lora: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A LoRA adapter that becomes part of the weights.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Build a model package from weights.

    A package is one folder with graph, weights and tokenizer; its path is printed.
    """
    options.check_output(output, force=force)
    from genai import models

    with bars() as progress:
        path = models.build(
            source,
            output,
            precision=precision,
            device=device,
            max_seq_len=max_seq_len,
            builder=builder,
            lora_slots=lora_slots,
            max_rank=max_rank,
            merge_lora=merge_lora,
            progress=progress,
        )
    print(path)
