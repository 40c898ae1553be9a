"""Tiny random models of a family that has rerankers and embedding models, and what transformers says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from genai.build.package import build_package
from tests.build import tiny
from tests.tiny_package import TEMPLATE, byte_tokenizer

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
