"""Which of a folder's or a repository's ONNX files is the decoder; transformers.js has it in several forms, in `onnx/`.

    onnx/model.onnx, model_fp16, model_q4, model_q4f16, model_int8, model_quantized, model_uint8, model_bnb4
    beside each, its weights: model_q4.onnx_data, model_q4.onnx_data_1, …

Older folders call it `decoder_model_merged`, with the same endings.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from genai.config import Precision
from genai.convert.options import ConvertOptions, FloatType, Quantization
from genai.errors import ModelNotFoundError

FORMS = ("", "fp16", "q4", "q4f16", "int8", "quantized", "uint8", "bnb4")
"""Endings of names; a name without one is that of float32."""
_BASES = ("model", "decoder_model_merged", "decoder_model", "decoder_with_past_model")
_FOLDERS = (".", "onnx")
_CONFIGS = ("config.json", "genai_config.json")
_BY_PRECISION: dict[Precision, tuple[str, ...]] = {
    "auto": ("q4", "q4f16", "int8", "quantized", "uint8", "", "fp16", "bnb4"),
    "f32": ("",),
    "f16": ("fp16", ""),
    "bf16": ("",),
    "int8": ("int8", "quantized", "uint8", "", "fp16"),
    "int4": ("q4", "q4f16", "", "fp16"),
}
"""The forms that give a precision, the best first; the one without an ending gives all, rounded when converted."""
_AS_WRITTEN = ("", *(form for form in _BY_PRECISION["auto"] if form))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """One of several ONNX files. form: its ending, of `FORMS`; rank: which of two with one form is meant."""

    name: str
    form: str
    rank: tuple[int, int]


def graphs_in(folder: Path) -> list[str]:
    """The ONNX files in a folder and in its `onnx`: paths below it."""
    found = (*folder.glob("*.onnx"), *folder.glob("onnx/*.onnx"))
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


def folder_of(graph: Path) -> Path:
    """The folder of a graph's configuration and tokenizer: its own, or the one above `onnx`."""
    folder = graph.parent
    has_config = any((folder / name).is_file() for name in _CONFIGS)
    return folder if has_config or folder.name != "onnx" else folder.parent


def choose_graph(where: str, names: Collection[str], precision: Precision | None, asked: str | None = None) -> str:
    """The decoder among ONNX files.

    where: what has them, for errors; names: paths below that; precision: None for the file that is not rounded, if
    there is one; asked: a file's path or name, or its ending ("q4").
    Raises: ModelNotFoundError that says what there is.
    """
    if asked is not None:
        return _asked(where, names, asked)
    graphs = [graph for name in names if (graph := _graph(name)) is not None]
    if not graphs and len(names) == 1:
        return next(iter(names))
    wanted = _AS_WRITTEN if precision is None else _BY_PRECISION[precision]
    for rank in sorted({graph.rank for graph in graphs}):
        forms = {graph.form: graph.name for graph in graphs if graph.rank == rank}
        if found := next((forms[form] for form in wanted if form in forms), None):
            return found
    if graphs:
        raise ModelNotFoundError(
            f"{where} has no ONNX file for precision {precision}, only {_listed(names)}: choose another precision, or "
            "one of them"
        )
    raise ModelNotFoundError(f"which ONNX file of {where} is the model? Give one of {_listed(names)}")


def form_of(name: str) -> str | None:
    """The form that a file's name tells, None for other names."""
    graph = _graph(PurePosixPath(name).name)
    return None if graph is None else graph.form


def weights_of(graph: str, names: Collection[str]) -> list[str]:
    """The files beside a graph that hold its weights, by their names."""
    return sorted(name for name in names if name.startswith((f"{graph}_data", f"{graph}.data")))


def in_precision(options: ConvertOptions, precision: Precision, name: str, activations: str) -> ConvertOptions:
    """How to convert a file so that it has a precision.

    activations: the device's own float type; where it is float32 nothing stays in 16 bits that nobody asked for.
    """
    dtype: FloatType | None = "f32" if activations == "float32" or precision == "f32" else None
    quantize: Quantization | None = None
    match precision:
        case "f16" | "bf16":
            dtype = precision
        case "int4" | "int8" if form_of(name) in ("", "fp16", "bnb4", None):
            quantize = precision
        case "auto" if form_of(name) == "bnb4":
            quantize = "int8"
    return replace(options, precision=None, dtype=dtype, quantize=quantize)


def _graph(name: str) -> Graph | None:
    path = PurePosixPath(name)
    if path.suffix != ".onnx" or str(path.parent) not in _FOLDERS:
        return None
    for index, base in enumerate(_BASES):
        rest = path.stem.removeprefix(base)
        if path.stem.startswith(base) and rest.removeprefix("_") in FORMS and (not rest or len(rest) > 1):
            rank = (index, _FOLDERS.index(str(path.parent)))
            return Graph(name=name, form=rest.removeprefix("_"), rank=rank)
    return None


def _asked(where: str, names: Collection[str], asked: str) -> str:
    """The file that a path, a name or an ending means."""
    path = PurePosixPath(asked)
    ways = (
        lambda name: name == str(path),
        lambda name: PurePosixPath(name).name == asked or PurePosixPath(name).stem == asked,
        lambda name: (graph := _graph(name)) is not None and graph.form == asked.lower() != "",
    )
    for way in ways:
        found = [name for name in names if way(name)]
        if found:
            return min(found, key=_rank)
    raise ModelNotFoundError(f"{where} has no ONNX file {asked!r}; it has {_listed(names)}")


def _rank(name: str) -> tuple[int, int]:
    graph = _graph(name)
    return (len(_BASES), 0) if graph is None else graph.rank


def _listed(names: Collection[str]) -> str:
    shown: Sequence[str] = sorted(names)
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "") if shown else "none"
