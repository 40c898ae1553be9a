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
from genai.decoding.altered import Altered, Scratch, altered
from genai.decoding.candidates import drawn, drawn_from_all
from genai.decoding.constraint import Constraint
from genai.decoding.filters import Kept, Look, are_many, drawn_of_many, filtered, has_filters, look, temperature_of
from genai.decoding.history import Changes, Ngrams, TokenTable, dry_penalties, repeating
from genai.decoding.processors import BoolArray, FloatArray, IntArray
from genai.decoding.threads import Threads, parts_of
from genai.errors import ConfigError, GenAIError, NotFiniteError
from genai.options.generation_config import SamplingConfig

_ENTRIES_OF_A_THREAD = 2**20
"""Logits that are worth a further thread: about half a millisecond's work."""


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
            "suppress_tokens": config.suppress_tokens,
            "bad_words": [token for word in bad_words for token in word],
        }.items():
            _check_tokens(name, tokens, vocab_size)
        self.config = config
        self._vocab_size = vocab_size
        self._tokens = [int(token) for token in prompt]
        self._num_prompt = len(self._tokens)
        seed = np.random.SeedSequence(config.rng_seed, spawn_key=(choice,) if choice else ())
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._eos = [token for token in eos_token_ids if token < vocab_size]
        self._min_new_tokens = min_new_tokens if self._eos else 0
        self._dry_breakers = dry_breakers
        self._xtc_keeps = eos_token_ids | newline_tokens
        self._constraint = constraint
        self._mask: BoolArray | None = None
        self._allowed = _mask_of(config.allowed_token_ids, vocab_size)
        self._bans_alone = sorted({word[0] for word in bad_words if len(word) == 1} | set(config.suppress_tokens))
        self._bad_endings: dict[tuple[int, ...], list[int]] = {}
        for *start, end in (word for word in bad_words if len(word) > 1):
            self._bad_endings.setdefault(tuple(start), []).append(end)
        self._has_bad_words = bool(bad_words)
        self._bad_lengths = sorted({len(start) for start in self._bad_endings})
        self._table = TokenTable(config, self._tokens, self._bans_alone)
        size = config.no_repeat_ngram_size
        self._repeats = Ngrams(size - 1, self._tokens) if size else None
        self._dry = Ngrams(config.dry.allowed_length, self._tokens) if config.dry.multiplier else None
        others = (self._repeats, self._dry, self._bad_lengths or None, self._min_new_tokens or None)
        self._is_plain = self._table.is_idle and all(each is None for each in others)

    @property
    def num_generated(self) -> int:
        """How many tokens were accepted."""
        return len(self._tokens) - self._num_prompt

    def accept(self, token: int) -> None:
        """Count a token that was chosen. Raises: ConfigError if the constraint forbids it; nothing has changed then."""
        if self._constraint is not None:
            self._constraint.accept(token)
        self._tokens.append(token)
        self._mask = None
        self._table.add(token)
        if self._repeats is not None:
            self._repeats.add(self._tokens)
        if self._dry is not None:
            self._dry.add(self._tokens)

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
            self._table.remove(self._tokens.pop())
        if self._constraint is not None and num_forgotten:
            self._constraint.rollback(num_forgotten)
        self._mask = None

    def copy(self) -> Sampler:
        """The same state, independent from now on."""
        result = copy.copy(self)
        result._tokens = self._tokens.copy()
        result._random = np.random.Generator(np.random.PCG64(0))
        result._random.bit_generator.state = self._random.bit_generator.state
        result._table = self._table.copy()
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

    def changes(self) -> Changes | None:
        """How logits of single tokens change for the next choice; None if none does. Valid until `accept`."""
        if self._is_plain:
            return None
        costs: dict[int, float] = {}
        if self._dry is not None:
            costs = dry_penalties(self.config.dry, self._tokens, self._dry, self._dry_breakers)
        if self._repeats is not None:
            costs |= dict.fromkeys(repeating(self._tokens, self._repeats), math.inf)
        for length in self._bad_lengths:
            costs |= dict.fromkeys(self._bad_endings.get(tuple(self._tokens[-length:]), ()), math.inf)
        if self.num_generated < self._min_new_tokens:
            costs |= dict.fromkeys(self._eos, math.inf)
        return self._table.changes(costs)

    @property
    def is_constrained(self) -> bool:
        """Whether a mask has to be computed for each choice."""
        return self._constraint is not None

    def mask(self) -> BoolArray | None:
        """[V]: the tokens that a constraint and the allowed tokens leave, None for all; made once for every choice."""
        if self._constraint is None:
            return self._allowed
        if self._mask is None:
            mask = self._constraint.mask()
            self._mask = mask if self._allowed is None else mask & self._allowed
        return self._mask

    def random(self) -> float:
        """The next number of the random stream, at least 0 and below 1."""
        return self._random.random()

    def is_taking_top_choices(self) -> bool:
        """Whether XTC's coin, tossed for this choice, says so."""
        probability = self.config.xtc.probability
        return probability > 0 and self._random.random() < probability

    def spares(self, tokens: IntArray) -> bool:
        """Whether XTC has to leave one of the tokens, and so all of them."""
        return not self._xtc_keeps.isdisjoint(tokens.tolist())

    def check(self) -> None:
        """Raises: ConfigError if the options rule out every next token, whatever the logits are."""
        mask, changes = self.mask(), self.changes()
        if mask is None and changes is None:
            return
        left = np.ones(self._vocab_size, np.bool_) if mask is None else mask.copy()
        if changes is not None:
            left[changes.ruled_out] = False
        if not (left.any() or self.is_complete):
            raise self._contradiction()

    def why_none(self, logits: FloatArray) -> GenAIError:
        """What to raise when no token can be chosen from a model's logits [V]."""
        if not np.isfinite(logits.max()):
            return NotFiniteError()
        return self._contradiction()

    def _contradiction(self) -> ConfigError:
        """Which options leave no token."""
        config = self.config
        reasons = {
            "the constraint": self._constraint is not None,
            "allowed_token_ids": self._allowed is not None,
            "bad_words": self._has_bad_words,
            "suppress_tokens": bool(config.suppress_tokens),
            "logit_bias": -math.inf in config.logit_bias.values(),
            f"no_repeat_ngram_size={config.no_repeat_ngram_size}": self._repeats is not None,
            f"min_new_tokens={self._min_new_tokens}": self.num_generated < self._min_new_tokens,
        }
        names = [name for name, is_on in reasons.items() if is_on]
        return ConfigError(
            f"after {self.num_generated} tokens {' and '.join(names)} "
            f"rule{'s' if len(names) == 1 else ''} out every token; leave one out or relax it"
        )


def choose(samplers: Sequence[Sampler], logits: Sequence[FloatArray], threads: Threads | None = None) -> list[int]:
    """Each sampler's next token for its row of logits [V] float32; none is accepted.

    Rows are changed in place for a moment, and are in the end as they were; two samplers may share one. threads: to
    spread the rows over; None for this thread alone.

    Raises: ConfigError if a row's options rule out every token, NotFiniteError for logits that are not finite. No
    random stream has moved then, and the rows can be chosen for again, one by one.
    """
    if not samplers:
        return []
    threads = threads or Threads(1)
    num = 1 if _are_shared(logits) else min(threads.num, sum(row.size for row in logits) // _ENTRIES_OF_A_THREAD)
    parts = [_Choice(part) for part in parts_of([*zip(samplers, logits, strict=True)], max(num, 1))]
    threads.map(_Choice.look, parts)
    return [token for tokens in threads.map(_Choice.draw, parts) for token in tokens]


class _Choice:
    """Choosing for some rows, in two steps: nothing is drawn before all rows of a step have been looked at."""

    def __init__(self, rows: Sequence[tuple[Sampler, FloatArray]]) -> None:
        self._samplers = [sampler for sampler, _ in rows]
        self._logits = [logits for _, logits in rows]
        self._scratch = Scratch(self._logits[0].size)
        self._rows: list[Altered] = []
        self._chosen: dict[int, int] = {}
        self._looks: dict[int, Look] = {}
        self._bests: dict[int, float] = {}

    def look(self) -> None:
        """Find what is to be drawn from, and what is certain. Raises: ConfigError, NotFiniteError."""
        self._rows = _altered(self._samplers, self._logits, self._scratch)
        with np.errstate(over="ignore"):
            for index, (sampler, altered_row) in enumerate(zip(self._samplers, self._rows, strict=True)):
                with altered_row as row:
                    best = self._look(index, sampler, row)
                if not math.isfinite(best):
                    raise sampler.why_none(self._logits[index])

    def _look(self, index: int, sampler: Sampler, row: FloatArray) -> float:
        """Look at one row; returns its greatest logit."""
        if not sampler.config.do_sample or _is_forced(sampler.mask()):
            self._chosen[index] = int(row.argmax())
            return float(row[self._chosen[index]])
        if has_filters(sampler.config):
            self._looks[index] = look(sampler.config, row, self._scratch.work)
            return self._looks[index].candidates.best
        self._bests[index] = float(row.max())
        return self._bests[index]

    def draw(self) -> list[int]:
        """The tokens; the random streams move on."""
        chosen = self._chosen
        with np.errstate(over="ignore"):
            many = {index for index, each in self._looks.items() if are_many(each)}
            for index in many:
                chosen[index] = drawn_of_many(self._looks[index], self._samplers[index].random())
            for indices, kept in filtered({index: self._looks[index] for index in self._looks.keys() - many}):
                chosen |= zip(indices, _drawn([self._samplers[index] for index in indices], kept), strict=True)
            for index, best in self._bests.items():
                with self._rows[index] as row:
                    chosen[index] = _drawn_from_all(self._samplers[index], row, best, self._scratch.work[0])
        return [chosen[index] for index in range(len(self._samplers))]


def _are_shared(rows: Sequence[FloatArray]) -> bool:
    """Whether several samplers look at one row, which some of them may change for a moment."""
    return len({row.__array_interface__["data"][0] for row in rows}) < len(rows)


def scores(samplers: Sequence[Sampler], logits: Sequence[FloatArray]) -> FloatArray:
    """[rows, V] for beam search: log probabilities of logits [V], changed by all options but the filters.

    This is transformers' order: a repetition penalty works on log probabilities. A row may have nothing but -inf.
    Raises: ConfigError if all rows do and no text is complete, NotFiniteError for logits that are not finite.
    """
    for sampler, row in zip(samplers, logits, strict=True):
        if not math.isfinite(row.max()):
            raise sampler.why_none(row)
    logs = [processors.log_softmax(row) for row in logits]
    result = np.empty((len(logs), logs[0].size), np.float32)
    with np.errstate(over="ignore"):
        for index, altered_row in enumerate(_altered(samplers, logs, Scratch(logs[0].size))):
            with altered_row as row:
                result[index] = row
    if result.max() == -np.inf and not any(sampler.is_complete for sampler in samplers):
        raise samplers[0].why_none(logits[0])
    return result


def _altered(samplers: Sequence[Sampler], logits: Sequence[FloatArray], scratch: Scratch) -> list[Altered]:
    """Each row of logits [V] after all options but the filters."""
    changes = [sampler.changes() for sampler in samplers]
    return altered(logits, changes, [sampler.mask() for sampler in samplers], scratch)


def _is_forced(mask: BoolArray | None) -> bool:
    return mask is not None and int(np.count_nonzero(mask)) == 1


def _drawn(samplers: Sequence[Sampler], kept: Kept) -> list[int]:
    """One of each row's tokens, after XTC."""
    for row, sampler in enumerate(samplers):
        if sampler.is_taking_top_choices():
            weights = kept.weights[row]
            places = processors.top_choices(weights, float(weights.cumsum()[-1]), sampler.config.xtc.threshold)
            if not sampler.spares(kept.tokens[row, places]):
                weights[places] = 0
    places = drawn(kept.weights, np.array([sampler.random() for sampler in samplers]))
    tokens: list[int] = kept.tokens[np.arange(len(samplers)), places].tolist()
    return tokens


def _drawn_from_all(sampler: Sampler, logits: FloatArray, best: float, work: FloatArray) -> int:
    """One of all tokens of logits [V], the greatest of which is `best`, after XTC. work: [V], written to."""
    logs = processors.scaled(logits, np.float32(best), temperature_of(sampler.config), work)
    weights = np.exp(logs, out=logs)
    if sampler.is_taking_top_choices():
        places = processors.top_choices(weights, processors.total(weights), sampler.config.xtc.threshold)
        if not sampler.spares(places):
            weights[places] = 0
    return drawn_from_all(weights, sampler.random())


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
