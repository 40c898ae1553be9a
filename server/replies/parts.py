"""An answer as the parts it consists of, one after the other: reasoning, text, calls.

Chat completions tell all of them side by side; the APIs that came later tell each part's begin, pieces and end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from genai.replies.openai import finish_reason

if TYPE_CHECKING:
    from genai.llm.results import Chunk, Generation
    from genai.tokenizer.tokenizer import Tokenizer
    from server.generation import Running

Kind: TypeAlias = Literal["reasoning", "text", "call"]


@dataclass(slots=True, kw_only=True, eq=False)
class Part:
    """One part.

    index: its place in the answer; pieces: its text so far, of a call its arguments; call_id, name: of a call.
    """

    index: int
    kind: Kind
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its text so far."""
        return "".join(self.pieces)

    @property
    def is_broken(self) -> bool:
        """Whether it is a call that broke off: its text is then told again, as text."""
        return self.kind == "call" and arguments_in(self.text) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEvent:
    """What happens to a part; piece: what is added to it."""

    what: Literal["begin", "piece", "end"]
    part: Part
    piece: str = ""


class AnswerParts:
    """Follows the chunks of one text. says_something: an answer with neither text nor calls has an empty text."""

    def __init__(self, *, says_something: bool) -> None:
        self.parts: list[Part] = []
        self._says_something = says_something
        self._open: Part | None = None
        self._result: Generation | None = None

    @property
    def whole(self) -> list[Part]:
        """The parts without calls that broke off."""
        return [part for part in self.parts if not part.is_broken]

    @property
    def has_call(self) -> bool:
        """Whether a tool is called."""
        return any(part.kind == "call" for part in self.whole)

    @property
    def result(self) -> Generation:
        """The whole; known once it is followed to its end."""
        assert self._result is not None, "a stream ends with its result"
        return self._result

    @property
    def is_cut(self) -> bool:
        """Whether the text is known to have ended before its own end."""
        return self._result is not None and finish_reason(self._result.finish_reason) != "stop"

    async def follow(self, running: Running) -> AsyncGenerator[Iterator[PartEvent], None]:
        """What each chunk adds and what the end does, to be read one by one. Raises: ApiError, GenAIError."""
        async with aclosing(running.chunks()) as pieces:
            async for _, chunk in pieces:
                yield self._push(chunk)
                self._result = chunk.result or self._result
        yield self._finish()

    async def follow_to_the_end(self, running: Running) -> Self:
        """Itself, whole. Raises: ApiError, GenAIError."""
        async with aclosing(self.follow(running)) as steps:
            async for step in steps:
                for _ in step:
                    pass
        return self

    def _push(self, chunk: Chunk) -> Iterator[PartEvent]:
        """What a chunk adds. Of a call that goes on, the rest comes before any text."""
        yield from self._say("reasoning", chunk.reasoning)
        calls = list(chunk.tool_calls)
        if calls and calls[0].id is None:
            yield from self._add(calls.pop(0).arguments)
        yield from self._say("text", chunk.text)
        for call in calls:
            yield from self._begin("call", call_id=call.id or "", name=call.name or "")
            yield from self._add(call.arguments)

    def _finish(self) -> Iterator[PartEvent]:
        """End the last part."""
        if self._says_something and all(part.kind == "reasoning" for part in self.whole):
            yield from self._begin("text")
        yield from self._end()

    def _say(self, kind: Kind, text: str) -> Iterator[PartEvent]:
        if not text:
            return
        if self._open is None or self._open.kind != kind:
            yield from self._begin(kind)
        yield from self._add(text)

    def _begin(self, kind: Kind, call_id: str = "", name: str = "") -> Iterator[PartEvent]:
        yield from self._end()
        self._open = Part(index=len(self.parts), kind=kind, call_id=call_id, name=name)
        self.parts.append(self._open)
        yield PartEvent(what="begin", part=self._open)

    def _add(self, piece: str) -> Iterator[PartEvent]:
        if piece:
            assert self._open is not None, "a piece belongs to a part that has begun"
            self._open.pieces.append(piece)
            yield PartEvent(what="piece", part=self._open, piece=piece)

    def _end(self) -> Iterator[PartEvent]:
        ended, self._open = self._open, None
        if ended is not None:
            yield PartEvent(what="end", part=ended)


def arguments_in(text: str) -> dict[str, object] | None:
    """A call's arguments; None if they are no JSON object.

    What a model may write, but no answer can tell again, is told as what comes next to it: half a surrogate pair as a
    question mark, numbers beyond all floats as the largest one.
    """
    try:
        value = json.loads(text, parse_float=_finite)
        if "\\u" in text:
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _finite(number: str) -> float:
    return max(-sys.float_info.max, min(float(number), sys.float_info.max))


async def reasoning_tokens(result: Generation, tokenizer: Tokenizer) -> int:
    """Tokens of the first text's reasoning: its markers, and white space around it, are not counted."""
    if not result.reasoning:
        return 0
    tokens = await asyncio.to_thread(tokenizer.encode, result.reasoning, add_special_tokens=False)
    return min(len(tokens), len(result.token_ids))
