"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from genai.config import Device, Precision

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A known name (see `genai models`), a folder, a .gguf file, or a hub id.",
        show_default=False,
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", "-p", help="Weights' precision; auto: as the weights come, on a CPU.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where to run; auto: CUDA if ONNX Runtime has it.")]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="CPU threads. [default: one per core]", show_default=False)
]
MaxSeqLen = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Longest sequence, in tokens. [default: the model's own]", show_default=False
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", "-n", min=1, metavar="N", help="Write at most this many tokens.")
]
System = Annotated[
    str | None, typer.Option("--system", "-s", metavar="TEXT", help="A system message.", show_default=False)
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End before this text; may be given several times.", show_default=False),
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Makes sampling repeatable.", show_default=False)]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        "-t",
        min=0,
        metavar="X",
        help="Above 0: sample; 0: the most probable token.",
        show_default=False,
    ),
]
TopK = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Sample from the k most probable.", show_default=False)
]
TopP = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="X", help="Sample from the smallest set this probable.", show_default=False),
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, metavar="X", help="Drop what is less probable than this share of the best.", show_default=False
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(min=0, metavar="X", help="Above 1: make repeated tokens less probable.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


Keywords: TypeAlias = dict[str, Any]
"""Keyword arguments; names and values are checked by who takes them."""


def given(**options: object) -> Keywords:
    """Only the options that were given, so that the model's own defaults hold for the others."""
    return {name: value for name, value in options.items() if value is not None}
