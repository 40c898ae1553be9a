"""What the tests of real models share: loading both sides, and comparing them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.build.gguf.source import GgufSource
from genai.config import EngineConfig
from genai.llm.llm import LLM
from genai.llm.results import Generation

torch = pytest.importorskip("torch")

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
