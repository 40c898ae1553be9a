"""Choosing the next token of each sequence from its logits.

    logits [V] ─► altered: constraint, bad words, bias, penalties, n-grams, DRY; only the tokens they touch
               ├─► greedy: the best token
               ├─► with filters: candidates, a handful of the best tokens of each row ─► top-k, typical-p, top-p, min-p
               │   for all rows at once; more candidates for a row whose filters reach beyond them ─► XTC ─► draw
               └─► without: a weight for every token ─► XTC ─► draw

Whatever other rows there are, a row's numbers are made by the same operations in the same order: a seed gives the same
text alone and in any batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np

from genai.decoding import processors
from genai.decoding.candidates import drawn
from genai.decoding.constraint import Constraint
from genai.decoding.filters import Look, filtered, has_filters, look, temperature_of
from genai.decoding.history import Ngrams, TokenCounts, dry_penalties, repeating
from genai.decoding.processors import BoolArray, DoubleArray, FloatArray, IntArray
from genai.errors import ConfigError, GenAIError, GraphRunError
from genai.generation_config import SamplingConfig

_MOST = 1e18
"""Settings beyond ± this are taken as this: float32 would make them infinite."""


class Sampler:
    """One sequence's way of choosing, with its own random stream.

    prompt: the tokens before the generated ones; choice: which of several texts of one request this is, each with a
    stream of its own, the first with that of the seed alone; bad_words: token sequences that must not come;
    dry_breakers: tokens that DRY's repetitions do not reach across; newline_tokens: tokens that XTC, like the
    end-of-sequence tokens, never takes away.
    Raises: ConfigError for a token outside the vocabulary.
    """

    def __init__(
        self,
        config: SamplingConfig,
        prompt: Sequence[int],
        vocab_size: int,
        *,
        choice: int = 0,
        eos_token_ids: frozenset[int] = frozenset(),
        min_new_tokens: int = 0,
        bad_words: Sequence[Sequence[int]] = (),
        dry_breakers: frozenset[int] = frozenset(),
        newline_tokens: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
    ) -> None:
        for name, tokens in {
            "logit_bias": config.logit_bias,
            "allowed_token_ids": config.allowed_token_ids or (),
            "bad_words": [token for word in bad_words for token in word],
        }.items():
            _check_tokens(name, tokens, vocab_size)
        self.config = config
        self._tokens = list(prompt)
        self._num_prompt = len(self._tokens)
        seed = np.random.SeedSequence(config.rng_seed, spawn_key=(choice,) if choice else ())
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._eos = np.array(sorted(token for token in eos_token_ids if token < vocab_size), np.int64)
        self._min_new_tokens = min_new_tokens if self._eos.size else 0
        self._dry_breakers = dry_breakers
        self._xtc_keeps = eos_token_ids | newline_tokens
        self._constraint = constraint
        self._mask: BoolArray | None = None
        self._allowed = _mask_of(config.allowed_token_ids, vocab_size)
        self._bias_tokens = np.fromiter(config.logit_bias, np.int64)
        self._bias = np.fromiter(map(_single, config.logit_bias.values()), np.float32)
        self._bad_tokens = np.array(sorted({word[0] for word in bad_words if len(word) == 1}), np.int64)
        self._bad_endings: dict[tuple[int, ...], list[int]] = {}
        for *start, end in (word for word in bad_words if len(word) > 1):
            self._bad_endings.setdefault(tuple(start), []).append(end)
        self._bad_lengths = sorted({len(start) for start in self._bad_endings})
        self._penalty = max(_single(config.repetition_penalty), 1 / _MOST)
        counts_prompt = self._penalty != 1
        counts_anything = counts_prompt or config.presence_penalty or config.frequency_penalty
        self._counts = TokenCounts(self._tokens if counts_prompt else ()) if counts_anything else None
        size = config.no_repeat_ngram_size
        self._repeats = Ngrams(size - 1, self._tokens) if size else None
        self._dry = Ngrams(config.dry.allowed_length, self._tokens) if config.dry.multiplier else None
        self._alters = bool(
            self._counts is not None
            or self._repeats is not None
            or self._dry is not None
            or self._bias.size
            or self._bad_tokens.size
            or self._bad_endings
            or constraint is not None
            or self._allowed is not None
        )

    @property
    def num_generated(self) -> int:
        """How many tokens were accepted."""
        return len(self._tokens) - self._num_prompt

    def accept(self, token: int) -> None:
        """Count a token that was chosen."""
        self._tokens.append(token)
        self._mask = None
        if self._counts is not None:
            self._counts.add(token)
        if self._repeats is not None:
            self._repeats.add(self._tokens)
        if self._dry is not None:
            self._dry.add(self._tokens)
        if self._constraint is not None:
            self._constraint.accept(token)

    def choose(self, logits: FloatArray) -> int:
        """Choose from logits [V] and accept what was chosen."""
        (token,) = choose([self], [logits])
        self.accept(token)
        return token

    @property
    def is_complete(self) -> bool:
        """Whether the constraint leaves nothing to say, not even an end-of-sequence token."""
        return self._constraint is not None and self._constraint.is_complete and not self._constraint.mask().any()

    def forced(self) -> list[int]:
        """The next tokens, as far as the constraint leaves no choice about them."""
        return self._constraint.forced() if self._constraint is not None else []

    def rewind(self, num_generated: int) -> None:
        """Forget accepted tokens after so many; the random stream goes on. Raises: ConfigError if there are fewer."""
        num_forgotten = self.num_generated - num_generated
        if num_generated < 0 or num_forgotten < 0:
            raise ConfigError(f"cannot rewind to {num_generated} generated tokens: there are {self.num_generated}")
        for _ in range(num_forgotten):
            if self._repeats is not None:
                self._repeats.remove(self._tokens)
            if self._dry is not None:
                self._dry.remove(self._tokens)
            token = self._tokens.pop()
            if self._counts is not None:
                self._counts.remove(token)
        if self._constraint is not None and num_forgotten:
            self._constraint.rollback(num_forgotten)
        self._mask = None

    def copy(self) -> Sampler:
        """The same state, independent from now on."""
        result = copy.copy(self)
        result._tokens = self._tokens.copy()
        result._random = np.random.Generator(np.random.PCG64(0))
        result._random.bit_generator.state = self._random.bit_generator.state
        result._counts = None if self._counts is None else self._counts.copy()
        result._repeats = None if self._repeats is None else self._repeats.copy()
        result._dry = None if self._dry is None else self._dry.copy()
        result._constraint = None if self._constraint is None else self._constraint.copy()
        return result

    def state(self) -> dict[str, object]:
        """The random stream, as JSON can hold it; accepting the same tokens again restores the rest."""
        return {"random": self._random.bit_generator.state}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a `state`. Raises: ConfigError for what is none."""
        try:
            self._random.bit_generator.state = cast(Mapping[str, object], state["random"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this is not a sampler's state: {type(error).__name__}: {error}") from None

    def altered(self, logits: FloatArray) -> FloatArray:
        """Logits [V] after all options but the filters: the very same array if none applies, else a new one."""
        mask, is_ending_late = self._allowed_now(), self.num_generated < self._min_new_tokens
        if not (self._alters or is_ending_late):
            return logits
        result = logits.copy() if mask is None else processors.rule_out(logits, mask)
        if self._bias.size:
            result[self._bias_tokens] += self._bias
        if self._counts is not None:
            result[self._counts.tokens] = self._penalized(result[self._counts.tokens], self._counts.counts)
        if self._dry is not None:
            config, tokens = self.config.dry, self._tokens
            for token, penalty in dry_penalties(config, tokens, self._dry, self._dry_breakers).items():
                result[token] -= penalty
        result[self._bad_tokens] = -np.inf
        if is_ending_late:
            result[self._eos] = -np.inf
        if ruled_out := self._ruled_out():
            result[ruled_out] = -np.inf
        return result

    def has_choice(self) -> bool:
        """Whether a constraint or the allowed tokens leave more than one token."""
        mask = self._allowed_now()
        return mask is None or int(np.count_nonzero(mask)) > 1

    def _allowed_now(self) -> BoolArray | None:
        """[V], or None for all tokens; made once for every step, as a constraint's mask is dear."""
        if self._constraint is None:
            return self._allowed
        if self._mask is None:
            mask = self._constraint.mask()
            self._mask = mask if self._allowed is None else mask & self._allowed
        return self._mask

    def _penalized(self, logits: FloatArray, counts: FloatArray) -> FloatArray:
        config = self.config
        if self._penalty != 1:
            logits = processors.penalize_repetition(logits, self._penalty)
        if config.presence_penalty or config.frequency_penalty:
            presence, frequency = _single(config.presence_penalty), _single(config.frequency_penalty)
            logits = processors.penalize_presence(logits, counts, presence, frequency)
        return logits

    def _ruled_out(self) -> list[int]:
        """Tokens that would complete a bad word or repeat an n-gram."""
        result = list(repeating(self._tokens, self._repeats)) if self._repeats is not None else []
        for length in self._bad_lengths:
            result += self._bad_endings.get(tuple(self._tokens[-length:]), ())
        return result

    def draw(self, tokens: IntArray | None, weights: FloatArray | DoubleArray) -> int:
        """One of `tokens` (None: of all), each as probable as its weight [n] says, after XTC."""
        xtc = self.config.xtc
        if xtc.probability and self._random.random() < xtc.probability:
            places = processors.top_choices(weights, xtc.threshold)
            if self._xtc_keeps.isdisjoint((places if tokens is None else tokens[places]).tolist()):
                weights[places] = 0
        place = drawn(weights, self._random.random())
        return place if tokens is None else int(tokens[place])

    def draw_any(self, logits: FloatArray, best: float) -> int:
        """One of all tokens of altered logits [V], the greatest of which is `best`."""
        logs = processors.scaled(logits, np.float32(best), temperature_of(self.config))
        return self.draw(None, np.exp(logs, out=logs))

    def why_none(self, logits: FloatArray) -> GenAIError:
        """What to raise when no token can be chosen from a model's logits [V]."""
        if not np.isfinite(logits.max()):
            return GraphRunError("the model's logits are not finite numbers; a package of higher precision may help")
        config = self.config
        reasons = {
            "the constraint": self._constraint is not None,
            "allowed_token_ids": self._allowed is not None,
            "bad_words": self._bad_tokens.size or self._bad_endings,
            "logit_bias": self._bias.size and self._bias.min() == -np.inf,
            f"no_repeat_ngram_size={config.no_repeat_ngram_size}": self._repeats is not None,
            f"min_new_tokens={self._min_new_tokens}": self.num_generated < self._min_new_tokens,
        }
        names = [name for name, is_on in reasons.items() if is_on]
        return GenAIError(
            f"after {self.num_generated} tokens {' and '.join(names)} "
            f"rule{'s' if len(names) == 1 else ''} out every token; leave one out or relax it"
        )


def choose(samplers: Sequence[Sampler], logits: Sequence[FloatArray]) -> list[int]:
    """Each sampler's next token for its row of logits [V] float32, which are left as they are; none is accepted.

    Raises: GenAIError if a row's options rule out every token, GraphRunError for logits that are not finite. No random
    stream has moved then, and the rows can be chosen for again, one by one.
    """
    chosen: dict[int, int] = {}
    looks: dict[int, Look] = {}
    bests: dict[int, float] = {}
    with np.errstate(over="ignore"):
        for index, (sampler, row) in enumerate(zip(samplers, logits, strict=True)):
            altered = sampler.altered(row)
            if not (sampler.config.do_sample and sampler.has_choice()):
                chosen[index] = int(altered.argmax())
                best = float(altered[chosen[index]])
            elif has_filters(sampler.config):
                looks[index] = look(sampler.config, altered)
                best = looks[index].candidates.best
            else:
                bests[index] = best = float(altered.max())
            if not math.isfinite(best):
                raise sampler.why_none(row)
        for index, kept in zip(looks, filtered(list(looks.values())), strict=True):
            chosen[index] = samplers[index].draw(kept.tokens, kept.weights)
        for index, best in bests.items():
            chosen[index] = samplers[index].draw_any(samplers[index].altered(logits[index]), best)
    return [chosen[index] for index in range(len(samplers))]


def scores(samplers: Sequence[Sampler], logits: Sequence[FloatArray]) -> FloatArray:
    """[rows, V] for beam search: log probabilities of logits [V], changed by all options but the filters.

    This is transformers' order: a repetition penalty works on log probabilities. A row may have nothing but -inf.
    Raises: GenAIError if all rows do, GraphRunError for logits that are not finite.
    """
    result = np.empty((len(samplers), logits[0].size), np.float32)
    with np.errstate(over="ignore"):
        for index, (sampler, row) in enumerate(zip(samplers, logits, strict=True)):
            if not math.isfinite(row.max()):
                raise sampler.why_none(row)
            result[index] = sampler.altered(processors.log_softmax(row))
    if result.max() == -np.inf:
        raise samplers[0].why_none(logits[0])
    return result


def _single(value: float) -> float:
    """A setting that stays finite in float32, unless it is -inf."""
    return value if value == -math.inf else max(-_MOST, min(value, _MOST))


def _mask_of(tokens: Sequence[int] | None, vocab_size: int) -> BoolArray | None:
    if tokens is None:
        return None
    mask = np.zeros(vocab_size, np.bool_)
    mask[list(tokens)] = True
    return mask


def _check_tokens(name: str, tokens: Iterable[int], vocab_size: int) -> None:
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise ConfigError(f"{name}: token id {token} is outside the vocabulary (0 to {vocab_size - 1})")
