"""`genai export`: from a Hugging Face checkpoint to ONNX through torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.convert.options import ConvertOptions, Quantization
from genai.errors import ConfigError
from genai.export.options import Accumulate, Dtype, ExportOptions
from genai.progress import Progress


def export(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A Hugging Face folder, or a hub id.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    *,
    dtype: Annotated[Dtype, typer.Option(help="Type of weights, activations and caches.")] = "f32",
    accumulate: Annotated[
        Accumulate, typer.Option(help="Where 16-bit models add up: in 32 bits, or as the hardware does.")
    ] = "f32",
    quantize: Annotated[Quantization | None, typer.Option(help="Round weights to blocks of 4 or 8 bits.")] = None,
    max_seq_len: options.MaxSeqLen = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Stop at the ONNX model with past and present caches: no package.")
    ] = False,
    force: options.Force = False,
    json_output: options.Json = False,
) -> None:
    """Make a model package of a checkpoint, with torch.export.

    Each layer's attention becomes one Attention operator, norms and rotary embeddings are fused; the report says where
    not. The package ran on the same tokens as the traced model before it was written.
    """
    options.check_output(output, force=force)
    from genai import models

    chosen = ExportOptions(dtype=dtype, accumulate=accumulate)
    if plain and (quantize is not None or max_seq_len is not None):
        raise ConfigError("--plain writes the model as it was traced: --quantize and --max-seq-len are for packages")
    with bars() as progress:
        folder = models.checkpoint(source, progress=progress)
        if plain:
            text, data = _plain(folder, output, chosen, progress)
        else:
            from genai.export import export as run

            report = run(folder, output, chosen, ConvertOptions(quantize=quantize, max_seq_len=max_seq_len), progress)
            text, data = report.as_text(), report.as_json()
    print(json.dumps(data, indent=2) if json_output else f"{text}\n{output}")


def _plain(source: Path, output: Path, chosen: ExportOptions, progress: Progress) -> tuple[str, dict[str, object]]:
    from genai.export import export_plain

    exported = export_plain(source, output, chosen, progress)
    return exported.fusions.as_text(), {"output": str(output), "fusions": exported.fusions.as_json()}
