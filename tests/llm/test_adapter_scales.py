"""Adapters with a scale: PEFT's numbers with a larger alpha, in one batch with others, and never mixed up with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.build.package import build_package
from genai.errors import ConfigError
from tests.build import tiny
from tests.build.adapters import published
from tests.families import oracle

pytest.importorskip("peft")

PROMPT = tiny.tokens(40)
GREEDY: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.0, "eos_token_ids": ()}
SCALES = (1.0, 0.5, -1.5, 0.0)


class Base:
    """A tiny base, an adapter of it, and PEFT's logits for the adapter with each scale."""

    def __init__(self, folder: Path) -> None:
        model = tiny.make_model("llama")
        checkpoint = tiny.save(model, folder / "checkpoint")
        self.package = build_package(checkpoint, folder / "package", precision="f32", lora_slots=2, max_rank=4)
        self.path = published.save(published.adapted(model, seed=1), folder / "adapter")
        scaled = {scale: published.adapted(model, seed=1, lora_alpha=6 * scale) for scale in SCALES if scale}
        self.logits = {scale: published.logits(each, [PROMPT])[0] for scale, each in scaled.items()}
        self.logits[0.0] = published.logits(model, [PROMPT])[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("scales"))


def test_logits_are_pefts_with_another_alpha(base: Base) -> None:
    with tiny.loaded(base.package) as llm:
        llm.load_adapter("mine", base.path)
        for scale in SCALES:
            oracle.close([llm.logits(PROMPT, adapter=("mine", scale))], [base.logits[scale]])


def test_texts_with_several_scales_are_those_that_they_are_alone(base: Base) -> None:
    """Side by side, from what is kept of earlier prompts, and in the rows that stay: by turns, and all at once."""
    alone: dict[float, list[int]] = {}
    for scale in SCALES:
        with tiny.loaded(base.package, prefix_cache_bytes=0) as llm:
            llm.load_adapter("mine", base.path)
            alone[scale] = llm.generate(PROMPT, adapter=("mine", scale), **GREEDY).token_ids
    assert len({*map(tuple, alone.values())}) == len(SCALES)
    with tiny.loaded(base.package, max_batch=8, kv_cache_bytes=12_000_000) as llm:
        llm.load_adapter("mine", base.path)
        for scale in (*SCALES, *SCALES):
            assert llm.generate(PROMPT, adapter=("mine", scale), **GREEDY).token_ids == alone[scale]
        streams = {scale: llm.stream(PROMPT, adapter=("mine", scale), **GREEDY) for scale in SCALES}
        for scale, stream in streams.items():
            assert [token for piece in stream for token in piece.token_ids] == alone[scale]
        assert llm.generate(PROMPT, **GREEDY).usage.cached_tokens > 0, "a scale of 0 is the base"


def test_a_session_has_the_scale_that_it_was_saved_with(base: Base, tmp_path: Path) -> None:
    with tiny.loaded(base.package) as llm:
        llm.load_adapter("mine", base.path)
        with llm.generator(adapter=("mine", 0.5), **GREEDY) as generator:
            generator.append_input_tokens(PROMPT)
            generator.generate_next_token()
            generator.save(tmp_path / "session")
        with pytest.raises(ConfigError, match="another model, adapter"):
            llm.restore(tmp_path / "session", adapter="mine")
        llm.restore(tmp_path / "session", adapter=("mine", 0.5)).close()


@pytest.mark.parametrize("choice", [("mine", np.nan), ("mine", 1e9), ("mine",), ("mine", "1"), (1, 1.0), 3])
def test_what_is_no_scale_is_refused(base: Base, choice: Any) -> None:
    with tiny.loaded(base.package) as llm:
        llm.load_adapter("mine", base.path)
        with pytest.raises(ConfigError, match=r"or \(name, scale\), the scale from -1000 to 1000"):
            llm.generate(PROMPT, adapter=choice, **GREEDY)
        with pytest.raises(ConfigError, match="'other': no such adapter is loaded"):
            llm.generate(PROMPT, adapter=("other", 0.0), **GREEDY)
