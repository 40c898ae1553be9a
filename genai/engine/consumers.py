"""What becomes of a sequence's logits: they are sampled from, kept, or given to a beam search (`BeamRun`).

What reads a text and writes none (`Read`, `Pool`) takes embeddings where the graph gives those in place of logits.
"""

from __future__ import annotations

from collections.abc import Sequence as List
from typing import Literal, Protocol

import numpy as np

from genai.decoding.processors import FloatArray
from genai.engine.sequence import Sequence, State


class Consumer(Protocol):
    """Takes the logits of sequences.

    can_draft: it chooses token by token, so that several may be run at once; needs_all: what the graph gives at every
    position of a prompt is asked for, too (`Pool.see`).
    """

    can_draft: bool
    needs_all: bool

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """Take the logits [V] that follow a sequence: the runner's memory, gone with the next step.

        Returns the sequence's next state, a pause or an end; None if a token is to be chosen from them now.
        """
        ...


class Sample:
    """Lets a token be chosen at once."""

    can_draft = True
    needs_all = False

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """An end only where no token may follow."""
        if len(sequence.tokens) >= sequence.max_tokens:  # no token was asked for
            return State.LENGTH
        return State.STOP if sequence.sampler.is_complete else None


class Keep:
    """Keeps a copy for the sequence's owner, who chooses when to go on."""

    can_draft = False
    needs_all = False

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """Always a pause."""
        sequence.logits = logits.copy()
        return State.HELD


class Read:
    """Keeps what the graph gives at a prompt's last position, which is all that was asked for.

    tokens: whose logits are wanted; None: all there is, an embedding.
    """

    can_draft = False
    needs_all = False

    def __init__(self, tokens: List[int] | None = None) -> None:
        self._tokens = None if tokens is None else np.array(tokens, np.int64)

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """Always an end."""
        sequence.logits = logits.copy() if self._tokens is None else logits[self._tokens]
        return State.STOP


class Pool:
    """Keeps the mean of what the graph gives at a prompt's positions, or what it gives at the first one."""

    can_draft = False
    needs_all = True

    def __init__(self, kind: Literal["mean", "first"]) -> None:
        self._kind = kind
        self._sum: FloatArray | None = None
        self._num_seen = 0

    def see(self, start: int, given: FloatArray) -> None:
        """Take what the graph gives at the tokens from `start` on, [T, V]: the runner's memory, gone with the next run.

        What was seen before the sequence lost its row is not counted again.
        """
        new = given[max(self._num_seen - start, 0) :]
        if self._sum is None:
            self._sum = np.zeros(given.shape[-1], np.float64)
        if self._kind == "mean":
            self._sum += new.sum(axis=0, dtype=np.float64)
        elif not self._num_seen:
            self._sum[:] = new[0]
        self._num_seen += len(new)

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """Always an end."""
        assert self._sum is not None, "every position was seen"
        count = self._num_seen if self._kind == "mean" else 1
        sequence.logits = (self._sum / count).astype(np.float32)
        return State.STOP
