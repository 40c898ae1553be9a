"""One line of a batch file: from OpenAI's JSON to a prompt and its settings.

What a field asks for is done, or refused by its name: nothing is ignored that would change the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from genai.errors import CapacityError, ConfigError, GenAIError, TokenizerError
from genai.llm.prepare import Prompt
from genai.options.generation_config import flat_names

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Kind: TypeAlias = Literal["chat", "completion"]

_KINDS: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_LINE_FIELDS = {"custom_id", "method", "url", "body"}
_NUMBERS = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_WHOLE_NUMBERS = ("max_tokens", "max_completion_tokens", "min_tokens", "top_k", "seed", "n", "top_logprobs")
_PROMPTS: dict[Kind, str] = {"chat": "messages", "completion": "prompt"}
_ELSEWHERE: dict[Kind, set[str]] = {
    "chat": {"messages", "model", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs"},
    "completion": {"prompt", "model"},
}
"""Fields that are no options of generation."""
_NO_EFFECT = {"user", "metadata"}
_NEUTRAL: dict[str, tuple[JSON, ...]] = {
    "stream": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""Fields that are not supported, each with the values that ask for nothing."""
_OPTIONS: dict[Kind, set[str]] = {
    "chat": flat_names() - {"prompt_logprobs", "echo"},
    "completion": flat_names() - {"prompt_logprobs", "top_logprobs"},
}
"""Options of generation that bodies take by their own names; the others would show in no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What a line asks for.

    model: as the line spells it, or as the file's model is called; options: of generation; chat: keyword arguments of
    `LLM.prepare` that go with messages.
    """

    kind: Kind
    model: str
    prompt: Prompt
    options: Mapping[str, object]
    chat: Mapping[str, Any] = field(default_factory=dict)


class BadLineError(ConfigError):
    """A line asks for what cannot be done. param: the field at fault; code: a short name of the error."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def read_line(line: bytes) -> dict[str, JSON]:
    """A line's JSON object. Raises: BadLineError."""
    try:
        data = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadLineError(f"the line is not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise BadLineError(f"the line is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadLineError("the line is not a JSON object")
    return data


def custom_id_of(data: Mapping[str, JSON]) -> str:
    """The name that the line gives its request. Raises: BadLineError."""
    custom_id = data.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise BadLineError("custom_id must be a string, and not empty", param="custom_id")
    return custom_id


def request_of(data: Mapping[str, JSON], models: tuple[str, ...]) -> BatchRequest:
    """What a line asks for; models: the names that it may call the model by. Raises: BadLineError."""
    if unknown := data.keys() - _LINE_FIELDS:
        raise BadLineError(f"{min(unknown)!r} is no field of a batch line", param=min(unknown))
    if data.get("method") != "POST":
        raise BadLineError(f"method {_shown(data.get('method'))}: must be 'POST'", param="method")
    url, body = data.get("url"), data.get("body")
    if not isinstance(url, str) or url not in _KINDS:
        raise BadLineError(f"url {_shown(url)}: must be one of {', '.join(_KINDS)}", param="url")
    if not isinstance(body, dict):
        raise BadLineError("body must be a JSON object", param="body")
    kind, given = _KINDS[url], {name: value for name, value in body.items() if value is not None}
    model, options = _model(given, models), _options(given, kind)
    if kind == "completion":
        return BatchRequest(kind=kind, model=model, prompt=_plain(given), options=options)
    return BatchRequest(kind=kind, model=model, prompt=_messages(given), options=options, chat=_chat(given))


def complaint(error: GenAIError) -> dict[str, JSON]:
    """The body of a response that is an error."""
    code = getattr(error, "code", None) or ("context_length_exceeded" if isinstance(error, CapacityError) else None)
    return {
        "error": {
            "message": str(error),
            "type": "invalid_request_error" if status_of(error) < 500 else "server_error",
            "param": getattr(error, "param", None),
            "code": code,
        }
    }


def status_of(error: GenAIError) -> int:
    """The HTTP status of an error: 400 for what the line is to blame for, 404 for another model, else 500."""
    if getattr(error, "code", None) == "model_not_found":
        return 404
    return 400 if isinstance(error, ConfigError | TokenizerError) else 500


def _model(body: Mapping[str, JSON], models: tuple[str, ...]) -> str:
    model = body.get("model", models[0])
    if not isinstance(model, str) or model not in models:
        message = (
            f"model {_shown(model)}: this file is answered by {models[0]!r}; leave the field out, or name that one"
        )
        raise BadLineError(message, param="model", code="model_not_found")
    return model


def _options(body: Mapping[str, JSON], kind: Kind) -> dict[str, object]:
    """Options of generation. Raises: BadLineError for every field that is not understood."""
    options: dict[str, object] = {}
    for name, value in body.items():
        if name in _ELSEWHERE[kind] or name in _NO_EFFECT or value in _NEUTRAL.get(name, ()):
            continue
        if name == "stop":
            options["stop"] = _stops(value)
        elif name == "logprobs":
            options |= _logprobs(value, kind)
        elif name == "response_format" and kind == "chat":
            options |= _response_format(value)
        elif name == "grammar":
            options["lark"] = value
        elif name == "best_of":
            if value != body.get("n", 1):
                raise BadLineError(f"best_of={_shown(value)}: must equal n; texts are not compared", param=name)
        elif name in _OPTIONS[kind]:
            is_number = name in _NUMBERS or name in _WHOLE_NUMBERS
            options["max_new_tokens" if name in _LIMITS else name] = _number(name, value) if is_number else value
        else:
            raise BadLineError(f"{name}={_shown(value)} is not supported", param=name)
    if len({body[name] for name in _LIMITS if name in body}) > 1:
        raise BadLineError("max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    if options.get("echo") is True and options.get("logprobs"):
        options["prompt_logprobs"] = options["top_logprobs"]
    return options


_LIMITS = ("max_tokens", "max_completion_tokens")


def _logprobs(value: JSON, kind: Kind) -> dict[str, object]:
    """A yes or no for chats, the number of likely others for completions."""
    if kind == "chat" and isinstance(value, bool):
        return {"logprobs": True} if value else {"logprobs": False, "top_logprobs": 0}
    if kind == "completion" and isinstance(value, int) and not isinstance(value, bool):
        return {"logprobs": True, "top_logprobs": value}
    expected = "true or false" if kind == "chat" else "a whole number"
    raise BadLineError(f"logprobs={_shown(value)}: must be {expected}", param="logprobs")


def _response_format(value: JSON) -> dict[str, object]:
    kind = value.get("type") if isinstance(value, dict) else None
    if value == {"type": "text"}:
        return {}
    if value == {"type": "json_object"}:
        return {"json_object": True}
    schema = value.get("json_schema") if isinstance(value, dict) and kind == "json_schema" else None
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict | bool):
        return {"json_schema": schema["schema"]}
    raise BadLineError(f"response_format={_shown(value)} is not supported", param="response_format")


def _number(name: str, value: JSON) -> int | float:
    is_whole = name in _WHOLE_NUMBERS
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
        raise BadLineError(f"{name}={_shown(value)}: must be a {'whole ' if is_whole else ''}number", param=name)
    if name in _LIMITS and value < 1:
        raise BadLineError(f"{name}={value}: must be at least 1", param=name)
    return value


def _stops(value: JSON) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadLineError(f"stop={_shown(value)}: must be a string or a list of strings, none empty", param="stop")
    return tuple(cast("list[str]", stops))


def _chat(body: Mapping[str, JSON]) -> dict[str, Any]:
    """What goes with messages; functions are checked where everybody's are."""
    names = {"tools": "tools", "tool_choice": "tool_choice", "parallel_tool_calls": "parallel_tool_calls"}
    chat: dict[str, Any] = {ours: body[name] for name, ours in names.items() if name in body}
    variables = body.get("chat_template_kwargs", {})
    if not isinstance(variables, dict):
        raise BadLineError("chat_template_kwargs must be an object", param="chat_template_kwargs")
    return {**chat, "template_options": variables} if variables else chat


def _messages(body: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadLineError("messages must be a list of at least one message", param="messages")
    return [_message(f"messages[{n}]", each) for n, each in enumerate(messages)]


def _message(place: str, message: JSON) -> dict[str, JSON]:
    """A message as chat templates take it; the form of calls is checked where everybody's is."""
    if not isinstance(message, dict):
        raise BadLineError(f"{place} must be an object with role and content", param=place)
    plain: dict[str, JSON] = {}
    for name, value in message.items():
        if value is None:
            continue
        if name == "content":
            plain[name] = _content(f"{place}.content", value)
        elif (name in _MESSAGE_TEXTS and isinstance(value, str)) or (name == "tool_calls" and isinstance(value, list)):
            plain[name] = value
        else:
            raise BadLineError(f"{place}.{name}={_shown(value)} is not supported", param=f"{place}.{name}")
    says_nothing = not plain.keys() & {"content", "tool_calls", "reasoning_content"}
    if "role" not in plain or says_nothing:
        raise BadLineError(f"{place} must have a role and a content", param=place)
    return {**plain, "role": "system"} if plain["role"] == "developer" else plain


_MESSAGE_TEXTS = ("role", "name", "tool_call_id", "reasoning_content")


def _content(place: str, content: JSON) -> str:
    """A message's text: a string, or parts that are joined."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise BadLineError(f"{place}={_shown(content)}: must be a string or a list of text parts", param=place)
    texts = []
    for number, part in enumerate(parts):
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise BadLineError(
                f"{place}[{number}]: only parts of type 'text' are supported", param=f"{place}[{number}]"
            )
        texts.append(text)
    return "".join(texts)


def _plain(body: Mapping[str, JSON]) -> Prompt:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return cast("list[int]", prompt)
    raise BadLineError("prompt must be one string, or one list of token ids", param="prompt")


def _shown(value: JSON) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
