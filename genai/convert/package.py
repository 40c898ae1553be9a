"""A converted model as a package folder: graph, weights, tokenizer, `genai.json` and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from genai import contract
from genai.build.checkpoint_config import CONFIG_FILE as HF_CONFIG
from genai.build.checkpoint_config import read_json_object
from genai.build.defaults import defaults_of_folder, within
from genai.build.open import files_digest
from genai.build.row_start import slot_bytes
from genai.build.source import JSON, FloatArray
from genai.config import CONTRACT_BY_LAYER, CONTRACT_VERSION, MODEL_FILE, ROW_START_FILE, ModelConfig, Provenance
from genai.convert.emit import CACHE_TYPES, Heads
from genai.convert.report import REPORT_FILE, ConversionReport
from genai.convert.rewritten import ModelFacts
from genai.convert.values import size_of
from genai.errors import ModelError, UnsupportedModelError
from genai.tokenizer.files import TokenizerFiles

_PAGE = 4096
_SMALL = 256
"""Bytes of weights that lie in the graph's own file, at most: `onnx_ir`'s own limit."""


def write_graph(model: ir.Model, folder: Path) -> None:
    """Write the graph; weights are copied into its external data one after another."""
    _take_small_weights(model.graph)
    model.producer_name = "onnx-kv-runtime"
    ir.save(model, folder / MODEL_FILE, external_data=f"{MODEL_FILE}.data", alignment=_PAGE, align_threshold=_PAGE)


def _take_small_weights(graph: ir.Graph) -> None:
    """Small weights of files into memory: `onnx_ir` would take them when it writes, and close files that are in use."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _SMALL:
            value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=value.name)


def model_config(model: ir.Model, facts: ModelFacts, tokenizer: TokenizerFiles, provenance: Provenance) -> ModelConfig:
    """What `genai.json` says of a contract graph."""
    caches, layers = _caches(model), _recurrent_layers(model)
    cache_dtype = _cache_type(model)
    ends = facts.eos_token_ids + tokenizer.eos_token_ids
    return ModelConfig(
        contract_version=CONTRACT_VERSION if contract.is_uniform(caches) and not layers else CONTRACT_BY_LAYER,
        model_type=facts.model_type,
        num_layers=len({cache.layer for cache in caches} | layers),
        hidden_size=facts.hidden_size,
        vocab_size=vocab_size(model),
        num_heads=facts.num_heads,
        num_kv_heads=facts.num_kv_heads,
        head_dim=facts.head_dim,
        max_position=facts.max_position,
        cache_dtype=cache_dtype,
        eos_token_ids=tuple(dict.fromkeys(ends)),
        bos_token_id=_first(facts.bos_token_id, tokenizer.bos_token_id),
        pad_token_id=_first(facts.pad_token_id, tokenizer.pad_token_id),
        sliding_window=facts.sliding_window,
        generation=within(facts.generation, vocab_size(model)),
        provenance=provenance,
    )


def with_row_start(config: ModelConfig, row_start: Mapping[str, FloatArray]) -> ModelConfig:
    """What `genai.json` says where rows begin with a reserved slot; row_start: empty where they do not."""
    return replace(config, contract_version=CONTRACT_BY_LAYER, reserved_slots=1) if row_start else config


def write_row_start(model: ir.Model, dtype: str, row_start: Mapping[str, FloatArray], folder: Path) -> None:
    """Write the bytes that each row begins with, if it begins with any."""
    if row_start:
        (folder / ROW_START_FILE).write_bytes(slot_bytes(_caches(model), dtype, row_start))


def _cache_type(model: ir.Model) -> Literal["float32", "float16", "bfloat16"]:
    """The type of a contract graph's caches."""
    cache = next(value for value in model.graph.inputs if contract.is_cache(value.name or ""))
    return CACHE_TYPES[cache.dtype or ir.DataType.FLOAT]


def _caches(model: ir.Model) -> tuple[contract.Cache, ...]:
    """A contract graph's caches."""
    return contract.in_order(
        contract.Cache(value.name or "", size_of(value, 2) or 0)
        for value in model.graph.inputs
        if contract.is_cache(value.name or "")
    )


def _recurrent_layers(model: ir.Model) -> set[int]:
    """The layers of a contract graph that have states."""
    names = (value.name or "" for value in model.graph.inputs)
    return {int(name.rpartition(".")[2]) for name in names if contract.is_state(name)}


def vocab_size(model: ir.Model) -> int:
    """The number of logits. Raises: UnsupportedModelError if the graph does not say it."""
    shape = model.graph.outputs[0].shape
    size = None if shape is None else shape[-1]
    if not isinstance(size, int):
        raise UnsupportedModelError(f"the logits have shape {shape}: their last dimension must be fixed")
    return size


def precision_of(model: ir.Model) -> str:
    """What the weights of the products are, as `genai build` calls it."""
    bits = {node.attributes.get_int("bits", 4) for node in model.graph if node.op_type == "MatMulNBits"}
    if bits:
        return f"int{min(bits)}"
    return {"float16": "f16", "bfloat16": "bf16"}.get(_cache_type(model), "f32")


def source_digest(path: Path, model: ir.Model) -> str:
    """A SHA-256 over the graph's file and the files of its weights, as `genai.build.open.source_digest` makes it."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return files_digest({path, *(Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor))})


def write_report(report: ConversionReport, folder: Path) -> None:
    """Write the report beside the graph."""
    text = json.dumps(report.as_json(), indent=2, ensure_ascii=False)
    (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path, heads: Heads, max_seq_len: int | None) -> ModelFacts:
    """What a Hugging Face `config.json` beside the graph says; heads: as the graph has them.

    max_seq_len: the longest sequence, where the caller knows it. Raises: ModelError if nobody does.
    """
    path = folder / HF_CONFIG
    merged = _text_config(folder)
    longest = max_seq_len or _number(merged, ("max_position_embeddings", "n_positions", "seq_length", "n_ctx"))
    if longest is None:
        where = f"{path} does not say" if merged else f"{folder} has no config.json to say"
        raise ModelError(f"{where} how long a sequence may be (max_position_embeddings); give max_seq_len")
    return ModelFacts(
        model_type=str(merged.get("model_type", "unknown")),
        hidden_size=_number(merged, ("hidden_size", "n_embd", "d_model")) or heads.num_heads * heads.head_dim,
        num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads,
        head_dim=heads.head_dim,
        max_position=longest,
        generation=defaults_of_folder(folder),
    )


def configured_window(folder: Path) -> int | None:
    """The newest keys that some layer's queries see, by `config.json`; None for all, or where nothing says it."""
    config = _text_config(folder)
    layers = config.get("layer_types")
    if config.get("use_sliding_window") is False or (
        isinstance(layers, list) and set(map(str, layers)) == {"full_attention"}
    ):
        return None
    windows = [_number(config, (key,)) for key in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if window is not None), default=None)


def _text_config(folder: Path) -> dict[str, JSON]:
    """The language model's configuration, empty where there is none."""
    path = folder / HF_CONFIG
    config: dict[str, JSON] = read_json_object(path) if path.is_file() else {}
    inner = config.get("text_config")
    return config | (inner if isinstance(inner, dict) else {})


def _number(config: dict[str, JSON], names: tuple[str, ...]) -> int | None:
    values = (config.get(name) for name in names)
    return next(
        (value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
