"""Tiny random models of a family that has rerankers and embedding models, and what transformers says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from genai.build.package import build_package
from tests.build import tiny
from tests.tiny_package import END, END_ID, TEMPLATE, byte_tokenizer

WORDS = ("yes", "no")
TEXTS = ["a cat", "Grüße aus der Stadt", "x", "rivers and lakes " * 9, "one more text", "a cat sat"]


def reading_tokenizer() -> tokenizers.Tokenizer:
    """Tokens of bytes, two for messages (256, 257), and the words that a reranker answers with (258, 259)."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(WORDS))
    return tokenizer


def checkpoint(folder: Path, model: Any, **changes: Any) -> Path:
    """A Hugging Face folder of a model with that tokenizer; changes: keys of `config.json`."""
    tiny.save(model, folder, **{"bos_token_id": None, "eos_token_id": 257, "pad_token_id": None} | changes)
    reading_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def reranker(folder: Path) -> tuple[Any, Path]:
    """A model that writes, and its package in float32."""
    model = tiny.make_model("qwen3", head_dim=16, max_position_embeddings=1024)
    return model, build_package(checkpoint(folder / "hf", model), folder / "package", precision="f32")


def last_logits(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """What transformers says follows these tokens, [V]."""
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([list(tokens)])).logits[0, -1].double().numpy()
    return logits


MODULES = ("Transformer", "Pooling", "Normalize")
QUERY_PROMPT = "Instruct: find\nQuery:"


def write_modules(folder: Path, modules: Sequence[str] = MODULES, **pooling: object) -> Path:
    """What sentence-transformers keeps beside a model; pooling: the module's configuration."""
    package = "sentence_transformers.models"
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(modules[1:], start=1))]
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": f"{package}.{kind}"}
        for number, (path, kind) in enumerate(zip(paths, modules, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {"word_embedding_dimension": 64, "include_prompt": True, **(pooling or {"pooling_mode_lasttoken": True})}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    prompts = {"prompts": {"query": QUERY_PROMPT, "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


def ending_tokenizer() -> tokenizers.Tokenizer:
    """Its texts end with token 257, as those of Qwen3-Embedding do with theirs."""
    tokenizer = reading_tokenizer()
    single = f"$A {END}"
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=[(END, END_ID)])
    return tokenizer


def embedding_checkpoint(folder: Path, model: Any, modules: Sequence[str] = MODULES, **pooling: object) -> Path:
    """A Hugging Face folder of a model that was saved without its head: names lack their beginning."""
    checkpoint(folder, model.model)
    ending_tokenizer().save(str(folder / "tokenizer.json"))
    return write_modules(folder, modules, **pooling)


def embedding_model(**options: Any) -> Any:
    """A model whose decoder is used without its head."""
    sizes = {"head_dim": 16, "max_position_embeddings": 512, "tie_word_embeddings": True}
    return tiny.make_model("qwen3", **(sizes | options))


def hidden_states(model: Any, tokens: Sequence[int]) -> np.ndarray:
    """What transformers' final norm gives at each of these tokens, [T, H]."""
    import torch

    with torch.no_grad():
        states: np.ndarray = model.model(torch.tensor([list(tokens)])).last_hidden_state[0].double().numpy()
    return states


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Rows made one long."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
