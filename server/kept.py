"""Answers that are kept for a while, so that a conversation can go on behind them; bounded in bytes and in time.

Who asks with another API key finds nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from server.context import request_info
from server.errors import ApiError
from server.schemas.response_items import InputItem, ItemReference
from server.schemas.responses import ResponseObject

if TYPE_CHECKING:
    from server.generation import Running

_ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])
_OVERHEAD = 1000
"""Bytes that an entry takes beside what it keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptResponse:
    """One answer.

    key: whose it is; conversation: the items up to its last one; item_ids: of its own; ends: when it is forgotten.
    """

    key: int | None
    response: bytes
    conversation: bytes
    item_ids: tuple[str, ...]
    ends: float

    @property
    def num_bytes(self) -> int:
        """What it takes of the room."""
        return len(self.response) + len(self.conversation) + _OVERHEAD


@dataclass(slots=True, kw_only=True, eq=False)
class RunningResponse:
    """An answer that is being written. key: whose it is."""

    key: int | None
    response: ResponseObject
    running: Running


class KeptResponses:
    """The answers of one server: those that are kept, the oldest first, and those that are being written."""

    def __init__(self, max_bytes: int, max_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock
        self._kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self._holders: dict[str, str] = {}  # of items, by their ids: the answers that they are in
        self._running: dict[str, RunningResponse] = {}
        self.num_bytes = 0

    @property
    def ids_of_running(self) -> list[str]:
        """The answers that are being written."""
        return list(self._running)

    @contextmanager
    def writing(self, response: ResponseObject, running: Running) -> Iterator[None]:
        """While an answer is written it can be looked at, and called off."""
        self._running[response.id] = RunningResponse(key=request_info().key, response=response, running=running)
        try:
            yield
        finally:
            del self._running[response.id]

    async def keep(self, response: ResponseObject, items: Sequence[InputItem]) -> None:
        """Keep an answer and the items before it; the oldest go if there is no room, or this one if it is too big."""
        kept = await asyncio.to_thread(self._made, response, items)
        if kept.num_bytes > self._max_bytes:
            return
        self._kept[response.id] = kept
        self._holders |= dict.fromkeys(kept.item_ids, response.id)
        self.num_bytes += kept.num_bytes
        self._forget()

    def _made(self, response: ResponseObject, items: Sequence[InputItem]) -> KeptResponse:
        before = json.loads(_ITEMS.dump_json(list(items), exclude_none=True))
        output = [item.model_dump(exclude_none=True) for item in response.output]
        return KeptResponse(
            key=request_info().key,
            response=response.model_dump_json().encode(),
            conversation=json.dumps([*before, *output], ensure_ascii=False).encode(),
            item_ids=tuple(item.id for item in response.output),
            ends=self._clock() + self._max_seconds,
        )

    def get(self, response_id: str) -> bytes:
        """An answer's JSON, as far as it is written. Raises: ApiError."""
        running = self._running.get(response_id)
        if running is not None and running.key == request_info().key:
            return running.response.model_dump_json().encode()
        return self._own(response_id).response

    def delete(self, response_id: str) -> None:
        """Keep an answer no longer. Raises: ApiError."""
        self._own(response_id)
        self._drop(response_id)

    def cancel(self, response_id: str) -> bytes:
        """Call an answer off, and tell it as far as it is written; one that has ended stays. Raises: ApiError."""
        running = self._running.get(response_id)
        if running is None or running.key != request_info().key:
            return self._own(response_id).response
        running.running.call_off()
        return running.response.model_copy(update={"status": "cancelled"}).model_dump_json().encode()

    async def behind(self, response_id: str | None, items: Sequence[InputItem]) -> list[InputItem]:
        """The whole conversation that goes on behind an answer; references to items of kept answers are looked up.

        Raises: ApiError.
        """
        before: Sequence[InputItem] = []
        if response_id is not None:
            kept = self._find(response_id)
            if kept is None:
                message = f"Previous response with id {response_id[:100]!r} not found: it is not kept."
                raise ApiError(400, message, code="previous_response_not_found", param="previous_response_id")
            before = await asyncio.to_thread(_ITEMS.validate_json, kept.conversation)  # it may have megabytes
        references = {item.id for item in items if isinstance(item, ItemReference)}
        known = self._items(references) if references else {}
        found = (known.get(item.id) if isinstance(item, ItemReference) else item for item in items)
        return [*before, *(item for item in found if item is not None)]

    def _items(self, ids: Set[str]) -> dict[str, InputItem]:
        """The items of those kept answers of the asker that have some of these, by their ids."""
        found: dict[str, InputItem] = {}
        for response_id in {self._holders[item_id] for item_id in ids & self._holders.keys()}:
            if (kept := self._find(response_id)) is not None:
                output = _ITEMS.validate_python(json.loads(kept.response)["output"])
                found |= dict(zip(kept.item_ids, output, strict=True))
        return found

    def _own(self, response_id: str) -> KeptResponse:
        kept = self._find(response_id)
        if kept is None:
            message = f"Response with id {response_id[:100]!r} not found: it is not kept."
            raise ApiError(404, message, code="response_not_found")
        return kept

    def _find(self, response_id: str) -> KeptResponse | None:
        self._forget()
        kept = self._kept.get(response_id)
        return kept if kept is not None and kept.key == request_info().key else None

    def _forget(self) -> None:
        """Forget what is too old or too much."""
        now = self._clock()
        while self._kept:
            first = next(iter(self._kept))
            if self.num_bytes <= self._max_bytes and self._kept[first].ends > now:
                return
            self._drop(first)

    def _drop(self, response_id: str) -> None:
        gone = self._kept.pop(response_id)
        self.num_bytes -= gone.num_bytes
        for item_id in gone.item_ids:
            del self._holders[item_id]
