"""The forms of a message's content that a chat template takes: a text, a list of typed parts, or either.

Templates of models that also see images loop over parts (`{% for part in message['content'] %}`) and would loop over a
text's characters; others print `content` and would print a Python list. What a template takes is found by rendering it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from genai.errors import TokenizerError

PlainMessage = dict[str, object]
"""A message made of plain JSON types."""

_SIGN = "7041982356"  # digits, which no template trims, splits or writes in another case
_AS_A_LIST = re.compile(r"""["']type["']\s*:\s*["']text["']""")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    text: bool
    parts: bool


class ContentForms:
    """What one template takes, for each role; render: the template, which may raise anything."""

    def __init__(self, render: Callable[[Sequence[PlainMessage]], str]) -> None:
        self._render = render
        self._taken: dict[str, _Taken] = {}

    def joined(self, messages: Sequence[PlainMessage]) -> list[PlainMessage]:
        """The messages with their text parts joined, where the template takes no parts.

        Raises: TokenizerError for a part that is no text and could not be shown to the model.
        """
        return [self._joined(message, f"message {index}") for index, message in enumerate(messages)]

    def typed(self, messages: Sequence[PlainMessage]) -> list[PlainMessage]:
        """The messages with texts as one part each, where the template takes nothing but parts."""
        return [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if isinstance(message.get("content"), str) and not self._taken_of(str(message["role"])).text
            else message
            for message in messages
        ]

    def _joined(self, message: PlainMessage, place: str) -> PlainMessage:
        content = message.get("content")
        if not isinstance(content, list | tuple) or self._taken_of(str(message["role"])).parts:
            return message
        text = joined_text(content)
        if not isinstance(text, str):
            kinds = sorted({str(part.get("type") if isinstance(part, dict) else part)[:40] for part in content})
            raise TokenizerError(
                f"{place}: this model's chat template takes text only; the content has parts of these types: "
                f"{', '.join(kinds)}"
            )
        return {**message, "content": text}

    def _taken_of(self, role: str) -> _Taken:
        if role not in self._taken:
            text, parts = self._shows(role, _SIGN), self._shows(role, [{"type": "text", "text": _SIGN}])
            if not text and not parts and role != "user":  # a role that it does not know, or not in this place
                return self._taken_of("user")
            self._taken[role] = _Taken(text=text or not parts, parts=parts)
        return self._taken[role]

    def _shows(self, role: str, content: object) -> bool:
        """Whether the template shows a content of this role, and as what it means."""
        messages = _conversation(role, content)
        if role != "user" and not self._taken_of("user").text:
            messages = [
                {**one, "content": [{"type": "text", "text": "x"}]} if one["content"] == "x" else one
                for one in messages
            ]
        try:
            shown = self._render(messages)
        except Exception:  # the template is a stranger's program: it can raise anything
            return False
        return _SIGN in shown and not _AS_A_LIST.search(shown)


def joined_text(content: object) -> object:
    """Content that is a list of text parts, as one text; any other as it is."""
    if not isinstance(content, list | tuple):
        return content
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else content


def _conversation(role: str, content: object) -> list[PlainMessage]:
    """The shortest usual conversation with a turn of this role."""
    user: PlainMessage = {"role": "user", "content": "x"}
    turn: PlainMessage = {"role": role, "content": content}
    if role == "user":
        return [turn]
    if role == "assistant":
        return [user, turn]
    if role == "tool":
        call = {"id": "a12345678", "type": "function", "function": {"name": "x", "arguments": {}}}
        calls: PlainMessage = {"role": "assistant", "content": "x", "tool_calls": [call]}
        return [user, calls, {**turn, "tool_call_id": "a12345678", "name": "x"}]
    return [turn, user]
