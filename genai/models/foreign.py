"""Somebody's ONNX models as sources of packages: which file is the graph, and converting it into a package."""

from __future__ import annotations

from pathlib import Path

from genai.config import Precision
from genai.convert.files import choose_graph, folder_of, graphs_in, weights_of
from genai.convert.options import CONVERTER, ConvertOptions
from genai.extras import require
from genai.progress import Progress

_WEIGHTS = (".safetensors", ".bin", ".gguf")
_NO_WEIGHTS = (".md", ".safetensors", ".gguf")
"""Of files beside a graph: those that it cannot mean."""
_SETTINGS = (".json", ".jinja", ".model", ".txt")
GENAI_CONFIG = "genai_config.json"


def is_foreign(path: Path) -> bool:
    """Whether a file or folder is an ONNX model that is no package."""
    if path.is_file():
        return path.suffix == ".onnx"
    has_weights = any(any(path.glob(f"*{suffix}")) for suffix in _WEIGHTS)
    return not has_weights and (bool(graphs_in(path)) or (path / GENAI_CONFIG).is_file())


def graph_of(path: Path, precision: Precision) -> Path:
    """The graph of a foreign model that gives a precision. Raises: ModelNotFoundError, ModelError."""
    if path.is_file():
        return path
    if (path / GENAI_CONFIG).is_file():
        require("convert", f"{path}, somebody's ONNX model,")
        from genai.convert.sources.onnxruntime_genai.config import read_genai_config

        return read_genai_config(path).graph
    return path / choose_graph(str(path), graphs_in(path), precision)


def files_of(graph: Path) -> list[Path]:
    """What a conversion may read: the graph, configuration and tokenizer, and whatever may hold weights beside it.

    A graph calls its weights' files as it likes; left out is what belongs to other graphs, or to no graph at all.
    """
    here = [file for file in graph.parent.iterdir() if file.is_file() and not file.name.startswith(".")]
    others = [file.name for file in here if file.suffix == ".onnx" and file.name != graph.name]
    apart = {weight for other in others for weight in weights_of(other, [file.name for file in here])} | set(others)
    own = [file for file in here if file.name not in apart and file.suffix not in _NO_WEIGHTS]
    folder = folder_of(graph)
    above = [] if folder == graph.parent else [file for file in folder.iterdir() if file.suffix in _SETTINGS]
    return sorted([*own, *(file for file in above if file.is_file())])


def digest_of(graph: Path) -> str:
    """A SHA-256 over everything that a conversion reads, and the converter's version."""
    from genai.build.open import files_digest  # imports every architecture, and gguf

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

    options = ConvertOptions(max_seq_len=max_seq_len, precision=precision)
    convert(graph, output, options, progress, device=device)
