"""A checkpoint as ONNX: traced, fused, and written with its tokenizer and a description of what was done."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir
import torch
import transformers
from transformers.utils import logging as transformers_log

from genai.build.output import finished_folder
from genai.config import MODEL_FILE
from genai.convert.fusions import FusionReport
from genai.errors import ModelNotFoundError, UnsupportedModelError
from genai.export.attention import NAME, Attentions
from genai.export.options import ExportOptions
from genai.export.tidy import tidy
from genai.export.tracing import trace
from genai.progress import Progress, silent

REPORT_FILE = "export.json"

DEFAULT_OPTIONS = ExportOptions()

_STEPS = 4
_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_COPIED = ("*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
_NOT_COPIED = ("*.safetensors.index.json", "*.bin.index.json", REPORT_FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote, and what was fused in it."""

    path: Path
    fusions: FusionReport


def export_plain(
    source: Path, output: Path, options: ExportOptions = DEFAULT_OPTIONS, progress: Progress = silent
) -> Exported:
    """Write a Hugging Face folder as an ONNX model with past and present caches.

    The folder gets model.onnx (input_ids, attention_mask, position_ids, past_key_values.{i}.key, .value [B, H, P, D] →
    logits float32, present.{i}.key, .value), model.onnx.data, configuration and tokenizer files, and export.json.
    Raises: ModelNotFoundError, UnsupportedModelError, and ModelError if the folder cannot be written.
    """
    made = description(source, options)
    with finished_folder(output, REPORT_FILE) as folder:
        progress("loading", 0, _STEPS)
        model = load(source, options)
        progress("tracing", 1, _STEPS)
        traced = trace(model, softmax_in_f32=options.dtype != "f32" and options.accumulate == "f32")
        progress("fusing", 2, _STEPS)
        fusions = tidy(traced)
        traced.metadata_props.update(made)
        progress("writing", 3, _STEPS)
        ir.save(traced, folder / MODEL_FILE, external_data=f"{MODEL_FILE}.data")
        _copy_files(source, folder)
        report = json.dumps(made | {"fusions": fusions.as_json()}, indent=2)
        (folder / REPORT_FILE).write_text(report + "\n", encoding="utf-8")
    progress("writing", _STEPS, _STEPS)
    return Exported(path=output, fusions=fusions)


def description(source: Path, options: ExportOptions) -> dict[str, str]:
    """What was exported and how, for the package's metadata."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {"source": source.resolve().name, **asdict(options), **versions}


def load(source: Path, options: ExportOptions) -> torch.nn.Module:
    """A folder's decoder as transformers makes it, with attention that becomes one operator.

    Raises: ModelNotFoundError; UnsupportedModelError for what is no decoder.
    """
    if not (source / "config.json").is_file():
        raise ModelNotFoundError(f"{source} is not a Hugging Face folder: it has no config.json")
    Attentions().register()  # a name must stand for something before a model may be made with it
    had_bars = transformers_log.is_progress_bar_enabled()
    transformers_log.disable_progress_bar()
    try:
        here = {"local_files_only": True, "trust_remote_code": False}  # said, or transformers asks whether to run code
        config = transformers.AutoConfig.from_pretrained(source, **here)
        if config.is_encoder_decoder:
            raise UnsupportedModelError(f"{config.model_type} is an encoder-decoder; only decoders can be exported")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=_DTYPES[options.dtype], attn_implementation=NAME, **here
        )
    except UnsupportedModelError:
        raise
    except Exception as error:  # transformers and what it runs raise anything for what they were not made for
        is_own = isinstance(error, KeyError) and error.args == (NAME,)  # looked up among the model's own classes
        reason = "it has attention of its own" if is_own else str(error).split("\n")[0] or type(error).__name__
        raise UnsupportedModelError(f"transformers cannot load {source}: {reason}") from error
    finally:
        if had_bars:
            transformers_log.enable_progress_bar()
    loaded: torch.nn.Module = model.eval()
    return loaded


def _copy_files(source: Path, folder: Path) -> None:
    """Configuration and tokenizer, without weights."""
    left_out = {file for pattern in _NOT_COPIED for file in source.glob(pattern)}
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if file not in left_out:
                shutil.copyfile(file, folder / file.name)
