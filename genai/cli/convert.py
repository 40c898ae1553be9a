"""`genai convert`: a model package from somebody's ONNX export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.config import Precision
from genai.convert.options import ConvertOptions, FloatType, Quantization


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="An .onnx file, or a folder with one, its configuration and its tokenizer."
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The package folder to write.")],
    *,
    quantize: Annotated[Quantization | None, typer.Option(help="Round float weights to blocks of 4 or 8 bits.")] = None,
    dtype: Annotated[
        FloatType | None, typer.Option(help="Activations, caches and float weights in 16 or 32 bits.")
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option("--precision", "-p", help="Of a folder's files the one that has it, or the float one, rounded."),
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of a folder's files: its path, name or ending (q4).")
    ] = None,
    scatter_nd: Annotated[
        bool, typer.Option("--scatter-nd", help="Write the caches by ScatterND, for providers without TensorScatter.")
    ] = False,
    max_seq_len: options.MaxSeqLen = None,
    hf_folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where config.json and the tokenizer are, if not beside the model."),
    ] = None,
    force: options.Force = False,
    json_output: options.Json = False,
) -> None:
    """Make a model package of somebody's ONNX decoder.

    Read are exports with past and present caches (torch, optimum, transformers), folders of onnxruntime-genai, and
    those of transformers.js (onnx-community), whose files in several precisions lie in `onnx`. The original and the
    package run on the same tokens; the package is written if they agree, and the report says how well.
    """
    options.check_output(output, force=force)
    from genai.convert import convert as run

    chosen = ConvertOptions(
        quantize=quantize,
        dtype=dtype,
        precision=precision,
        file=file,
        scatter_nd=scatter_nd,
        max_seq_len=max_seq_len,
        hf_folder=hf_folder,
    )
    with bars() as progress:
        report = run(source, output, chosen, progress)
    print(json.dumps(report.as_json(), indent=2) if json_output else f"{report.as_text()}\n{report.output}")
