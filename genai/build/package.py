"""A model package from a checkpoint: graph, weights, tokenizer and `genai.json` in one folder.

    model.onnx  model.onnx.data  tokenizer.json  chat_template.jinja  genai.json

The folder appears when it is whole: a build that fails or dies leaves nothing half-made.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import onnx

from genai.build.adapter_products import AdapterProducts
from genai.build.adapters.base import Base
from genai.build.adapters.merged import MergedSource
from genai.build.adapters.open import adapter_digest, read_adapter
from genai.build.architectures import spec_of, stored_form_of
from genai.build.architectures.config import ConfigReader
from genai.build.decoder import build_decoder
from genai.build.defaults import Settings, defaults_of_folder, defaults_of_gguf, within
from genai.build.embedding import embedding_of_folder, embedding_of_gguf
from genai.build.gguf.reranker import rerank_prompt
from genai.build.gguf.source import GgufSource
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.mxfp4 import Mxfp4Source
from genai.build.open import open_source, source_digest, source_files
from genai.build.output import finished_folder
from genai.build.precision import Plan
from genai.build.reported import ReportedSource
from genai.build.row_start import write_contract
from genai.build.safetensors import SafetensorsSource
from genai.build.source import WeightSource
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredSource
from genai.build.weights import Weights
from genai.build.windows import window_config
from genai.config import (
    CONFIG_FILE,
    CONTRACT_VERSION,
    MAX_RANK,
    MODEL_FILE,
    AdapterConfig,
    EmbeddingConfig,
    ModelConfig,
    Precision,
    Provenance,
)
from genai.errors import ConfigError
from genai.progress import Progress, silent
from genai.runtime.mapped import given_back
from genai.tokenizer.files import TokenizerFiles

BUILDER = "genai-11"
"""Changes whenever the same source and options would give another package: cached packages are keyed by it."""


def package_key(
    source: Path,
    *,
    precision: Precision,
    device: str,
    max_seq_len: int | None,
    sha256: str,
    lora_slots: int = 0,
    max_rank: int = MAX_RANK,
    merge_lora: Path | None = None,
) -> str:
    """A short name for what a build would produce: the source's sha256, the options and the builder's version.

    Raises: AdapterError for an adapter to be merged that is none.
    """
    parts = [BUILDER, CONTRACT_VERSION, sha256, precision, device, max_seq_len]
    parts += [*_adapter_options(lora_slots, max_rank, merge_lora).items()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def build_package(
    source: Path,
    output: Path,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
    max_seq_len: int | None = None,
    lora_slots: int = 0,
    max_rank: int = MAX_RANK,
    merge_lora: Path | None = None,
    sha256: str | None = None,
    progress: Progress = silent,
) -> Path:
    """Build a package folder from a GGUF file or a Hugging Face folder; returns `output`.

    output: new, empty, or a package, which is replaced; device: by name, which decides what "auto" means and
    the activations' type; max_seq_len: the context to build for, None for the model's own; lora_slots: how many
    adapters the package has room for, none above the rank `max_rank`; merge_lora: an adapter that becomes part of the
    weights; sha256: the source's digest, where it is known.
    Raises: ConfigError, ModelError and its kinds, TokenizerError; nothing is left behind.
    """
    plan = Plan.of(precision, device)
    if max_seq_len is not None and max_seq_len < 1:
        raise ConfigError(f"max_seq_len={max_seq_len}: must be at least 1")
    if lora_slots < 0 or max_rank < 1:
        raise ConfigError(f"lora_slots={lora_slots}, max_rank={max_rank}: must be at least 0, and at least 1")
    with (
        open_source(source) as checkpoint,
        given_back(source_files(source)),
        finished_folder(output, CONFIG_FILE) as folder,
    ):
        reader = ConfigReader(checkpoint.config, max_seq_len)
        embedding = _embedding(checkpoint)
        spec = replace(spec_of(reader), has_head=embedding is None)
        tokenizer = _tokenizer(checkpoint)
        provenance = Provenance(
            source=checkpoint.path.resolve().name,
            sha256=sha256 or source_digest(source, progress),
            precision=precision,
            builder=BUILDER,
            options={"device": device, "max_seq_len": max_seq_len} | _adapter_options(lora_slots, max_rank, merge_lora),
        )
        adapters = AdapterConfig(slots=lora_slots, base=checkpoint.config) if lora_slots else None
        config = replace(
            _model_config(checkpoint, spec, plan, tokenizer, provenance), embedding=embedding, adapters=adapters
        )
        with ExternalData(folder / f"{MODEL_FILE}.data") as data:
            graph, named = GraphBuilder(data), _in_our_form(checkpoint, reader)
            if merge_lora is not None:
                named = MergedSource(named, read_adapter(merge_lora, Base(checkpoint.config)))
            reported = ReportedSource(named, progress)
            weights = Weights(graph, reported, plan, AdapterProducts(graph, plan, max_rank) if lora_slots else None)
            metadata = {name: getattr(config.provenance, name) for name in ("source", "sha256", "precision")}
            model = build_decoder(spec, weights, metadata)
            reported.finish()
        onnx.save(model, folder / MODEL_FILE)
        tokenizer.save(folder)
        write_contract(folder, config, model, weights.graph.row_start)
    return output


def _adapter_options(lora_slots: int, max_rank: int, merge_lora: Path | None) -> dict[str, str | int | None]:
    """What is said of adapters where there are some; a package without any is as it would be without the question."""
    merged = {} if merge_lora is None else {"merge_lora": adapter_digest(merge_lora)}
    return merged | ({"lora_slots": lora_slots, "max_rank": max_rank} if lora_slots else {})


def _model_config(
    checkpoint: GgufSource | SafetensorsSource,
    spec: DecoderSpec,
    plan: Plan,
    tokenizer: TokenizerFiles,
    provenance: Provenance,
) -> ModelConfig:
    """What `genai.json` says, but for what only some packages have."""
    heads = spec.first_attention
    return ModelConfig(
        contract_version=CONTRACT_VERSION,
        model_type=str(checkpoint.config["model_type"]),
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        vocab_size=spec.vocab_size,
        num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads,
        head_dim=heads.head_dim,
        max_position=spec.max_position,
        cache_dtype=plan.dtype,
        eos_token_ids=tokenizer.eos_token_ids,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        sliding_window=spec.sliding_window,
        generation=within(_defaults(checkpoint), spec.vocab_size),
        rerank_prompt=rerank_prompt(checkpoint.metadata) if isinstance(checkpoint, GgufSource) else None,
        provenance=provenance,
        kept_window=window_config(spec),
    )


def _embedding(checkpoint: GgufSource | SafetensorsSource) -> EmbeddingConfig | None:
    if isinstance(checkpoint, GgufSource):
        return embedding_of_gguf(checkpoint.metadata, checkpoint.path)
    return embedding_of_folder(checkpoint.path, checkpoint.config)


def _in_our_form(checkpoint: GgufSource | SafetensorsSource, config: ConfigReader) -> WeightSource:
    """The checkpoint under our names: a GGUF file is read into them as it is."""
    if isinstance(checkpoint, GgufSource):
        return checkpoint
    return StoredSource(Mxfp4Source(checkpoint), stored_form_of(config))


def _tokenizer(checkpoint: GgufSource | SafetensorsSource) -> TokenizerFiles:
    if isinstance(checkpoint, GgufSource):
        from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf

        return tokenizer_from_gguf(checkpoint.metadata)
    from genai.tokenizer.hf_tokenizer import tokenizer_from_hf

    return tokenizer_from_hf(checkpoint.path)


def _defaults(checkpoint: GgufSource | SafetensorsSource) -> Settings:
    if isinstance(checkpoint, GgufSource):
        return defaults_of_gguf(checkpoint.metadata, checkpoint.path)
    return defaults_of_folder(checkpoint.path)
