"""What messages consist of: texts, and lines that stand where a model that reads text only cannot read the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from genai.errors import RequestError
from genai.requests.base import Request

_KINDS = {
    **dict.fromkeys(("image_url", "input_image"), "image"),
    **dict.fromkeys(("input_audio", "audio_url"), "audio"),
    **dict.fromkeys(("file", "input_file"), "document"),
    "video_url": "video",
}
_MAX_KIND = 40


class TextPart(Request):
    """A piece of a message's text. The Responses API's names for it mean the same."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(Request):
    """What an assistant said when it refused."""

    type: Literal["refusal"]
    refusal: str


class OtherPart(Request):
    """An image, audio, a document: anything but text. The model is told that it was left out."""

    type: str

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        return _KINDS.get(self.type, self.type[:_MAX_KIND])

    @property
    def readable(self) -> str | None:
        """Its text, if it has one."""
        return None

    @property
    def told(self) -> str:
        """What the model is told of it."""
        return placeholder(self.kind) if self.readable is None else self.readable


def placeholder(kind: str) -> str:
    """The line in place of what a model that reads text only cannot read."""
    return f"[{kind} omitted: this model reads text only]"


def branch_of(*known: str) -> Discriminator:
    """Chooses a union's branch by `type`; "other" for every type that is not among the known."""

    def branch(value: object) -> str:
        kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
        return kind if isinstance(kind, str) and kind in known else "other"

    return Discriminator(branch)


Part: TypeAlias = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[TextPart, Tag("input_text")]
    | Annotated[TextPart, Tag("output_text")]
    | Annotated[RefusalPart, Tag("refusal")]
    | Annotated[OtherPart, Tag("other")],
    branch_of("text", "input_text", "output_text", "refusal"),
]
Parts: TypeAlias = Annotated[list[Part], Field(fail_fast=True, max_length=1000)]


def text_of(content: str | Sequence[Part] | None, *, is_answer: bool = False) -> str:
    """A content's text: its parts joined; nothing for none, because templates would write "None".

    is_answer: it is the model's own, in which a line in place of something would only teach it to write such lines.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_told(part, is_answer=is_answer) for part in content)


def _told(part: Part, *, is_answer: bool) -> str:
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, RefusalPart):
        return part.refusal
    return "" if is_answer else part.told


def check_media(request: object, messages: Sequence[Mapping[str, object]], param: str, *, is_refused: bool) -> None:
    """Refuse what is no text where a model cannot do without it.

    request: what was asked, as it was read; messages: the same as the model is told it; param: the request's place;
    is_refused: whether even what stands beside text is refused. Raises: RequestError.
    """
    first = next(_unreadable(request, param), None)
    if first is None:
        return
    place, part = first
    if is_refused:
        message = f"{place}: this model reads text only, and this is of type {part.type[:_MAX_KIND]!r}"
        raise RequestError(message, code="invalid_value", param=place)
    said = [message for message in messages if message["role"] != "system"]
    if any(message.get("tool_calls") for message in said):
        return
    length = sum(_length(str(message.get("content") or "")) for message in said)
    if length == sum(_length(each.told) for _, each in _unreadable(request, param)):
        message = f"{place}: this model reads text only, and nothing but this ({part.kind}) is asked"
        raise RequestError(message, code="invalid_value", param=place)


def _length(text: str) -> int:
    """How long a text is without white space."""
    return sum(map(len, text.split()))


def _unreadable(value: object, place: str) -> Iterator[tuple[str, OtherPart]]:
    """The parts of a request that the model is not told, with their places; the model's own are no loss."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, OtherPart):
                if item.readable is None:
                    yield f"{place}[{index}]", item
            elif held := _held(item):
                field, items = held
                yield from _unreadable(items, f"{place}[{index}].{field}")


def _held(value: object) -> tuple[str, list[object]] | None:
    """The list of parts that a message or a result has, and in which field."""
    fields = vars(value) if isinstance(value, Request) else {}
    if fields.get("role") == "assistant":
        return None
    return next(((name, fields[name]) for name in ("content", "output") if isinstance(fields.get(name), list)), None)
