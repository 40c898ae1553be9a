"""Constrained decoding: texts that follow a JSON schema, a regular expression or a Lark grammar, or are one of some.

llguidance does the work. `Grammars` compiles a grammar once and keeps it; `GrammarConstraint` is where one text stands
in it. Ends of sequence are decided on here, as requests choose their own tokens for them; llguidance sees none.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from genai.decoding.processors import BoolArray
from genai.errors import ConfigError, GenAIError, QueueFullError, TokenizerError
from genai.grammar.compile import compiled, reason_of, source_of, with_stack
from genai.options.generation_config import ConstraintConfig

if TYPE_CHECKING:
    import tokenizers
    from llguidance import LLMatcher

NUM_KEPT_GRAMMARS = 32
COMPILE_SECONDS = 20.0
MAX_FORCED_TOKENS = 64


class Grammars:
    """The constraints for one model's tokenizer. Any thread may ask for one.

    vocab_size: of the logits, which may have more entries than the tokenizer has tokens.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._vocabulary: Vocabulary | None = None
        self._kept: OrderedDict[ConstraintConfig, Grammar] = OrderedDict()
        self._changing = threading.Lock()
        self._compiling = threading.Lock()

    def constraint(self, config: ConstraintConfig, eos_token_ids: frozenset[int] | None = None) -> GrammarConstraint:
        """A constraint at the beginning of a text; eos_token_ids: None for the model's own, empty if nothing ends it.

        A grammar that is not known yet is compiled, mostly in milliseconds, at most in seconds; the first of all also
        waits for the vocabulary. So call it where nothing else waits.
        Raises: ConfigError for a grammar that is wrong, not supported or too large; QueueFullError while another one
        takes too long.
        """
        eos = self._eos_token_ids if eos_token_ids is None else eos_token_ids
        grammar = self._known(config)
        if grammar is None:
            grammar = self._compiled(config)
        return GrammarConstraint(grammar, frozenset(each for each in eos if 0 <= each < self._vocab_size))

    def knows(self, config: ConstraintConfig) -> bool:
        """Whether there is nothing to compile, and `constraint` returns at once."""
        return self._known(config) is not None

    def warm_up(self) -> None:
        """Read the vocabulary now: 0.6 s for 49k tokens, 4 s for 262k, in which no other Python code runs.

        llguidance builds its tokenizer under the interpreter's lock. Raises: TokenizerError, QueueFullError.
        """
        self._lock_compiler()
        try:
            self._read_vocabulary()
        finally:
            self._compiling.release()

    def _known(self, config: ConstraintConfig) -> Grammar | None:
        with self._changing:
            grammar = self._kept.get(config)
            if grammar is not None and grammar.is_broken:
                del self._kept[config]
                return None
            if grammar is not None:
                self._kept.move_to_end(config)
            return grammar

    def _compiled(self, config: ConstraintConfig) -> Grammar:
        """Compile a grammar, one at a time: one that never ends keeps no more than one core busy."""
        self._lock_compiler()
        try:
            vocabulary = self._read_vocabulary()
        except BaseException:
            self._compiling.release()
            raise
        grammar = with_stack(lambda: Grammar(vocabulary, config), COMPILE_SECONDS, self._compiling.release)
        if grammar is None:
            raise ConfigError(f"{config.kind}: it takes more than {COMPILE_SECONDS:.0f} s to compile; make it simpler")
        with self._changing:
            self._kept[config] = grammar
            while len(self._kept) > NUM_KEPT_GRAMMARS:
                self._kept.popitem(last=False)
        return grammar

    def _lock_compiler(self) -> None:
        if not self._compiling.acquire(timeout=COMPILE_SECONDS):
            raise QueueFullError("another constraint is still being compiled; try again later")

    def _read_vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._tokenizer, self._vocab_size, self._eos_token_ids)
        return self._vocabulary


class Vocabulary:
    """A tokenizer as llguidance has it, beside the logits of its model."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        """Raises: TokenizerError for a kind of tokenizer that llguidance does not know."""
        from llguidance import LLTokenizer

        added = tokenizer.get_added_tokens_decoder()
        special = {token for token, content in added.items() if content.special}
        num_tokens = tokenizer.get_vocab_size(with_added_tokens=True)
        # llguidance wants tokens that end a text; as they are never part of one, a special token is best.
        ends = sorted(eos_token_ids & set(range(num_tokens))) or sorted(special)[:1] or [num_tokens - 1]
        try:
            self.tokenizer = LLTokenizer(tokenizer.to_str(), eos_token=ends, slices=LLTokenizer.json_slices())
        except ValueError as error:
            raise TokenizerError(f"this model's tokenizer cannot be constrained: {error}") from None
        self.vocab_size = vocab_size
        self.ends = frozenset(ends)
        self.special = self.ends | special | {token for token in added if self.tokenizer.is_special_token(token)}
        self._num_words = (self.tokenizer.vocab_size + 31) // 32

    def allowed(self, matcher: LLMatcher) -> BoolArray:
        """[V], new: the tokens that llguidance allows next. Raises: ConfigError if the grammar is too complex here."""
        words = np.zeros(max(self._num_words, (self.vocab_size + 31) // 32), np.uint32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, self._num_words * 4)
        if matcher.is_error():
            raise ConfigError(f"the text cannot be constrained any further: {reason_of(matcher)}")
        octets = words.astype("<u4", copy=False).view(np.uint8)
        return np.unpackbits(octets, count=self.vocab_size, bitorder="little").view(np.bool_)


class Grammar:
    """A compiled grammar, shared by the texts that follow it; never: tokens that are part of none of them."""

    def __init__(self, vocabulary: Vocabulary, config: ConstraintConfig) -> None:
        """Raises: ConfigError for a grammar that is wrong, not supported, or that no text follows."""
        self.vocabulary = vocabulary
        self.is_broken = False  # llguidance failed at one of its texts; what the others share may be full or damaged
        self._source = source_of(config)
        if wrong := {each for each in self._source.tokens if each in vocabulary.ends or each >= vocabulary.vocab_size}:
            raise ConfigError(f"{config.kind}: token <[{min(wrong)}]> ends the text, or is not in the vocabulary")
        self.never = vocabulary.special - self._source.tokens
        self._start = compiled(vocabulary.tokenizer, self._source.text, config.kind)
        self._unforced_start: LLMatcher | None = None
        try:
            GrammarConstraint(self, frozenset()).mask()
        except ConfigError as error:
            raise ConfigError(f"{config.kind}: no text can follow it: {error}") from None

    def start(self) -> LLMatcher:
        """The beginning of a text."""
        return self._start.deep_copy()

    def unforced_start(self) -> LLMatcher:
        """The same, but text without a choice may be of any tokens, not only of those that the tokenizer makes of it.

        It makes a special token of some text, and that must not come: a JSON string "<|im_end|>" has to be spelled.
        """
        if self._unforced_start is None:
            source, tokenizer = self._source, self.vocabulary.tokenizer
            self._unforced_start = with_stack(
                lambda: compiled(tokenizer, source.unforced_text, source.kind), COMPILE_SECONDS, lambda: None
            )
        if self._unforced_start is None:
            raise ConfigError(f"{self._source.kind}: it takes more than {COMPILE_SECONDS:.0f} s to compile")
        return self._unforced_start.deep_copy()


@dataclass(frozen=True, slots=True)
class _Plan:
    """Tokens of a text from the `start`-th on, where it has no choice."""

    start: int
    tokens: tuple[int, ...]


class GrammarConstraint:
    """Where one text stands in a grammar. See `Constraint`; for one thread at a time.

    Where the text has no choice, it is tokenized once, as far as this does not depend on what follows, and these tokens
    are the plan: until it ends, each is the only one allowed. It is a matter of the text so far alone, and does not
    change when tokens are taken back and come again.
    """

    def __init__(self, grammar: Grammar, eos_token_ids: frozenset[int]) -> None:
        self._grammar = grammar
        self._eos_token_ids = eos_token_ids
        self._no_text = grammar.never | eos_token_ids
        size = grammar.vocabulary.vocab_size
        self._ruled_out = np.array([token for token in self._no_text if token < size], np.int64)
        self._matcher = grammar.start()
        self._unforced_from: int | None = None
        self._tokens: list[int] = []
        self._plans: list[_Plan] = []
        self._has_ended = False
        self._mask: BoolArray | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here, or has ended."""
        return self._has_ended or self._matcher.is_accepting()

    def mask(self) -> BoolArray:
        """[V], read-only, and it stays as it is: which tokens may come next.

        All end-of-sequence tokens where the text may end. Nothing after one; nor where the text is complete, cannot go
        on, and there is no end-of-sequence token. Raises: ConfigError if the grammar becomes too complex here.
        """
        if self._mask is None:
            self._mask = self._allowed()
            self._mask.flags.writeable = False
        return self._mask

    def accept(self, token: int) -> None:
        """Take note of the text's next token. Raises: ConfigError if the mask forbids it; nothing has changed then."""
        mask = self.mask()
        if not (0 <= token < mask.size and mask[token]):
            raise ConfigError(f"token {token} does not follow the constraint after {len(self._tokens)} tokens")
        if token in self._eos_token_ids:
            self._has_ended = True
        elif not self._matcher.consume_token(token):
            raise self._failure()
        self._tokens.append(token)
        self._mask = None

    def forced(self) -> list[int]:
        """The next tokens, as far as there is no choice: each is the only one that the mask allows in its place.

        At most MAX_FORCED_TOKENS, and no end of sequence.
        """
        return [] if self._has_ended else list(self._planned())

    def rollback(self, num_tokens: int) -> None:
        """Forget the last so many tokens. Raises: GenAIError if there are fewer."""
        if not 0 <= num_tokens <= len(self._tokens):
            raise GenAIError(f"cannot take back {num_tokens} tokens of {len(self._tokens)}")
        if num_tokens == 0:
            return
        length = len(self._tokens) - num_tokens
        num_consumed = num_tokens - self._has_ended
        del self._tokens[length:]
        self._plans = [plan for plan in self._plans if plan.start <= length]
        self._has_ended = False
        self._mask = None
        if self._unforced_from is not None and length < self._unforced_from:
            self._follow(self._grammar.start())
            self._unforced_from = None
        elif num_consumed and not self._matcher.rollback(num_consumed):
            raise self._failure()

    def copy(self) -> GrammarConstraint:
        """The same state, independent from now on."""
        result = copy.copy(self)
        result._matcher = self._matcher.deep_copy()
        result._tokens = self._tokens.copy()
        result._plans = self._plans.copy()
        return result

    def _planned(self) -> tuple[int, ...]:
        """The next tokens of the plan, which is made here if the text stands where one begins."""
        length = len(self._tokens)
        plan = self._plans[-1] if self._plans else None
        if plan is None or plan.start + len(plan.tokens) <= length:
            tokens = self._matcher.compute_ff_tokens()
            plan = _Plan(length, tuple(itertools.takewhile(lambda token: token not in self._no_text, tokens)))
            if not plan.tokens:
                return ()
            self._plans.append(plan)
        return plan.tokens[length - plan.start :][:MAX_FORCED_TOKENS]

    def _allowed(self) -> BoolArray:
        vocabulary = self._grammar.vocabulary
        allowed = np.zeros(vocabulary.vocab_size, np.bool_)
        if self._has_ended:
            return allowed
        if planned := self._planned():
            allowed[planned[0]] = True
            return allowed
        allowed = self._allowed_by_grammar()
        if not (self.is_complete or allowed.any()):
            self._follow(self._grammar.unforced_start())
            self._unforced_from = len(self._tokens)
            allowed = self._allowed_by_grammar()
            if not allowed.any():
                raise ConfigError(f"after {len(self._tokens)} tokens none may follow, and the text is not complete")
        return allowed

    def _allowed_by_grammar(self) -> BoolArray:
        try:
            allowed = self._grammar.vocabulary.allowed(self._matcher)
        except ConfigError:
            self._grammar.is_broken = True
            raise
        allowed[self._ruled_out] = False
        if self.is_complete:
            allowed[[*self._eos_token_ids]] = True
        return allowed

    def _follow(self, matcher: LLMatcher) -> None:
        """Take a new matcher to where the text stands."""
        self._matcher = matcher
        for token in self._tokens:
            if not matcher.consume_token(token):
                raise self._failure()

    def _failure(self) -> ConfigError:
        self._grammar.is_broken = True
        return ConfigError(f"the text cannot be constrained any further: {reason_of(self._matcher)}")
