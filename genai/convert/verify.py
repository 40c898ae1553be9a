"""Original and converted model on the same tokens: a prompt at once, then token by token, then a ragged batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tokenizers

from genai.config import EngineConfig, ModelConfig
from genai.convert.rewritten import FloatArray, Original
from genai.errors import UnsupportedModelError
from genai.runtime.load import load_runner
from genai.runtime.runner import Runner

WITHOUT_ROUNDING = {"session.disable_quant_qdq": "1"}
"""Options of sessions that are compared: ONNX Runtime would round activations before products with DequantizeLinear."""
EXACT_TOLERANCE = 1e-3
"""Largest difference of logits in float32, in units of their standard deviation (at least 1)."""
ROUNDED_TOLERANCE = 0.02
"""Largest mean KL divergence, in nats, where weights or activations have fewer bits: ONNX Runtime's integer products
for one row and for several alone are 0.005 apart (SmolLM2)."""
_TEXT = """The river that runs through the valley rises in the hills to the north, where rain falls most of the year.
For centuries the people who live along its banks have built mills, bridges and small boats, and have argued about who
may use the water. In 1847 an engineer proposed a canal that would join it to the sea: "Twelve locks," he wrote, "and a
good deal of patience." The plan was never carried out, but his maps, drawn by hand and coloured in blue and grey, can
still be seen in the town's museum, next to a model of the first steam engine."""
_NUM_DECODED = 6
_LENGTHS = (40, 9, 23)
_LONGEST = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far the converted model's probabilities are from the original's.

    num_tokens: compared; largest: difference of logits, in units of their standard deviation; mean_kl: in nats; same:
    share of tokens whose most probable successor is the same; is_exact: which tolerance counts.
    """

    num_tokens: int
    largest: float
    mean_kl: float
    same: float
    is_exact: bool

    @property
    def is_good(self) -> bool:
        """Whether it is within the tolerance; what is no number is not."""
        return self.largest <= EXACT_TOLERANCE if self.is_exact else self.mean_kl <= ROUNDED_TOLERANCE

    def __str__(self) -> str:
        return (
            f"{self.num_tokens} tokens: logits differ by at most {self.largest:.1e} of their deviation, mean KL "
            f"{self.mean_kl:.1e}, same first choice {self.same:.1%}"
        )

    @property
    def allowed(self) -> str:
        """The tolerance, in words."""
        return f"{EXACT_TOLERANCE} of the deviation" if self.is_exact else f"a mean KL of {ROUNDED_TOLERANCE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Prompts, and the original's logits [T, V] after each of their tokens."""

    prompts: tuple[tuple[int, ...], ...]
    logits: tuple[FloatArray, ...]

    @classmethod
    def of(cls, original: Original, prompts: Sequence[Sequence[int]]) -> Expected:
        """Run the original: the first prompt also in steps, by its own caches.

        Raises: UnsupportedModelError if that changes its logits: then there is nothing to agree with.
        """
        logits = tuple(original.logits([prompt]) for prompt in prompts)
        first = prompts[0]
        stepwise = original.logits([first[:-_NUM_DECODED], *([token] for token in first[-_NUM_DECODED:])])
        apart = float(kl(logits[0], stepwise).mean())
        if not apart <= ROUNDED_TOLERANCE:
            raise UnsupportedModelError(
                f"the original itself gives other probabilities token by token than at once (mean KL {apart:.2g})"
            )
        return cls(prompts=tuple(tuple(prompt) for prompt in prompts), logits=logits)


def sample_prompts(
    vocab_size: int, window: int | None, max_position: int, tokenizer: tokenizers.Tokenizer | None = None
) -> list[list[int]]:
    """Tokens to compare on: the first prompt longer than the window, if that is not too long.

    They are English where the tokenizer has words for it, and drawn at random where it has not.
    """
    longest = _LENGTHS[0] if window is None else max(_LENGTHS[0], min(window + 2 * _NUM_DECODED, _LONGEST))
    lengths = [min(length, max_position) for length in (longest, *_LENGTHS[1:])]
    text = [] if tokenizer is None else tokenizer.encode(_TEXT, add_special_tokens=False).ids
    if len(set(text)) < len(text) // 4 or len(text) < sum(_LENGTHS) or max(text) >= vocab_size:
        text = [int(token) for token in np.random.default_rng(0).integers(0, vocab_size, 2 * _LONGEST)]
    endless = np.resize(text, sum(lengths))  # it begins anew where it ends
    return [part.tolist() for part in np.split(endless, np.cumsum(lengths)[:-1])]


def compare(
    expected: Expected,
    folder: Path,
    config: ModelConfig,
    *,
    is_exact: bool,
    session_options: Mapping[str, str] = MappingProxyType({}),
) -> Agreement:
    """Run a package on the prompts and compare.

    Raises: ContractError, GraphRunError, RuntimeUnavailableError.
    """
    longest = max(map(len, expected.prompts))
    rows = len(expected.prompts)
    engine = EngineConfig(
        max_batch=rows, max_seq_len=min(longest, config.max_position), session_options=session_options
    )
    runner = load_runner(folder, config, engine).runner
    got = [*_decoded(runner, expected.prompts), *_decoded(runner, expected.prompts[:1], num_parts=2)]
    return agreement([*expected.logits, expected.logits[0]], got, is_exact=is_exact)


def agreement(wanted: Sequence[FloatArray], got: Sequence[FloatArray], *, is_exact: bool) -> Agreement:
    """Compare logits [T, V], array by array."""
    expected, actual = np.concatenate(wanted), np.concatenate(got)
    scale = max(1.0, float(expected.std()))
    return Agreement(
        num_tokens=len(expected),
        largest=float(np.abs(expected - actual).max()) / scale,
        mean_kl=float(kl(expected, actual).mean()),
        same=float((expected.argmax(-1) == actual.argmax(-1)).mean()),
        is_exact=is_exact,
    )


def kl(expected: FloatArray, actual: FloatArray) -> FloatArray:
    """KL divergence in nats of each row of logits [T, V] from the expected one: [T]."""
    wanted, got = _log_softmax(expected), _log_softmax(actual)
    result: FloatArray = (np.exp(wanted) * (wanted - got)).sum(-1)
    return result


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _decoded(runner: Runner, prompts: Sequence[Sequence[int]], num_parts: int = 1) -> list[FloatArray]:
    """Prompts of different lengths side by side: each prefilled alone, in so many parts, then decoded together."""
    rows = [runner.cache.allocate(len(prompt)) for prompt in prompts]
    logits: list[list[FloatArray]] = [[] for _ in prompts]
    for found, row, prompt in zip(logits, rows, prompts, strict=True):
        parts = np.array_split(prompt[:-_NUM_DECODED], num_parts)
        found += [runner.score(row, part.tolist()) for part in parts if part.size]
    for step in range(-_NUM_DECODED, 0):
        for row, prompt in zip(rows, prompts, strict=True):
            runner.cache.reserve({row: len(prompt) + step + 1})
        for group in runner.cache.groups:
            indices = [rows.index(row) for row in group.rows]
            result = runner.advance(group, [[prompts[index][step]] for index in indices])
            for place, index in enumerate(indices):
                logits[index].append(result[place].copy())
    for row in rows:
        runner.cache.free(row)
    return [np.concatenate(parts) for parts in logits]
