"""`genai inspect` of a GGUF file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from genai.cli.table import megabytes, table

if TYPE_CHECKING:
    from genai.inspect import GgufReport


def show_gguf(path: Path, *, json_output: bool) -> None:
    """Print what is in a GGUF file, for people or as JSON."""
    from genai.inspect import inspect_gguf

    report = inspect_gguf(path)
    if json_output:
        print(json.dumps(_as_json(report), indent=2, ensure_ascii=False))
    else:
        print("\n\n".join([_head(report), _types(report), _parts(report), _tensors(report), _metadata(report)]))


def _head(report: GgufReport) -> str:
    name = report.metadata.get("general.name")
    built = (
        f"not built here: {report.refused}" if report.refused else f"genai build {report.path} -o DIR makes a package"
    )
    called = f" ({' '.join(name.split())})" if isinstance(name, str) else ""
    return f"{report.path}\nGGUF, {report.architecture}{called}, {len(report.tensors)} tensors\n{built}"


def _types(report: GgufReport) -> str:
    total = sum(tensor.nbytes for tensor in report.tensors) or 1
    rows = []
    for kind, tensors in report.types.items():
        size = sum(tensor.nbytes for tensor in tensors)
        rows.append((kind, str(len(tensors)), megabytes(size), f"{size / total:.0%}"))
    return table(("TYPE", "TENSORS", "SIZE", "SHARE"), rows, numbers=True)


def _parts(report: GgufReport) -> str:
    sizes = {f"weights: {part}": size for part, size in report.weight_bytes.items() if size}
    total = sum(sizes.values()) or 1
    rows = [(name, megabytes(size), f"{size / total:.0%}") for name, size in sizes.items()]
    return table(("MEMORY", "SIZE", "SHARE"), [*rows, ("total", megabytes(sum(sizes.values())), "")], numbers=True)


def _tensors(report: GgufReport) -> str:
    """One line for tensors that all layers have alike."""
    seen = Counter(
        (_in_any_layer(tensor.name), " × ".join(map(str, tensor.shape)), tensor.ggml_type) for tensor in report.tensors
    )
    rows = [(name, str(number), shape, kind) for (name, shape, kind), number in seen.items()]
    return table(("TENSOR", "NUMBER", "SHAPE", "TYPE"), rows)


def _in_any_layer(name: str) -> str:
    return ".".join("N" if part.isdigit() else part for part in name.split("."))


def _metadata(report: GgufReport) -> str:
    from genai.inspect.gguf import shown

    return table(("METADATA", "VALUE"), [(key, shown(value)) for key, value in report.metadata.items()])


def _as_json(report: GgufReport) -> dict[str, object]:
    tensors = [
        {"name": tensor.name, "shape": list(tensor.shape), "type": tensor.ggml_type, "bytes": tensor.nbytes}
        for tensor in report.tensors
    ]
    total = sum(report.weight_bytes.values())
    return {
        "path": str(report.path),
        "architecture": report.architecture,
        "refused": report.refused,
        "types": {kind: len(found) for kind, found in report.types.items()},
        "weight_bytes": {**report.weight_bytes, "total": total},
        "metadata": dict(report.metadata),
        "tensors": tensors,
    }
