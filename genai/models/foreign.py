"""Somebody's ONNX models as sources of packages: which file is the graph, and converting it into a package."""

from __future__ import annotations

from pathlib import Path

from genai.build.open import files_digest
from genai.config import Precision
from genai.convert.files import choose_graph, in_precision, weights_of
from genai.convert.options import CONVERTER, ConvertOptions
from genai.extras import require
from genai.progress import Progress

_WEIGHTS = (".safetensors", ".bin", ".gguf")
GENAI_CONFIG = "genai_config.json"


def is_foreign(path: Path) -> bool:
    """Whether a file or folder is an ONNX model that is no package."""
    if path.is_file():
        return path.suffix == ".onnx"
    has_weights = any(any(path.glob(f"*{suffix}")) for suffix in _WEIGHTS)
    return not has_weights and (bool(_graphs(path)) or (path / GENAI_CONFIG).is_file())


def graph_of(path: Path, precision: Precision) -> Path:
    """The graph of a foreign model that gives a precision. Raises: ModelNotFoundError, ModelError."""
    if path.is_file():
        return path
    if (path / GENAI_CONFIG).is_file():
        require("convert", f"{path}, somebody's ONNX model,")
        from genai.convert.sources.onnxruntime_genai.config import read_genai_config

        return read_genai_config(path).graph
    return path / choose_graph(str(path), _graphs(path), precision)


def folder_of(graph: Path) -> Path:
    """The folder of a graph's configuration and tokenizer."""
    return graph.parent.parent if graph.parent.name == "onnx" else graph.parent


def files_of(graph: Path) -> list[Path]:
    """What a conversion reads: the graph, its weights, configuration and tokenizer."""
    weights = weights_of(graph.name, [file.name for file in graph.parent.iterdir()])
    beside = [file for file in folder_of(graph).iterdir() if file.suffix in (".json", ".jinja", ".model", ".txt")]
    return [graph, *(graph.with_name(name) for name in weights), *(file for file in beside if file.is_file())]


def digest_of(graph: Path) -> str:
    """A SHA-256 over everything that a conversion reads, and the converter's version."""
    return f"{CONVERTER} {files_digest(files_of(graph))}"


def convert_graph(
    graph: Path,
    output: Path,
    *,
    precision: Precision,
    device: str,
    max_seq_len: int | None,
    progress: Progress,
) -> None:
    """Convert a graph into a package folder.

    Raises: RuntimeUnavailableError if what converting needs is not installed, and what it raises.
    """
    require("convert", f"{graph.name}, somebody's ONNX model,")
    from genai.convert import convert

    options = ConvertOptions(max_seq_len=max_seq_len)
    convert(graph, output, in_precision(options, precision, graph.name, is_on_cpu=device == "cpu"), progress)


def _graphs(path: Path) -> list[str]:
    return [file.relative_to(path).as_posix() for file in (*path.glob("*.onnx"), *path.glob("onnx/*.onnx"))]
