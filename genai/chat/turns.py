"""Conversations made to fit the turns that a chat template takes; what it takes is found by trying.

Clients send turns in any order. Some templates take them as they come, some refuse them, and some leave out without a
word what they do not expect. A fit is made only where the template needs it, so that no other prompt changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from genai.chat.content import PlainMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """A change of conversations, and a conversation that tells whether a template can do without it."""

    sample: Sequence[PlainMessage]
    change: Callable[[Sequence[PlainMessage]], list[PlainMessage]]


class Turns:
    """The turns that one template takes. render: the template; it may raise anything."""

    def __init__(self, render: Callable[[Sequence[PlainMessage]], str]) -> None:
        self._render = render
        self._taken: dict[int, bool] = {}

    def fitted(self, messages: Sequence[PlainMessage]) -> list[PlainMessage]:
        """The messages in turns that the template takes."""
        fitted = list(messages)
        for index, fit in enumerate(_FITS):
            changed = fit.change(fitted)
            if changed != fitted and not self._takes(index):
                fitted = changed
        return fitted

    def _takes(self, index: int) -> bool:
        """Whether the template shows all of a sample; one that shows not even a single turn cannot be judged."""
        if index not in self._taken:
            self._taken[index] = self._shows(_FITS[index].sample) or not self._shows([_said("user", "one1")])
        return self._taken[index]

    def _shows(self, messages: Sequence[PlainMessage]) -> bool:
        try:
            text = self._render(messages)
        except Exception:  # the template is a stranger's program: it can raise anything
            return False
        place = 0
        for content in (str(message["content"]) for message in messages if message["content"]):
            place = text.find(content, place)
            if place < 0:
                return False
        return True


def joined(contents: Sequence[object]) -> object:
    """Contents as one: texts with an empty line between, or a list of parts."""
    if any(isinstance(content, list) for content in contents):
        return [part for content in contents for part in _parts(content)]
    return "\n\n".join(str(content) for content in contents if content)


def _parts(content: object) -> list[object]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _join_first_systems(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """The system texts that a conversation begins with, as one."""
    count = _num_first_systems(messages)
    return list(messages) if count < 2 else [*_with_neighbours_joined(messages[:count], "system"), *messages[count:]]


def _later_systems_as_user(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """System texts stay where they are, as the user's: what stands before them is the same prompt as before."""
    count = _num_first_systems(messages)
    return [*messages[:count], *map(_as_user, messages[count:])]


def _first_system_as_user(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """A system text as the beginning of what the user says first."""
    count = _num_first_systems(messages)
    first, rest = list(map(_as_user, messages[:count])), messages[count:]
    return [*_with_neighbours_joined([*first, *rest[:1]], "user"), *rest[1:]]


def _join_users(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    return _with_neighbours_joined(messages, "user")


def _join_assistants(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    return _with_neighbours_joined(messages, "assistant")


def _begin_with_user(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """A greeting of the assistant's, as the answer to nothing."""
    count = _num_first_systems(messages)
    is_greeted = count < len(messages) and messages[count]["role"] == "assistant"
    return [*messages[:count], *([_said("user", "")] if is_greeted else []), *messages[count:]]


def _users_as_part_of_results(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """What the user says right after a tool's result, as the end of that result."""
    turns: list[PlainMessage] = []
    for role, group in groupby(messages, key=_role):
        same = list(group)
        if role == "user" and turns and turns[-1]["role"] == "tool":
            turns[-1] = {**turns[-1], "content": joined([each.get("content") for each in (turns[-1], *same)])}
        else:
            turns += same
    return turns


def _num_first_systems(messages: Sequence[PlainMessage]) -> int:
    return next((index for index, message in enumerate(messages) if message["role"] != "system"), len(messages))


def _as_user(message: PlainMessage) -> PlainMessage:
    return {**message, "role": "user"} if message["role"] == "system" else message


def _with_neighbours_joined(messages: Sequence[PlainMessage], role: str) -> list[PlainMessage]:
    """The messages with neighbours of a role as one."""
    turns: list[PlainMessage] = []
    for each, group in groupby(messages, key=_role):
        same = list(group)
        turns += [_together(same)] if each == role and len(same) > 1 else same
    return turns


def _role(message: PlainMessage) -> object:
    return message["role"]


def _together(messages: Sequence[PlainMessage]) -> PlainMessage:
    """Messages of a role as one, calls and reasoning included."""
    together: PlainMessage = {}
    for message in reversed(messages):
        together |= message
    together["content"] = joined([message.get("content") for message in messages])
    for field in ("reasoning_content", "thinking"):
        if thoughts := [message[field] for message in messages if message.get(field)]:
            together[field] = joined(thoughts)
    calls = [call for message in messages for call in _list(message.get("tool_calls"))]
    return together | ({"tool_calls": calls} if calls else {})


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _said(role: str, content: str, **more: object) -> PlainMessage:
    return {"role": role, "content": content, **more}


_CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "look", "arguments": {}}}
_CALLED = (
    _said("user", "one1"),
    _said("assistant", "", tool_calls=[_CALL]),
    _said("tool", "two2", tool_call_id="abcdefgh1", name="look"),
)
_FITS = (
    _Fit(
        sample=(_said("system", "one1"), _said("system", "two2"), _said("user", "three3")),
        change=_join_first_systems,
    ),
    _Fit(
        sample=(_said("user", "one1"), _said("assistant", "two2"), _said("system", "three3"), _said("user", "four4")),
        change=_later_systems_as_user,
    ),
    _Fit(sample=(_said("system", "one1"), _said("user", "two2")), change=_first_system_as_user),
    _Fit(sample=(_said("assistant", "one1"), _said("user", "two2")), change=_begin_with_user),
    _Fit(sample=(*_CALLED, _said("user", "three3")), change=_users_as_part_of_results),
    _Fit(sample=(_said("user", "one1"), _said("user", "two2")), change=_join_users),
    _Fit(
        sample=(
            _said("user", "one1"),
            _said("assistant", "two2"),
            _said("assistant", "three3"),
            _said("user", "four4"),
        ),
        change=_join_assistants,
    ),
)
"""Each fit sees what those before it have done."""
