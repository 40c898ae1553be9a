"""Tiny random checkpoints as other projects' builders write them: onnxruntime-genai folders, mobius-onnx packages."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.build import tiny

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
}


def write_checkpoint(model: Any, folder: Path, **changes: Any) -> Path:
    """A Hugging Face folder that the builders read; changes: keys of its `config.json`."""
    tiny.save(model, folder, **changes)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    return folder


def genai_folder(
    checkpoint: Path, output: Path, precision: str = "fp32", provider: str = "cpu", options: Sequence[str] = ()
) -> Path:
    """A folder by onnxruntime-genai's model builder; options: its `KEY=VALUE` extra options."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the builder's own
        from onnxruntime_genai.models import builder

        place = ("", str(checkpoint), str(output), precision, provider, str(output / "cache"))
        extra = builder.parse_extra_options(*place, list(options))
        _flatten_rotary(extra["hf_details"]["hf_config"])
        builder.create_model(*place, **extra)
    return output


def _flatten_rotary(config: Any) -> None:
    """Write Gemma 3's two rotary embeddings as transformers 4 did: the builder (0.18) reads no others."""
    nested: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    if "sliding_attention" in nested:
        config.rope_local_base_freq = nested["sliding_attention"]["rope_theta"]
        config.rope_theta = nested["full_attention"]["rope_theta"]
        config.rope_parameters = dict(nested["full_attention"])


def genai_text(folder: Path, prompt: Sequence[int], count: int) -> list[int]:
    """The most probable continuation, as onnxruntime-genai itself generates it."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    length = len(prompt) + count
    params.set_search_options(batch_size=1, do_sample=False, min_length=length, max_length=length)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return [int(token) for token in generator.get_sequence(0)[len(prompt) :]]


def static_cache_package(checkpoint: Path, output: Path, capacity: int = 64) -> Path:
    """A static-cache package by mobius-onnx, with the checkpoint's tokenizer beside it."""
    options = ["--static-cache", "--max-seq-len", str(capacity), "--dtype", "f32", "--runtime", "ort-genai"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the builder's own
        from mobius.__main__ import main

        main(["build", "--config", str(checkpoint), *options, str(output)])
    return output


def change_config(folder: Path, **changes: Any) -> None:
    """Set values in `genai_config.json`; a key `a__b` means `b` within `a`, and `...` removes."""
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, last = key.split("__")
        place = config
        for name in outer:
            place = place[name]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    path.write_text(json.dumps(config))
