"""A bound on how much a text reasons: when it is reached, the marker that ends reasoning comes, token by token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from genai.decoding.constraint import Constraint
from genai.decoding.processors import BoolArray
from genai.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningSpan:
    """What reasoning stands between: as bytes of the text, and the tokens that end it."""

    open: bytes
    close: bytes
    end: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a text stands. span: None before reasoning, and behind it, when it is over.

    seen: the text, as far as a marker may begin in it; num_tokens: of reasoning; num_forced: of its end.
    """

    span: ReasoningSpan | None = None
    is_over: bool = False
    seen: bytes = b""
    num_tokens: int = 0
    num_forced: int = 0


class ReasoningBudget:
    """Follows one text, and holds it to a budget of reasoning. See `Constraint`.

    spans: reasoning as the model may write it; begun: that which the prompt has opened; piece: the bytes of a token;
    inner: what else binds the text.
    """

    def __init__(
        self,
        budget: int,
        spans: Sequence[ReasoningSpan],
        *,
        begun: ReasoningSpan | None,
        piece: Callable[[int], bytes],
        vocab_size: int,
        inner: Constraint | None = None,
    ) -> None:
        self._budget = budget
        self._spans = spans
        self._piece = piece
        self._inner = inner
        self._all = np.ones(vocab_size, np.bool_)
        self._all.flags.writeable = False
        self._places = [_Place(span=begun)]

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here."""
        return self._inner is None or self._inner.is_complete

    def mask(self) -> BoolArray:
        """[V], read-only: which tokens may come next."""
        allowed = self._all if self._inner is None else self._inner.mask()
        end = self._end()
        if not end or not allowed[end[0]]:
            return allowed
        only = np.zeros_like(allowed)
        only[end[0]] = True
        return only

    def accept(self, token: int) -> None:
        """Take note of the text's next token. Raises: ConfigError if the mask forbids it; nothing has changed then."""
        if not (0 <= token < self._all.size and self.mask()[token]):
            raise ConfigError(f"token {token} does not end the reasoning, whose budget of {self._budget} is spent")
        if self._inner is not None:
            self._inner.accept(token)
        self._places.append(self._behind(token))

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as there is no choice."""
        end = self._end()
        if end and self.mask()[end[0]]:
            return list(end) if self._inner is None else [end[0]]
        return [] if self._inner is None else self._inner.forced()

    def rollback(self, num_tokens: int) -> None:
        """Forget the last so many tokens."""
        if num_tokens:
            del self._places[-num_tokens:]
            if self._inner is not None:
                self._inner.rollback(num_tokens)

    def copy(self) -> ReasoningBudget:
        """The same state, independent from now on."""
        result = copy.copy(self)
        result._places = self._places.copy()
        result._inner = None if self._inner is None else self._inner.copy()
        return result

    def _end(self) -> tuple[int, ...]:
        """What is left of the end of reasoning, once the budget is spent."""
        place = self._places[-1]
        if place.is_over or place.span is None or place.num_tokens - place.num_forced < self._budget:
            return ()
        return place.span.end[place.num_forced :]

    def _behind(self, token: int) -> _Place:
        """The place behind a further token."""
        place, end = self._places[-1], self._end()
        if place.is_over:
            return place
        seen = place.seen + self._piece(token)
        if place.span is None:
            return self._opened(seen.lstrip())
        num_forced = place.num_forced + 1 if end[:1] == (token,) else 0
        if place.span.close in seen or num_forced == len(place.span.end):
            return replace(place, is_over=True, seen=b"")
        kept = seen[max(0, len(seen) - len(place.span.close) + 1) :]
        return replace(place, seen=kept, num_tokens=place.num_tokens + 1, num_forced=num_forced)

    def _opened(self, seen: bytes) -> _Place:
        """The place behind the beginning of a text, which may open reasoning."""
        for span in self._spans:
            if seen.startswith(span.open):
                return _Place(span=span)
            if span.open.startswith(seen):
                return _Place(seen=seen)
        return _Place(is_over=True)
