"""The text that everything is measured on: a short story written for this purpose, so that no model has learned it."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.protocol import Request
from genai.config import ModelConfig
from genai.tokenizer.tokenizer import Tokenizer

PROMPT_LENGTHS = (16, 256)
ANSWER_LENGTHS = (16, 96)
"""The shortest and the longest of ragged requests."""

ENGLISH = Path(__file__).resolve().parent / "data" / "english.txt"


def english_tokens(package: Path) -> list[int]:
    """The text as a model package's tokens."""
    model = ModelConfig.read(package)
    tokenizer = Tokenizer.from_folder(
        package,
        bos_token_id=model.bos_token_id,
        eos_token_ids=model.eos_token_ids,
        pad_token_id=model.pad_token_id,
    )
    return tokenizer.encode(ENGLISH.read_text(encoding="utf-8"))


def prompts(tokens: list[int], rows: int, length: int) -> list[list[int]]:
    """A batch of prompts of one length: the text repeated, each row beginning somewhere else in it."""
    repeated = tokens * (2 + length // len(tokens))
    starts = [row * 97 % len(tokens) for row in range(rows)]
    return [repeated[start : start + length] for start in starts]


def ragged_requests(tokens: list[int], number: int) -> list[Request]:
    """Requests of different lengths, the same ones every time: pieces of the text that begin anywhere in it."""
    rng = random.Random(0)
    repeated = tokens * (2 + PROMPT_LENGTHS[1] // len(tokens))
    requests = []
    for _ in range(number):
        start, length = rng.randrange(len(tokens)), rng.randint(*PROMPT_LENGTHS)
        requests.append((repeated[start : start + length], rng.randint(*ANSWER_LENGTHS)))
    return requests
