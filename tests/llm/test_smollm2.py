"""SmolLM2 against transformers in f32, from the same GGUF file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.engine.scheduler import Pace
from tests.llm.real_models import ENGLISH, PROMPTS, english, follow, generate, load, mean_divergence, original_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", name="smollm2")
def smollm2_fixture(smollm2_gguf: Path) -> Any:
    return original_of(smollm2_gguf)


def test_smollm2_follows_transformers(smollm2_f32: Path, smollm2: Any) -> None:
    with load(smollm2_f32) as llm:
        prompts = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
        prompts.append(llm.tokenizer.apply_chat_template([{"role": "user", "content": "What is a tensor?"}]))
        for prompt, generation in zip(prompts, generate(llm, prompts), strict=True):
            follow(smollm2, prompt, generation)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 4, "length_penalty": 0.3, "early_stopping": True, "no_repeat_ngram_size": 2},
    ],
)
def test_smollm2_beams_are_transformers(smollm2_f32: Path, smollm2: Any, options: dict[str, Any]) -> None:
    with load(smollm2_f32) as llm:
        prompt = llm.tokenizer.encode("The capital of France is")
        result = llm.generate(prompt, max_new_tokens=10, **options)
    with torch.no_grad():
        expected = smollm2.generate(
            torch.tensor([prompt]),
            max_new_tokens=10,
            do_sample=False,
            pad_token_id=2,
            eos_token_id=2,
            output_scores=True,
            return_dict_in_generate=True,
            **options,
        )
    assert [choice.token_ids for choice in result.choices] == [
        [int(token) for token in row[len(prompt) :] if token != 2 or len(row) == len(prompt) + 10]
        for row in expected.sequences
    ]
    np.testing.assert_allclose([choice.score for choice in result.choices], expected.sequences_scores, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 7, "top_p": 0.9}])
def test_smollm2_with_drafts_says_the_same(
    smollm2_f32: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In f32: in eight bits one position and several take different kernels, KL 0.0046 apart."""
    monkeypatch.setattr(Pace, "saw_draft", lambda *_: None)  # drafts are worth it, whatever the clock says
    text = ENGLISH.read_text(encoding="utf-8")[:600]
    message = [{"role": "user", "content": f"Repeat this text word for word:\n\n{text}"}]
    with load(smollm2_f32) as llm:
        plain = llm.generate(message, max_new_tokens=80, **options)
        looked_up = llm.generate(message, max_new_tokens=80, speculative="prompt_lookup", **options)
        with load(smollm2_f32) as draft:
            drafted = llm.generate(message, max_new_tokens=40, draft=draft, **options)
    assert looked_up.token_ids == plain.token_ids
    assert drafted.token_ids == plain.token_ids[:40]
    assert looked_up.drafts is not None
    assert drafted.drafts is not None
    assert looked_up.drafts.num_accepted > 3
    assert drafted.drafts.num_accepted > 3


def test_one_chunk_equals_many(smollm2_f32: Path) -> None:
    with load(smollm2_f32, prefill_chunk=512) as llm:
        tokens = english(llm, 300)
        whole = llm.logits(tokens)
    with load(smollm2_f32, prefill_chunk=37) as llm:
        np.testing.assert_allclose(llm.logits(tokens), whole, atol=1e-3)


def test_default_precision_stays_close_to_f32(
    smollm2_f32: Path, smollm2_auto: Path, record_property: Callable[[str, object], None]
) -> None:
    """Mean KL divergence over 512 tokens of English: 0.0050, nearly all of it from 8-bit activations."""
    divergence = mean_divergence(smollm2_f32, smollm2_auto, 512)
    record_property("smollm2_auto_mean_kl", divergence)
    assert divergence < 0.01


BUILD = """
import resource, sys
from pathlib import Path
from genai.build.package import build_package
import genai.tokenizer.gguf_tokenizer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
build_package(Path(sys.argv[1]), Path(sys.argv[2]), precision="f32")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_building_takes_less_memory_than_what_is_built(smollm2_gguf: Path, tmp_path: Path) -> None:
    """In f32 180 MB for a package of 538 MB: the embedding (113 MB) and what is mapped of the file."""
    command = [sys.executable, "-c", BUILD, str(smollm2_gguf), str(tmp_path / "package")]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024
    assert peak < 0.6 * (tmp_path / "package" / "model.onnx.data").stat().st_size
