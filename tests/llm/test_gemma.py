"""Gemma 3 270M against transformers in f32, from the same GGUF file.

Beside SmolLM2 in a file of its own: both originals need not be in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.llm.real_models import PROMPTS, english, follow, generate, load, logprobs_of, mean_divergence, original_of

pytestmark = pytest.mark.slow


def test_default_precision_of_gemma(
    gemma_f32: Path, gemma_auto: Path, record_property: Callable[[str, object], None]
) -> None:
    """0.0023 over 512 tokens; here over 128, as its 262,144 logits for each token take their time."""
    divergence = mean_divergence(gemma_f32, gemma_auto, 128)
    record_property("gemma_auto_mean_kl", divergence)
    assert divergence < 0.01


@pytest.fixture(scope="module", name="gemma")
def gemma_fixture(gemma_gguf: Path) -> Any:
    return original_of(gemma_gguf)


def test_gemma_follows_transformers_beyond_its_window(gemma_f32: Path, gemma: Any) -> None:
    """One prompt leaves the window of 512 while it is prefilled, one while decoding; and the chunks do not matter."""
    with load(gemma_f32, prefill_chunk=1024) as llm:
        text = english(llm, 700)
        prompts = [*(llm.tokenizer.encode(prompt) for prompt in PROMPTS[:2]), text[:700], text[:500]]
        whole = generate(llm, prompts)
    with load(gemma_f32, prefill_chunk=100) as llm:
        in_chunks = generate(llm, prompts[2:])
    for prompt, generation in zip(prompts, whole, strict=True):
        follow(gemma, prompt, generation)
    for one, many in zip(whole[2:], in_chunks, strict=True):
        assert one.token_ids == many.token_ids
        np.testing.assert_allclose(logprobs_of(one), logprobs_of(many), atol=1e-4)


def test_what_is_kept_of_long_texts_gives_the_bits_of_the_whole(gemma_auto: Path) -> None:
    """With long chunks the window's layers have room for all of the text, with short ones its keys move down."""
    with load(gemma_auto, max_seq_len=1600, prefill_chunk=1024) as llm:
        prompt = english(llm, 740) * 2
        (whole,) = generate(llm, [prompt])
        assert llm.same_bits.padding is not None
    with load(gemma_auto, max_seq_len=1600, prefill_chunk=64) as llm:
        kept, _ = generate(llm, [prompt, prompt[:300]])
    assert (kept.token_ids, logprobs_of(kept)) == (whole.token_ids, logprobs_of(whole))
