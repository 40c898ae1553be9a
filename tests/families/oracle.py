"""A package's logits had in every way that a cache allows, and how close they must be to transformers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from genai.decoding.processors import log_softmax
from tests.build import tiny

TOLERANCE = 1e-4
"""Of the standard deviation of the logits. Most seen: 4e-5, in a Granite whose scores are not scaled; else 2e-5."""

Prompts = Sequence[Sequence[int]]
Logits = list[np.ndarray]
"""What follows each token of each prompt, [T, V]."""


def whole(package: Path, prompts: Prompts) -> Logits:
    """Each prompt alone, at once."""
    return [tiny.Graph(package).add(prompt)[0] for prompt in prompts]


def in_chunks(package: Path, prompts: Prompts) -> Logits:
    """The first prompt alone, seven tokens at a time: across windows of any size but seven."""
    alone = tiny.Graph(package)
    return [np.concatenate([alone.add(chunk)[0] for chunk in tiny.chunks(prompts[0], 7)])]


def ragged(package: Path, prompts: Prompts) -> Logits:
    """All prompts in one batch, padded on the right: as many tokens as each row has, thrice, and then one by one.

    The second time the first row has none.
    """
    batch = tiny.Graph(package, len(prompts))
    cuts = [[0, 3 + index, 3 + index + min(index, 2), len(prompt) - 4] for index, prompt in enumerate(prompts)]
    parts = [
        batch.add(*(prompt[cut[step] : cut[step + 1]] for prompt, cut in zip(prompts, cuts, strict=True)))
        for step in range(3)
    ]
    parts += [batch.add(*([prompt[step]] for prompt in prompts)) for step in range(-4, 0)]
    return [np.concatenate([part[index] for part in parts]) for index in range(len(prompts))]


def one_by_one(package: Path, prompts: Prompts) -> Logits:
    """The first prompt alone, a token at a time."""
    alone = tiny.Graph(package)
    return [np.concatenate([alone.add([token])[0] for token in prompts[0]])]


WAYS: dict[str, Callable[[Path, Prompts], Logits]] = {
    "whole": whole,
    "in chunks": in_chunks,
    "ragged": ragged,
    "one by one": one_by_one,
}


def check(package: Path, prompts: Prompts, wanted: Logits) -> None:
    """All ways."""
    for way in WAYS.values():
        close(way(package, prompts), wanted)


def close(actual: Logits, wanted: Logits) -> None:
    """Compare logits of the first so many prompts."""
    spread = wanted[0].std()
    assert spread > 0.1, "logits too much alike to tell a right model from a wrong one"
    for ours, theirs in zip(actual, wanted, strict=False):
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * spread, rtol=0)


def divergence(actual: np.ndarray, wanted: np.ndarray) -> float:
    """The mean KL divergence of what comes next, in nats: how much is lost by `actual`, logits [T, V]."""
    ours, theirs = (np.array([log_softmax(line.astype(np.float64)) for line in logits]) for logits in (actual, wanted))
    return float((np.exp(theirs) * (theirs - ours)).sum(axis=-1).mean())
