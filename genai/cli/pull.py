"""`genai pull`: bring weights here."""

from __future__ import annotations

from typing import Annotated

import typer

from genai.cli.bars import bars
from genai.config import Precision


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A known name (see `genai models`), or a hub id.")],
    precision: Annotated[
        Precision, typer.Option("--precision", "-p", help="Which of a repository's ONNX files; auto: one of 4 bits.")
    ] = "auto",
) -> None:
    """Fetch a model's weights and print where they are.

    They are verified; an interrupted download goes on where it stopped.
    """
    from genai import models

    with bars() as progress:
        path = models.pull(model, precision=precision, progress=progress)
    print(path)
