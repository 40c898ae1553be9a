"""`genai models`: what is known and what is here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from genai.cli import options
from genai.cli.table import megabytes, table

if TYPE_CHECKING:
    from genai.cli.results import JSON
    from genai.models import ModelStatus


def models(
    *,
    remove: Annotated[str | None, typer.Option(help="Delete a model's weights and packages.", metavar="NAME")] = None,
    json_output: options.Json = False,
) -> None:
    """List the known models and the built packages."""
    from genai import models as library

    if remove is not None:
        freed = library.remove(remove)
        print(json.dumps({"removed": remove, "bytes": freed}) if json_output else f"removed {megabytes(freed)}")
        return
    found = library.list_models()
    if json_output:
        print(json.dumps([_as_json(model) for model in found], ensure_ascii=False, indent=2))
        return
    rows = [
        (
            model.name,
            megabytes(model.num_weights_bytes) if model.weights else "not pulled" if model.known else "",
            ", ".join(f"{package.precision} {megabytes(package.num_bytes)}" for package in model.packages) or "none",
            model.license,
            model.description,
        )
        for model in found
    ]
    print(table(("MODEL", "WEIGHTS", "PACKAGES", "LICENCE", "DESCRIPTION"), rows))


def _as_json(model: ModelStatus) -> dict[str, JSON]:
    return {
        "name": model.name,
        "known": model.known,
        "description": model.description,
        "license": model.license,
        "weights": str(model.weights) if model.weights else None,
        "weights_bytes": model.num_weights_bytes,
        "packages": [
            {"path": str(package.path), "precision": package.precision, "bytes": package.num_bytes}
            for package in model.packages
        ],
    }
