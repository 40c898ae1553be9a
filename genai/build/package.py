"""A model package from a checkpoint: graph, weights, tokenizer and `genai.json` in one folder.

    model.onnx  model.onnx.data  tokenizer.json  chat_template.jinja  genai.json

Built in a temporary folder beside its destination and renamed when whole: a build that dies leaves nothing half-made.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from genai.build.architectures import spec_of
from genai.build.architectures.config import ConfigReader
from genai.build.decoder import build_decoder
from genai.build.gguf_source import GgufSource
from genai.build.graph import ExternalData, GraphBuilder
from genai.build.open import open_source, source_digest
from genai.build.precision import Plan
from genai.build.source import WeightSource
from genai.build.spec import DecoderSpec
from genai.build.weights import Weights
from genai.config import CONTRACT_VERSION, ModelConfig, Precision, Provenance
from genai.errors import ModelError
from genai.progress import Progress, silent
from genai.text.files import TokenizerFiles

BUILDER = "genai-1"
"""Changes whenever the same source and options would give another graph: cached packages are keyed by it."""

MODEL_FILE = "model.onnx"
_GENERATION_KEYS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def package_key(source: Path, *, precision: Precision, device: str, max_seq_len: int | None, sha256: str) -> str:
    """A short name for what a build would produce: the source's sha256, the options and the builder's version."""
    parts = json.dumps([BUILDER, CONTRACT_VERSION, sha256, precision, device, max_seq_len])
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def build_package(
    source: Path,
    output: Path,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
    max_seq_len: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Build a package folder from a GGUF file or a Hugging Face folder; returns `output`.

    device: "cpu" or "cuda", which decides what "auto" means and the activations' type; max_seq_len: the context to
    build for, None for the model's own. Raises: ModelError and its kinds; nothing is left behind.
    """
    plan = Plan.of(precision, device)
    with open_source(source) as checkpoint, _finished_folder(output) as folder:
        spec = spec_of(ConfigReader(checkpoint.config, max_seq_len))
        tokenizer = _tokenizer(checkpoint, source)
        provenance = Provenance(
            source=source.name,
            sha256=source_digest(source),
            precision=precision,
            builder=BUILDER,
            options={"device": device, "max_seq_len": max_seq_len},
        )
        config = _model_config(checkpoint, spec, plan, tokenizer, source, provenance)
        with ExternalData(folder / f"{MODEL_FILE}.data") as data:
            weights = Weights(GraphBuilder(data), checkpoint, plan)
            metadata = {"source": source.name, "sha256": provenance.sha256, "precision": precision}
            model = build_decoder(spec, weights, metadata, progress)
        onnx.save(model, folder / MODEL_FILE)
        tokenizer.save(folder)
        config.write(folder)
    return output


def _model_config(
    checkpoint: WeightSource,
    spec: DecoderSpec,
    plan: Plan,
    tokenizer: TokenizerFiles,
    source: Path,
    provenance: Provenance,
) -> ModelConfig:
    heads = spec.layers[0]
    return ModelConfig(
        contract_version=CONTRACT_VERSION,
        model_type=str(checkpoint.config["model_type"]),
        num_layers=len(spec.layers),
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
        generation=_generation_defaults(source),
        provenance=provenance,
    )


def _tokenizer(checkpoint: WeightSource, source: Path) -> TokenizerFiles:
    if isinstance(checkpoint, GgufSource):
        from genai.text.gguf_tokenizer import tokenizer_from_gguf

        return tokenizer_from_gguf(checkpoint.metadata)
    from genai.text.hf_tokenizer import tokenizer_from_hf

    return tokenizer_from_hf(source)


def _generation_defaults(source: Path) -> dict[str, int | float | bool]:
    """The sampling settings of a Hugging Face folder's `generation_config.json`, if it has one."""
    path = source / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {key: values[key] for key in _GENERATION_KEYS if isinstance(values.get(key), int | float)}
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None


@contextmanager
def _finished_folder(output: Path) -> Iterator[Path]:
    """A temporary folder that becomes `output` if the block succeeds and vanishes if it does not."""
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / "genai.json").exists())):
        raise ModelError(f"{output} exists and is not a model package; choose another output folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise _disk_error(error, output) from None
    try:
        yield folder
        if output.exists():
            shutil.rmtree(output)
        folder.chmod(0o755)
        folder.rename(output)
    except OSError as error:
        raise _disk_error(error, output) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _disk_error(error: OSError, output: Path) -> ModelError:
    if error.errno == errno.ENOSPC:
        return ModelError(f"the disk is full: cannot write {output}; free some space and build again")
    return ModelError(f"cannot write {output}: {error.strerror or error}")
