"""Whether a checkpoint is an embedding model, and how its embeddings are made, from where its makers write that.

A Hugging Face folder says it in sentence-transformers' files, of which a model here has these modules in this order:

    modules.json     Transformer ─► Pooling (1_Pooling/config.json) ─► Normalize, or none

A GGUF file says it in `<architecture>.pooling_type`, llama.cpp's number; there, who asks has them normalised.
Sources: sentence_transformers/models/Pooling.py; llama.cpp's include/llama.h (`llama_pooling_type`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from genai.build.checkpoint_config import CONFIG_FILE, read_json_object, read_json_value
from genai.build.source import JSON
from genai.config import EmbeddingConfig, Pooling
from genai.errors import UnsupportedModelError, WeightsError

MODULES_FILE = "modules.json"
_LENGTH_FILE = "sentence_bert_config.json"
_PROMPTS_FILE = "config_sentence_transformers.json"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_-]+")
_MODES: dict[str, Pooling] = {"lasttoken": "last", "mean": "mean", "cls": "first"}
_FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
_GGUF_TYPES: dict[object, Pooling] = {1: "mean", 2: "first", 3: "last"}
GGUF_RERANKER = 4
"""The `pooling_type` of files whose head has been cut down to the answers of a reranker."""


def embedding_of_folder(folder: Path, config: Mapping[str, JSON]) -> EmbeddingConfig | None:
    """How a folder's embeddings are made; None if it is no embedding model.

    config: the keys of `config.json`. Raises: UnsupportedModelError for modules that are not built, WeightsError.
    """
    modules = _modules(folder)
    kinds = [kind for kind, _ in modules]
    if "Pooling" not in kinds:
        return None
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UnsupportedModelError(
            f"{folder / MODULES_FILE} has the modules {', '.join(kinds)}; built are Transformer, Pooling and Normalize"
        )
    if modules[0][1]:
        raise UnsupportedModelError(f"{folder / MODULES_FILE}: the model lies in {modules[0][1]!r}, not in the folder")
    said = _optional(folder / _PROMPTS_FILE)
    prompts = _prompts(folder, said)
    lengths = _optional(folder / _LENGTH_FILE)
    if lengths.get("do_lower_case"):
        raise UnsupportedModelError(f"{folder / _LENGTH_FILE}: do_lower_case is not supported")
    max_tokens = lengths.get("max_seq_length")
    default = said.get("default_prompt_name")
    return EmbeddingConfig(
        pooling=_pooling(folder, modules[1][1], has_prompts=any(prompts.values())),
        is_normalized="Normalize" in kinds,
        max_tokens=max_tokens if _is_size(max_tokens) else None,
        dimensions=_dimensions(config),
        prompts=prompts,
        default_prompt=default if isinstance(default, str) and default in prompts else None,
    )


def embedding_of_gguf(metadata: Mapping[str, object], path: Path) -> EmbeddingConfig | None:
    """The same of a GGUF file. Raises: UnsupportedModelError for a `pooling_type` that is not known."""
    kind = pooling_type(metadata)
    if kind in (None, 0, GGUF_RERANKER):
        return None
    if kind not in _GGUF_TYPES:
        raise UnsupportedModelError(f"{path}: pooling_type {str(kind)[:20]} is not known; known are 0 to 4")
    return EmbeddingConfig(pooling=_GGUF_TYPES[kind], is_normalized=True)


def pooling_type(metadata: Mapping[str, object]) -> int | str | None:
    """What a GGUF file says of its pooling, None if nothing; what is no number as text."""
    value = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    return value if value is None or isinstance(value, int) else str(value)


def embedding_files(folder: Path) -> list[Path]:
    """The files of a folder that say how its embeddings are made; none if it is no embedding model."""
    if not (folder / MODULES_FILE).is_file():
        return []
    places = [MODULES_FILE, _LENGTH_FILE, _PROMPTS_FILE, *(f"{path}/{CONFIG_FILE}" for _, path in _modules(folder))]
    return [
        folder / place for place in dict.fromkeys(places) if place != f"/{CONFIG_FILE}" and (folder / place).is_file()
    ]


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module, in order; none if the file is not there."""
    path = folder / MODULES_FILE
    if not path.is_file():
        return []
    entries = read_json_value(path)
    modules = []
    for entry in entries if isinstance(entries, list) else [None]:
        kind, place = (entry.get("type"), entry.get("path", "")) if isinstance(entry, dict) else (None, None)
        if (
            not isinstance(kind, str)
            or not isinstance(place, str)
            or not (place == "" or _FOLDER_NAME.fullmatch(place))
        ):
            raise WeightsError(f"{path} is damaged: no list of modules with their types and folders")
        modules.append((kind.rpartition(".")[2], place))
    return modules


def _pooling(folder: Path, place: str, *, has_prompts: bool) -> Pooling:
    path = folder / place / CONFIG_FILE
    config = read_json_object(path)
    modes = _named_modes(config.get("pooling_mode"))
    modes = modes or [
        _FLAGS.get(key, key.removeprefix("pooling_mode_").removesuffix("_tokens"))
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value
    ]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UnsupportedModelError(
            f"{path}: pooling by {', '.join(modes) or 'nothing'} is not supported; supported: {', '.join(_MODES)}"
        )
    if config.get("include_prompt") is False and modes != ["lasttoken"] and has_prompts:
        raise UnsupportedModelError(f"{path}: include_prompt=false, a mean without the prompt, is not supported")
    return _MODES[modes[0]]


def _named_modes(value: JSON) -> list[str]:
    """The newer key: one name, or several."""
    return [value] if isinstance(value, str) else [str(each) for each in value] if isinstance(value, list) else []


def _prompts(folder: Path, said: Mapping[str, JSON]) -> dict[str, str]:
    prompts = said.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise WeightsError(f"{folder / _PROMPTS_FILE} is damaged: its prompts are no texts by name")
    return {name: text for name, text in prompts.items() if isinstance(text, str)}


def _dimensions(config: Mapping[str, JSON]) -> tuple[int, ...]:
    """To how many numbers embeddings may be cut, where the configuration lists them."""
    listed = config.get("matryoshka_dimensions")
    return tuple(sorted(size for size in listed if _is_size(size))) if isinstance(listed, list) else ()


def _is_size(value: JSON) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _optional(path: Path) -> Mapping[str, JSON]:
    return read_json_object(path) if path.is_file() else {}
