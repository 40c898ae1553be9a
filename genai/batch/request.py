"""One line of a batch file: from OpenAI's JSON to a prompt and its settings.

What a field asks for is done, or refused by its name; so is what is unknown, since a file's author is there to mend it.
Bodies are the server's; they take every option of generation besides, by any of its names and without the API's
narrower bounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pydantic import Field

from genai.errors import CapacityError, ConfigError, GenAIError, RequestError, TokenizerError
from genai.llm.prepare import Prompt
from genai.options.generation_config import ALIASES, FLAT_NAMES, OPTIONS
from genai.options.option import Body
from genai.requests.base import ignored_fields, read, unknown_field
from genai.requests.chat import ChatArguments, ChatRequest, chat_arguments, chat_options
from genai.requests.completions import CompletionRequest, completion_options, prompts_of
from genai.requests.embeddings import EmbeddingRequest
from genai.requests.generation import field_of, served
from genai.requests.messages import template_messages

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"


class BatchCompletion(CompletionRequest):
    """A completion of which as many likely tokens are told as are asked for."""

    logprobs: int | None = Field(None, ge=0)


_LINE_FIELDS = {"custom_id", "method", "url", "body"}
EMBEDDINGS = "/v1/embeddings"
_KINDS: dict[str, Body] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_BODIES: dict[Body, type[ChatRequest | BatchCompletion]] = {"chat": ChatRequest, "completion": BatchCompletion}


def _option_names(kind: Body) -> dict[str, str]:
    """The options that bodies take by name: the names that they may be given by, each with the one to hand on."""
    fields = {name: entry.name for name, entry in served(kind).items()}
    hidden = {name for name, entry in OPTIONS.items() if kind not in entry.option.bodies}
    described = _BODIES[kind].model_fields.keys() - fields.keys()
    names = {name: name for name in FLAT_NAMES - described if ALIASES.get(name, name) not in hidden}
    return names | fields


_OPTIONS: dict[Body, dict[str, str]] = {kind: _option_names(kind) for kind in _BODIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """What a line asks for.

    model: as the line spells it, or as the file's model is called; options: of generation; chat: keyword arguments of
    `LLM.prepare` that go with messages.
    """

    kind: Body
    model: str
    prompt: Prompt
    options: Mapping[str, object]
    chat: ChatArguments = field(default_factory=ChatArguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEmbedding:
    """What a line asks for that has texts embedded. model: as the line spells it, or as the file's is called."""

    model: str
    body: EmbeddingRequest


def read_line(line: bytes) -> dict[str, JSON]:
    """A line's JSON object. Raises: RequestError."""
    try:
        data = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(f"the line is not UTF-8 (byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the line is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise RequestError("the line is not a JSON object")
    return data


def custom_id_of(data: Mapping[str, JSON]) -> str:
    """The name that the line gives its request. Raises: RequestError."""
    custom_id = data.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise RequestError("custom_id must be a string, and not empty", param="custom_id")
    return custom_id


def request_of(data: Mapping[str, JSON], models: tuple[str, ...]) -> BatchRequest | BatchEmbedding:
    """What a line asks for; models: the names that it may call the model by. Raises: RequestError."""
    if unknown := data.keys() - _LINE_FIELDS:
        raise RequestError(f"{min(unknown)!r} is no field of a batch line", param=min(unknown))
    if data.get("method") != "POST":
        raise RequestError(f"method {_shown(data.get('method'))}: must be 'POST'", param="method")
    url, body = data.get("url"), data.get("body")
    if not isinstance(url, str) or url not in {*_KINDS, EMBEDDINGS}:
        raise RequestError(f"url {_shown(url)}: must be one of {', '.join([*_KINDS, EMBEDDINGS])}", param="url")
    if not isinstance(body, dict):
        raise RequestError("body must be a JSON object", param="body")
    given = {name: value for name, value in body.items() if value is not None}
    return _embedding(given, models) if url == EMBEDDINGS else _request(_KINDS[url], given, models)


def _embedding(given: Mapping[str, JSON], models: tuple[str, ...]) -> BatchEmbedding:
    model = _model(given, models)
    if ignored := ignored_fields(EmbeddingRequest, given):
        raise unknown_field(min(ignored))
    return BatchEmbedding(model=model, body=read(EmbeddingRequest, given))


def _request(kind: Body, given: Mapping[str, JSON], models: tuple[str, ...]) -> BatchRequest:
    model, names = _model(given, models), _OPTIONS[kind]
    by_name: dict[str, object] = {}
    for name, value in given.items():
        if name in names and by_name.setdefault(names[name], value) != value:
            raise RequestError(f"{name} and {names[name]} are the same option; give it once", param=name)
    others = {name: value for name, value in given.items() if name not in names}
    if ignored := ignored_fields(_BODIES[kind], others):
        raise unknown_field(min(ignored))
    body = read(_BODIES[kind], others)
    if body.stream:
        raise RequestError("stream=true is not supported: answers are whole", param="stream")
    chat = ChatArguments()
    if isinstance(body, ChatRequest):
        prompt: Prompt = template_messages(body.messages)
        options, chat = chat_options(body, by_name), chat_arguments(body)
    else:
        prompt, *more = prompts_of(body)
        if more:
            raise RequestError("prompt: a line has one; give each its own line", param="prompt")
        options = completion_options(body, by_name)
    for name, wanted in by_name.items():
        if options[name] != wanted:
            raise RequestError(f"{name}={_shown(wanted)}: another field asks for {_shown(options[name])}", param=name)
    return BatchRequest(kind=kind, model=model, prompt=prompt, options=options, chat=chat)


def complaint(error: GenAIError) -> dict[str, JSON]:
    """The body of a response that is an error."""
    code = getattr(error, "code", None) or ("context_length_exceeded" if isinstance(error, CapacityError) else None)
    return {
        "error": {
            "message": str(error),
            "type": "invalid_request_error" if status_of(error) < 500 else "server_error",
            "param": error.param if isinstance(error, RequestError) else field_of(error),
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
        others = "".join(f", or {name!r}" for name in dict.fromkeys(models[1:]) if name != models[0])
        message = (
            f"model {_shown(model)}: this file is answered by {models[0]!r}{others}; leave the field out, or name one"
        )
        raise RequestError(message, param="model", code="model_not_found")
    return model


def _shown(value: object) -> str:
    """A value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
