"""Tools, calls and results in conversations, in the forms that chat templates take.

Templates differ: some want arguments as objects and some as text, some one call a turn, some ids of nine characters,
and many know nothing of tools; then the conversation itself has to say it all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from genai.chat.content import PlainMessage, joined_text
from genai.chat.shapes import ToolFormat
from genai.errors import TokenizerError


def normal_calls(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """The messages with arguments as objects (OpenAI's clients send text), and results that name their function.

    Raises: TokenizerError naming the call whose form is wrong.
    """
    names: dict[str, object] = {}
    return [_normal(message, f"message {index}", names) for index, message in enumerate(messages)]


def call_forms(messages: Sequence[PlainMessage]) -> Iterator[list[PlainMessage]]:
    """The messages, and then other forms of the calls in them, for templates that refuse the first."""
    yield list(messages)
    if not any("tool_calls" in message for message in messages):
        return
    yield [{**message, "content": message.get("content") or ""} for message in messages]
    yield _with_short_ids(messages)
    yield [_with_calls(message, _with_arguments_as_text) for message in messages]
    yield with_one_call_a_turn(messages)
    yield [_with_thoughts_alone(message) for message in messages]


def number_calls(messages: Sequence[PlainMessage], form: str) -> list[PlainMessage]:
    """The messages with ids that templates write as part of calls: `functions.{name}:{index}`, counted through all."""
    ids: dict[object, str] = {}
    count = itertools.count()

    def numbered(call: PlainMessage) -> PlainMessage:
        ids[call.get("id")] = form.format(name=_function(call)["name"], index=next(count))
        return {**call, "id": ids[call.get("id")]}

    return [
        {**message, "tool_call_id": ids.get(message.get("tool_call_id"), message.get("tool_call_id"))}
        if message["role"] == "tool"
        else _with_calls(message, numbered)
        for message in messages
    ]


def describe_tools(
    messages: Sequence[PlainMessage], tools: Sequence[Mapping[str, object]], tool_format: ToolFormat
) -> list[PlainMessage]:
    """The messages with a system text that tells of the tools, for templates that do not."""
    lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    value = "<its value>" if tool_format.call.pairs is None else '"<its value>"'
    example = tool_format.spelled([("<name of the function>", f'{{"<name of an argument>": {value}}}')])
    text = (
        f"You can call these functions; each is described by a JSON schema:\n<tools>\n{lines}\n</tools>\n\n"
        f"To call a function, answer with a JSON object that has its name and its arguments, like this:\n{example}\n"
        f"You will be given its result between {' and '.join(map(str.strip, tool_format.result))}. "
        "If no function helps, answer in plain text."
    )
    if not messages or messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    content = messages[0].get("content") or ""
    parts = [*content, {"type": "text", "text": text}] if isinstance(content, list) else f"{content}\n\n{text}"
    return [{**messages[0], "content": parts}, *messages[1:]]


def spell_calls(messages: Sequence[PlainMessage], tool_format: ToolFormat) -> list[PlainMessage]:
    """The messages with calls written into their content, for templates that do not write them."""
    return [_with_spelled_calls(message, tool_format) for message in messages]


def spell_results(messages: Sequence[PlainMessage], tool_format: ToolFormat) -> list[PlainMessage]:
    """The messages with results as the user's, for templates without a role for them.

    Results that follow each other, and what the user says next, are one turn: many templates insist on taking turns.
    """
    spelled: list[PlainMessage] = []
    for is_result, group in itertools.groupby(messages, key=lambda message: message["role"] == "tool"):
        same = list(group)
        if is_result:
            results = (str(message["content"]).join(tool_format.result) for message in same)
            spelled.append({"role": "user", "content": "\n".join(results)})
            continue
        next_said = same[0].get("content")
        if spelled and same[0]["role"] == "user" and isinstance(next_said, str):
            spelled[-1] = {"role": "user", "content": f"{spelled[-1]['content']}\n{next_said}"}
            same = same[1:]
        spelled += same
    return spelled


def _normal(message: PlainMessage, place: str, names: dict[str, object]) -> PlainMessage:
    """One message in normal form; names: the functions called so far, by the id of the call."""
    if message["role"] == "tool":
        name = names.get(str(message.get("tool_call_id")))
        return ({} if name is None else {"name": name}) | message | {"content": joined_text(message.get("content"))}
    others = {key: value for key, value in message.items() if key != "tool_calls"}
    if not message.get("tool_calls"):
        return others
    calls = _normal_calls(message["tool_calls"], place)
    names |= {str(call.get("id")): _function(call)["name"] for call in calls}
    return {"content": None, **others, "tool_calls": calls}


def _normal_calls(calls: object, place: str) -> list[PlainMessage]:
    form = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}'
    if not isinstance(calls, list | tuple) or not all(isinstance(call, dict) for call in calls):
        raise TokenizerError(f"{place}: tool_calls is a list of {form}")
    normal = []
    for index, call in enumerate(calls):
        function = call.get("function", call)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise TokenizerError(f"{place}: tool_calls[{index}] is not of the form {form}")
        arguments = _arguments(function.get("arguments"), f"{place}: tool_calls[{index}]")
        normal.append({"type": "function", **call, "function": {**function, "arguments": arguments}})
    return normal


def _arguments(arguments: object, place: str) -> dict[str, object]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"{place}: the arguments are no JSON: {error}") from None
    if not isinstance(arguments, dict | None):
        raise TokenizerError(f"{place}: the arguments are a {type(arguments).__name__}; they must be a JSON object")
    return arguments or {}


def _calls(message: PlainMessage) -> list[PlainMessage]:
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _function(call: PlainMessage) -> dict[str, object]:
    function = call["function"]
    assert isinstance(function, dict)
    return function


def _name_and_arguments(call: PlainMessage) -> tuple[str, str]:
    """Both as they stand in JSON, the name without its quotes."""
    function = _function(call)
    return json.dumps(function["name"], ensure_ascii=False)[1:-1], json.dumps(function["arguments"], ensure_ascii=False)


def _with_spelled_calls(message: PlainMessage, tool_format: ToolFormat) -> PlainMessage:
    calls = _calls(message)
    if not calls:
        return message
    said = joined_text(message["content"])
    spelled = tool_format.spelled(map(_name_and_arguments, calls))
    others = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**others, "content": f"{said}\n{spelled}" if said else spelled}


def _with_calls(message: PlainMessage, change: Callable[[PlainMessage], PlainMessage]) -> PlainMessage:
    calls = _calls(message)
    return {**message, "tool_calls": [change(call) for call in calls]} if calls else message


def _with_arguments_as_text(call: PlainMessage) -> PlainMessage:
    function = _function(call)
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _with_short_ids(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """Ids of nine letters and digits, which Mistral's templates insist on, the same for a call and its result."""
    return [
        {**message, "tool_call_id": _short_id(message.get("tool_call_id"))}
        if message["role"] == "tool"
        else _with_calls(message, lambda call: {**call, "id": _short_id(call.get("id"))})
        for message in messages
    ]


def _short_id(call_id: object) -> str:
    return hashlib.sha256(str(call_id).encode("utf-8", "replace")).hexdigest()[:9]


def _with_thoughts_alone(message: PlainMessage) -> PlainMessage:
    """What is said beside calls as part of the thoughts, for templates that take one of them."""
    thoughts, said = message.get("thinking"), joined_text(message.get("content")) or ""
    if not _calls(message) or not thoughts or not said:
        return {**message, "content": message.get("content") or ""}
    both = f"{thoughts}\n\n{said}"
    return {**message, "thinking": both, "reasoning_content": both, "content": ""}


def with_one_call_a_turn(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """Each call in a turn of its own, with its result behind it."""
    turns: list[PlainMessage] = []
    waiting = list(messages)
    while waiting:
        message = waiting.pop(0)
        calls = _calls(message)
        if not calls:
            turns.append(message)
        for number, call in enumerate(calls):
            turns.append({**message, "tool_calls": [call], "content": None if number else message["content"]})
            result = _result_of(call, waiting)
            if result is not None:
                turns.append(waiting.pop(result))
    return turns


def _result_of(call: PlainMessage, following: Sequence[PlainMessage]) -> int | None:
    """Where the result of a call is among those that follow at once."""
    for index, message in enumerate(following):
        if message["role"] != "tool":
            return None
        if message.get("tool_call_id") == call.get("id"):
            return index
    return None
