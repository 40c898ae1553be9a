"""`genai inspect`: what a graph is made of, and where its memory goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.cli.inspect_gguf import show_gguf
from genai.cli.table import megabytes, table
from genai.errors import ConfigError
from genai.extras import require

if TYPE_CHECKING:
    from genai.cli.results import JSON
    from genai.convert.fusions import FusionReport
    from genai.inspect import GraphReport


_NO_GRAPH = (
    "weights without a graph: genai build makes a package of their folder, which has one; a GGUF file is read too"
)


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A package folder, any .onnx or .gguf file, or a known name.")
    ],
    *,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Rows, for the size of the cache.")] = 1,
    length: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens of each row, for the size of the cache.")
    ] = 2048,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report as a page.")] = None,
    fusions: Annotated[
        bool, typer.Option("--fusions", help="Also say which decomposed operators could be fused, and why others not.")
    ] = False,
    bits: Annotated[
        bool,
        typer.Option("--bits", help="Also load the package, and find out if texts are the same here in any batch."),
    ] = False,
    json_output: options.Json = False,
) -> None:
    """Show what a graph is made of and where its memory goes.

    Reads the graph only, not its external data: operators, what differs from the decoder contract, bytes by part. Of a
    .gguf file: its tensors, their types and its metadata.
    """
    from genai.inspect import inspect as read
    from genai.inspect import is_gguf
    from genai.inspect.page import page

    path = _located(model)
    if is_gguf(path):
        if html is not None or fusions or bits:
            raise ConfigError(
                f"{path} is a GGUF file, weights without a graph: --html, --fusions, --bits are about graphs"
            )
        show_gguf(path, json_output=json_output)
        return
    report = read(path)
    found = _fusions(report) if fusions else None
    told = _bits(report) if bits else None
    if html is not None:
        _write(html, page(report, batch=batch, length=length, fusions=found))
    if json_output:
        added: dict[str, object] = {} if found is None else {"fusions": found.as_json()}
        added |= {} if told is None else {"same_bits": told}
        print(json.dumps(_as_json(report, batch, length) | added, indent=2))
        return
    parts = [_head(report), _operators(report), _contract(report), _memory(report, batch, length)]
    parts += [] if told is None else [f"the same bits in any batch, on this machine: {told}"]
    print("\n\n".join(parts if found is None else [*parts, f"fusions\n{found.as_text()}"]))


def _located(model: str) -> Path:
    """What lies there; the package of a known name, pulled and built first if that has not been done."""
    from genai import models

    path = Path(model)
    if path.exists() and (place := _gguf_or_complaint(path)) is not None:
        return place
    if model not in models.known_models() or path.exists():
        return path
    with bars() as progress:
        return models.package(model, progress=progress)


def _gguf_or_complaint(path: Path) -> Path | None:
    """The GGUF file that a folder holds alone; None where a graph is to be looked for. Raises: ConfigError."""
    if path.is_dir():
        from genai.build.gguf.file_names import models_among

        files = models_among(path.glob("*.gguf"))
        is_checkpoint = (path / "config.json").is_file() and any(path.glob("*.safetensors"))
        if any(path.glob("*.onnx")) or not (files or is_checkpoint):
            return None
        if len(files) == 1:
            return files[0]
        said = f"{len(files)} GGUF models: give one of them" if files else _NO_GRAPH
        raise ConfigError(f"{path} holds {said}")
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        raise ConfigError(f"{path} holds {_NO_GRAPH}")
    return None


def _write(file: Path, text: str) -> None:
    """Raises: ConfigError if the file cannot be written."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {file} cannot be written: {error.strerror}") from None


def _fusions(report: GraphReport) -> FusionReport:
    """Raises: RuntimeUnavailableError without the extra; ModelError for a graph that cannot be read."""
    require("convert", "--fusions")
    from genai.convert.fusions.survey import survey_file

    return survey_file(report.path)


def _bits(report: GraphReport) -> str:
    """Raises: ConfigError for a graph that is no package; as `load_runner`."""
    from genai.config import EngineConfig
    from genai.runtime.load import load_runner

    if report.config is None:
        raise ConfigError(f"{report.path} lies in no package: --bits runs what genai build and genai convert make")
    small = EngineConfig(max_seq_len=min(1024, report.config.max_position), max_batch=3, prefix_cache_bytes=0)
    return load_runner(report.path.parent, report.config, small, is_asked_anew=True).same_bits.summary


def _head(report: GraphReport) -> str:
    opsets = ", ".join(f"{domain} {version}" for domain, version in report.opsets.items())
    lines = [f"{report.path}", f"IR {report.ir_version}; opsets {opsets}"]
    if config := report.config:
        lines += [
            f"{config.model_type}: {config.num_layers} layers, hidden {config.hidden_size}, {config.num_heads} heads "
            f"({config.num_kv_heads} of keys and values, size {config.head_dim}), vocabulary {config.vocab_size:,}, "
            f"up to {config.max_position:,} tokens",
            *([f"makes embeddings: {config.embedding.summary}; writes no text"] if config.embedding else []),
            f"built from {config.provenance.source} (sha256 {config.provenance.sha256[:12]}…), "
            f"precision {config.provenance.precision}",
        ]
    if report.experts is not None:
        lines.append(f"experts: {report.experts.summary}")
    return "\n".join(lines)


def _operators(report: GraphReport) -> str:
    rows = [
        (domain, str(sum(kinds.values())), ", ".join(f"{kind} {number}" for kind, number in kinds.items()))
        for domain, kinds in report.operators.items()
    ]
    return "\n".join(
        [table(("DOMAIN", "NODES", "OPERATORS"), rows), *(f"on a CPU: {line}" for line in report.without_kernels)]
    )


def _contract(report: GraphReport) -> str:
    if not report.differences:
        return "contract: followed"
    return "contract: not followed\n" + "\n".join(f"  - {difference}" for difference in report.differences)


def _memory(report: GraphReport, batch: int, length: int) -> str:
    sizes = {f"weights: {part}": size for part, size in report.weight_bytes.items() if size}
    per_token = report.cache_bytes_per_token
    if per_token is not None:
        of_windows, near = report.window_bytes_per_token, min(length, report.window_slots or length)
        if (per_token := per_token - of_windows) or not of_windows:
            sizes[f"cache: {batch} × {length} tokens of {per_token:,} B"] = batch * length * per_token
        if of_windows:
            sizes[f"windows: {batch} × {near} tokens of {of_windows:,} B"] = batch * near * of_windows
    if per_row := report.state_bytes_per_row:
        sizes[f"states: {batch} rows of {per_row:,} B"] = batch * per_row
    total = sum(sizes.values())
    rows = [(name, megabytes(size), f"{size / total:.0%}") for name, size in sizes.items() if total]
    memory = table(("MEMORY", "SIZE", "SHARE"), [*rows, ("total", megabytes(total), "")], numbers=True)
    return "\n".join([memory, *(f"cache: {note}" for note in report.cache_notes)])


def _as_json(report: GraphReport, batch: int, length: int) -> dict[str, JSON]:
    per_token = report.cache_bytes_per_token
    return {
        "path": str(report.path),
        "ir_version": report.ir_version,
        "opsets": dict(report.opsets),
        "operators": {domain: dict(kinds) for domain, kinds in report.operators.items()},
        "without_kernels": list(report.without_kernels),
        "contract": {"followed": not report.differences, "differences": list(report.differences)},
        "weight_bytes": {**report.weight_bytes, "total": report.num_weight_bytes},
        "experts": None if report.experts is None else dataclasses.asdict(report.experts),
        "cache": None
        if per_token is None
        else {
            "bytes_per_token": per_token,
            "widths": {cache.name: cache.width for cache in report.shape.caches} if report.shape else None,
            "reserved_slots": report.reserved_slots,
            "batch": batch,
            "length": length,
            "bytes": report.cache_bytes(batch, length),
            "window_bytes_per_token": report.window_bytes_per_token,
            "window_slots": report.window_slots,
            "state_bytes_per_row": report.state_bytes_per_row,
        },
    }
