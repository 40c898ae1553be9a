"""What becomes of a sequence's logits: they are sampled from, kept, or given to a beam search (`BeamRun`)."""

from __future__ import annotations

from typing import Protocol

from genai.decoding.processors import FloatArray
from genai.engine.sequence import Sequence, State


class Consumer(Protocol):
    """Takes the logits of sequences. can_draft: it chooses token by token, so that several may be run at once."""

    can_draft: bool

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """Take the logits [V] that follow a sequence: the runner's memory, gone with the next step.

        Returns the sequence's next state, a pause or an end; None if a token is to be chosen from them now.
        """
        ...


class Sample:
    """Lets a token be chosen at once."""

    can_draft = True

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """An end only where no token may follow."""
        if len(sequence.tokens) >= sequence.max_tokens:  # no token was asked for
            return State.LENGTH
        return State.STOP if sequence.sampler.is_complete else None


class Keep:
    """Keeps a copy for the sequence's owner, who chooses when to go on."""

    can_draft = False

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """Always a pause."""
        sequence.logits = logits.copy()
        return State.HELD
