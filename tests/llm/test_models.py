"""The real models against transformers in f32, from the same GGUF files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.build.gguf.source import GgufSource
from genai.config import EngineConfig
from genai.llm.llm import LLM, Generation

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

ENGLISH = Path(__file__).parents[2] / "benchmarks" / "data" / "english.txt"
PROMPTS = [
    "The three primary colours are",
    "def fibonacci(n):\n    ",
    "Der kürzeste Weg von Berlin nach München führt über",
]
NUM_TOKENS = 24
NEAR_TIE = 1e-3
"""Where the most probable token differs, both may be this far apart in probability: two roundings of one number."""


def load(package: Path, **options: Any) -> LLM:
    return LLM(package, EngineConfig(**{"device": "cpu", "max_seq_len": 1024, "max_batch": 4} | options))


def original_of(gguf: Path) -> Any:
    """The model as transformers configures it from the file.

    Its tensors come from our reader, which is ten times faster; `tests/build/gguf/test_names.py` holds it to be bitwise
    transformers' own.
    """
    import transformers
    from transformers.initialization import no_init_weights
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    torch.set_num_threads(os.cpu_count() or 1)
    config = transformers.AutoConfig.for_model(**load_gguf_checkpoint(str(gguf))["config"])
    with no_init_weights():
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with GgufSource(gguf) as source:
        tensors = {name: torch.from_numpy(source.read(name)) for name in source.names()}
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


@pytest.fixture(scope="module", name="smollm2")
def smollm2_fixture(smollm2_gguf: Path) -> Any:
    return original_of(smollm2_gguf)


@pytest.fixture(scope="module", name="gemma")
def gemma_fixture(gemma_gguf: Path) -> Any:
    return original_of(gemma_gguf)


def english(llm: LLM, num_tokens: int) -> list[int]:
    tokens = llm.tokenizer.encode(ENGLISH.read_text(encoding="utf-8"))
    assert len(tokens) >= num_tokens
    return tokens[:num_tokens]


def follow(model: Any, prompt: Sequence[int], generation: Generation) -> None:
    """Greedy token for token, by one run of the original over prompt and continuation; log probabilities too."""
    chosen = torch.tensor(generation.token_ids)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *generation.token_ids]]), logits_to_keep=len(chosen) + 1).logits[0, :-1]
    probabilities = torch.log_softmax(logits.double(), dim=-1)
    best, ours = probabilities.max(dim=-1).values, probabilities.gather(1, chosen[:, None])[:, 0]
    assert (best.exp() - ours.exp()).max() < NEAR_TIE
    np.testing.assert_allclose(logprobs_of(generation), ours, atol=1e-3)


def logprobs_of(generation: Generation) -> list[float]:
    return [each.logprob for each in generation.logprobs or ()]


def generate(llm: LLM, prompts: list[list[int]]) -> list[Generation]:
    return llm.generate(prompts, max_new_tokens=NUM_TOKENS, ignore_eos=True, logprobs=True)


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
def test_smollm2_with_drafts_says_the_same(smollm2_f32: Path, options: dict[str, Any]) -> None:
    """In f32: in eight bits one position and several take different kernels, KL 0.0046 apart."""
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


def test_default_precision_of_gemma(
    gemma_f32: Path, gemma_auto: Path, record_property: Callable[[str, object], None]
) -> None:
    """0.0023 over 512 tokens; here over 128, as its 262,144 logits for each token take their time."""
    divergence = mean_divergence(gemma_f32, gemma_auto, 128)
    record_property("gemma_auto_mean_kl", divergence)
    assert divergence < 0.01


def mean_divergence(exact: Path, other: Path, num_tokens: int) -> float:
    """Mean over the tokens of KL(exact || other), in nats."""
    with load(exact) as llm:
        tokens = english(llm, num_tokens)
        wanted = llm.logits(tokens)
    with load(other) as llm:
        actual = llm.logits(tokens)
    total = 0.0
    for start in range(0, num_tokens, 64):
        p, q = (torch.log_softmax(torch.from_numpy(x[start : start + 64]).double(), -1) for x in (wanted, actual))
        total += float((p.exp() * (p - q)).sum())
    return total / num_tokens


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
