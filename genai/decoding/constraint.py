"""What a constraint on a text offers to those who choose its tokens."""

from __future__ import annotations

from typing import Protocol

from genai.decoding.processors import BoolArray


class Constraint(Protocol):
    """Follows one text, token by token, and says which tokens may come next."""

    def mask(self) -> BoolArray:
        """[V]: which tokens may come next; an end-of-sequence token is among them where the text may end."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the text may end here; where the mask then allows nothing, it has to."""
        ...

    def accept(self, token: int) -> None:
        """Take note of the text's next token."""
        ...

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as there is no choice; none where there is."""
        ...

    def rollback(self, num_tokens: int) -> None:
        """Forget the last so many tokens."""
        ...

    def copy(self) -> Constraint:
        """The same state, independent from now on."""
        ...
