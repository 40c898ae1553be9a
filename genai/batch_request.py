"""One line of a batch file: from OpenAI's JSON to a prompt and its settings, and from a result back to OpenAI's JSON.

What a field asks for is done, or refused by its name: nothing is ignored that would change the text.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from genai.errors import CapacityError, ConfigError, GenAIError, TokenizerError
from genai.generation_config import GenerationConfig
from genai.text.tokenizer import Tokenizer
from genai.writer import Generation

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Kind: TypeAlias = Literal["chat", "completion"]

_KINDS: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_LINE_FIELDS = {"custom_id", "method", "url", "body"}
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")
_WHOLE_NUMBERS = ("max_tokens", "max_completion_tokens", "top_k", "seed")
_PROMPTS: dict[Kind, str] = {"chat": "messages", "completion": "prompt"}
_NO_EFFECT = {"user", "metadata"}
_NEUTRAL: dict[str, tuple[JSON, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
"""Fields that are not supported, each with the values that ask for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What a line asks for. model: as the line spells it, or as the file's model is called."""

    kind: Kind
    model: str
    prompt: list[int]
    config: GenerationConfig


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


def request_of(
    data: Mapping[str, JSON], tokenizer: Tokenizer, defaults: GenerationConfig, models: tuple[str, ...]
) -> BatchRequest:
    """What a line asks for, encoded.

    defaults: settings for what it does not say; models: the names that it may call the model by.
    Raises: BadLineError, ConfigError, TokenizerError.
    """
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
    model = _model(given, models)
    config = defaults.updated(**_options(given, kind))
    prompt = _chat(given, tokenizer) if kind == "chat" else _plain(given, tokenizer)
    return BatchRequest(kind=kind, model=model, prompt=prompt, config=config)


def answer(request: BatchRequest, result: Generation, tokenizer: Tokenizer) -> dict[str, JSON]:
    """The body of a response: a `chat.completion` or a `text_completion`."""
    choice: dict[str, JSON] = {"index": 0, "logprobs": None, "finish_reason": result.finish_reason}
    if request.kind == "chat":
        choice["message"] = {"role": "assistant", "content": result.text}
        if result.logprobs is not None:
            choice["logprobs"] = {"content": _logprobs(result, tokenizer)}
    else:
        choice["text"] = result.text
    usage = result.usage
    return {
        "id": f"{'chatcmpl' if request.kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if request.kind == "chat" else "text_completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }


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
    """Generation options, by our names. Raises: BadLineError for every field that is not understood."""
    options: dict[str, object] = {}
    for name, value in body.items():
        if name in ("model", _PROMPTS[kind]) or name in _NO_EFFECT:
            continue
        if name in _NUMBERS or name in _WHOLE_NUMBERS:
            options["max_new_tokens" if name.startswith("max_") else name] = _number(name, value)
        elif name == "stop":
            options["stop"] = _stops(value)
        elif name == "logprobs" and kind == "chat" and isinstance(value, bool):
            options["logprobs"] = value
        elif value not in _NEUTRAL.get(name, ()):
            raise BadLineError(f"{name}={_shown(value)} is not supported", param=name)
    if len({body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}) > 1:
        raise BadLineError("max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    return options


def _number(name: str, value: JSON) -> int | float:
    is_whole = name in _WHOLE_NUMBERS
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
        raise BadLineError(f"{name}={_shown(value)}: must be a {'whole ' if is_whole else ''}number", param=name)
    if name.startswith("max_") and value < 1:
        raise BadLineError(f"{name}={value}: must be at least 1", param=name)
    return value


def _stops(value: JSON) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise BadLineError(f"stop={_shown(value)}: must be a string or a list of strings, none empty", param="stop")
    return tuple(cast("list[str]", stops))


def _chat(body: Mapping[str, JSON], tokenizer: Tokenizer) -> list[int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadLineError("messages must be a list of at least one message", param="messages")
    return tokenizer.apply_chat_template([_message(f"messages[{n}]", each) for n, each in enumerate(messages)])


def _message(place: str, message: JSON) -> dict[str, str]:
    if not isinstance(message, dict):
        raise BadLineError(f"{place} must be an object with role and content", param=place)
    plain: dict[str, str] = {}
    for name, value in message.items():
        if name == "content":
            plain[name] = _content(f"{place}.content", value)
        elif name in ("role", "name") and isinstance(value, str):
            plain[name] = value
        elif value is not None:
            raise BadLineError(f"{place}.{name}={_shown(value)} is not supported", param=f"{place}.{name}")
    if not plain.keys() >= {"role", "content"}:
        raise BadLineError(f"{place} must have a role and a content", param=place)
    return plain


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


def _plain(body: Mapping[str, JSON], tokenizer: Tokenizer) -> list[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return cast("list[int]", prompt)
    raise BadLineError("prompt must be one string, or one list of token ids", param="prompt")


def _logprobs(result: Generation, tokenizer: Tokenizer) -> list[JSON]:
    entries: list[JSON] = []
    for each in result.logprobs or ():
        data = tokenizer.token_bytes(each.token_id)
        text = data.decode("utf-8", errors="replace")
        entries.append({"token": text, "logprob": each.logprob, "bytes": list(data), "top_logprobs": []})
    return entries


def _shown(value: JSON) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
