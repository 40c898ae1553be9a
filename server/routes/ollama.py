"""Ollama's paths: conversations and texts as lines of JSON, and what is served. Requests become OpenAI's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from genai.requests.base import read
from genai.requests.chat import ChatRequest, described
from genai.requests.completions import CompletionRequest, completion_options
from genai.requests.generation import options_of
from genai.tokenizer.infill import infill_ends, infill_prompt
from server.body import StrictRoute
from server.context import request_info
from server.errors import SHAPES, unless_gone
from server.generation import Work, start
from server.models import ServedModel
from server.openapi import GENERATING, KEYED, Responses, streaming
from server.reading import embed
from server.replies.common import rfc3339
from server.replies.ollama import (
    Told,
    beside_text,
    in_message,
    loaded_answer,
    ollama_answer,
    ollama_error_line,
    ollama_lines,
    ollama_shape,
)
from server.replies.parts import AnswerParts
from server.routes.chat import chat_work
from server.schemas.ollama import (
    OllamaChatRequest,
    OllamaCounts,
    OllamaDetails,
    OllamaEmbedding,
    OllamaEmbeddingRequest,
    OllamaEmbeddings,
    OllamaEmbedRequest,
    OllamaError,
    OllamaGenerateRequest,
    OllamaMessage,
    OllamaModel,
    OllamaRequest,
    OllamaShown,
    OllamaShowRequest,
    OllamaTags,
    OllamaVersion,
)
from server.sse import LineStream
from server.state import ServerState, State

if TYPE_CHECKING:
    from genai.tokenizer.tokenizer import Tokenizer

router = APIRouter(tags=["Ollama"], route_class=StrictRoute)

_CHAT, _GENERATE, _SHOW = "/api/chat", "/api/generate", "/api/show"
_EMBED, _EMBEDDINGS = "/api/embed", "/api/embeddings"
SHAPES.update(dict.fromkeys((_CHAT, _GENERATE, _SHOW, _EMBED, _EMBEDDINGS), ollama_shape))
_ERRORS: Responses = {status: {**told, "model": OllamaError} for status, told in GENERATING.items()}
_VECTORS: Responses = {200: {"model": OllamaEmbeddings}}
_VECTOR: Responses = {200: {"model": OllamaEmbedding}}
_ANSWER = streaming(OllamaCounts, "lines of JSON; null means true.")
_VERSION = "0.13.5"
"""The version of Ollama whose API this is: clients refuse those that are older than what they need."""


@router.get("/api/version", responses=KEYED)
async def api_version() -> OllamaVersion:
    """The version of Ollama whose API this is."""
    return OllamaVersion(version=_VERSION)


@router.get("/api/tags", responses=KEYED)
async def tags(state: State) -> OllamaTags:
    """The models that are served."""
    return OllamaTags(models=[_listed(model) for model in state.models.models])


@router.get("/api/ps", responses=KEYED)
async def loaded(state: State) -> OllamaTags:
    """The models that are loaded."""
    return OllamaTags(models=[_listed(model) for model in state.models.ready])


@router.post(_SHOW, responses=_ERRORS)
async def show(body: OllamaShowRequest, state: State) -> OllamaShown:
    """What a model is and can do."""
    model = await state.models.get(body.model or body.name)
    llm = model.llm.llm
    template = llm.tokenizer.chat_template or ""
    return OllamaShown(
        template=template,
        details=_details(model),
        model_info={
            "general.architecture": llm.config.model_type,
            f"{llm.config.model_type}.context_length": llm.max_seq_len,
            f"{llm.config.model_type}.embedding_length": llm.config.hidden_size,
        },
        capabilities=[each for each in model.capabilities if each != "rerank"],
        modified_at=_time(model),
    )


@router.post(_CHAT, responses=_ERRORS | _ANSWER)
async def chat(body: OllamaChatRequest, request: Request, state: State) -> Response:
    """Answer a conversation."""
    model = await state.models.get(body.model)
    if not body.messages:
        return _whole(loaded_answer(model.name, in_message))
    given = {**_asked(body), "messages": [_message(each) for each in body.messages]}
    given["tools"] = described(body.tools)
    work = chat_work(read(ChatRequest, given), state.settings)
    is_stream = body.stream is not False
    return await _answered(work, told=in_message, model=model, is_stream=is_stream, request=request, state=state)


@router.post(_GENERATE, responses=_ERRORS | _ANSWER)
async def generate(body: OllamaGenerateRequest, request: Request, state: State) -> Response:
    """Answer a text, continue it, or fill a gap in it."""
    model = await state.models.get(body.model)
    if not body.prompt and not body.suffix:
        return _whole(loaded_answer(model.name, beside_text))
    if body.raw or body.suffix:
        work = await asyncio.to_thread(_text_work, body, model.llm.llm.tokenizer)
    else:
        system = [{"role": "system", "content": body.system}] if body.system else []
        messages = [*system, {"role": "user", "content": body.prompt}]
        given = {**_asked(body), "messages": messages}
        work = chat_work(read(ChatRequest, given), state.settings)
    is_stream = body.stream is not False
    return await _answered(work, told=beside_text, model=model, is_stream=is_stream, request=request, state=state)


@router.post(_EMBED, responses=_ERRORS | _VECTORS)
async def embed_texts(body: OllamaEmbedRequest, request: Request, state: State) -> Response:
    """Embed one or several texts."""
    model = await state.models.get(body.model)
    if not body.input:
        return await _json(lambda: OllamaEmbeddings(model=model.asked_name, embeddings=[]))
    truncate = body.truncate is not False
    outcome = await embed(
        model, body.input, request, state, param="input", dimensions=body.dimensions, truncate=truncate
    )
    seconds = request_info().seconds
    return await _json(
        lambda: OllamaEmbeddings(
            model=model.asked_name,
            embeddings=outcome.values.tolist(),
            total_duration=int(seconds * 1e9),
            prompt_eval_count=outcome.prompt_tokens,
        )
    )


@router.post(_EMBEDDINGS, responses=_ERRORS | _VECTOR)
async def embed_text(body: OllamaEmbeddingRequest, request: Request, state: State) -> Response:
    """Embed a text: Ollama's older path."""
    model = await state.models.get(body.model)
    if not body.prompt:
        return await _json(lambda: OllamaEmbedding(embedding=[]))
    outcome = await embed(model, body.prompt, request, state, param="prompt", truncate=True)
    return await _json(lambda: OllamaEmbedding(embedding=outcome.values[0].tolist()))


async def _json(told: Callable[[], BaseModel]) -> Response:
    """An answer that is made and written beside the event loop: it may have millions of numbers."""
    return Response(await asyncio.to_thread(lambda: told().model_dump_json()), media_type="application/json")


async def _answered(
    work: Work, *, told: Told, model: ServedModel, is_stream: bool, request: Request, state: ServerState
) -> Response:
    running = await start(model, work, state)
    if is_stream:
        return state.event_stream(ollama_lines(model.asked_name, running, told), ollama_error_line, LineStream)
    parts = await unless_gone(request.receive, AnswerParts(says_something=False).follow_to_the_end(running))
    return _whole(ollama_answer(model.asked_name, parts, told))


def _whole(fields: Mapping[str, object]) -> Response:
    return Response(json.dumps(fields, ensure_ascii=False, allow_nan=False), media_type="application/json")


def _options(body: OllamaRequest) -> dict[str, object]:
    """A request's options as OpenAI's fields."""
    given = body.options.model_dump(exclude_none=True, exclude={"num_predict", "repeat_penalty", "mirostat"})
    limit, penalty = body.options.num_predict, body.options.repeat_penalty
    if limit is not None:
        given["max_tokens"] = max(limit, -1)
    if penalty is not None:
        given["repetition_penalty"] = penalty
    return given


def _asked(body: OllamaRequest) -> dict[str, object]:
    """What goes with messages, as OpenAI's fields."""
    given = _options(body)
    if body.think is not None:
        efforts = {True: "medium", False: "none"}
        given["reasoning_effort"] = efforts[body.think] if isinstance(body.think, bool) else body.think
    if body.format == "json":
        given["response_format"] = {"type": "json_object"}
    elif body.format is not None:
        given["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": body.format}}
    return given


def _message(message: OllamaMessage) -> dict[str, object]:
    told: dict[str, object] = {"role": message.role, "content": message.content}
    if message.images:
        images = [{"type": "image_url", "image_url": {"url": f"data:;base64,{each}"}} for each in message.images]
        told["content"] = [{"type": "text", "text": message.content}, *images]
    if message.thinking:
        told["reasoning_content"] = message.thinking
    if message.tool_calls:
        told["tool_calls"] = [
            {"type": "function", "function": each.function.model_dump()} for each in message.tool_calls
        ]
    names = {"name": message.tool_name, "tool_call_id": message.tool_call_id}
    return told | {name: value for name, value in names.items() if value is not None}


def _text_work(body: OllamaGenerateRequest, tokenizer: Tokenizer) -> Work:
    """Raises: RequestError, ConfigError for a gap that the model cannot fill."""
    completion = read(CompletionRequest, {**_options(body), "prompt": body.prompt})
    options = {"max_new_tokens": None, **completion_options(completion, options_of(completion, "completion"))}
    if body.format is not None:
        options |= {"json_object": True} if body.format == "json" else {"json_schema": body.format}
    if not body.suffix:
        return Work(prompts=[body.prompt], options=options, param="prompt")
    prompt = infill_prompt(tokenizer, body.prompt, body.suffix)
    return Work(prompts=[prompt], options=options | {"stop_token_ids": infill_ends(tokenizer)}, param="prompt")


def _listed(model: ServedModel) -> OllamaModel:
    digest = model.llm.llm.config.provenance.sha256 if model.loaded else ""
    return OllamaModel(
        name=model.name,
        model=model.name,
        modified_at=_time(model),
        size=model.num_bytes,
        digest=digest,
        details=_details(model),
    )


def _details(model: ServedModel) -> OllamaDetails:
    config = model.llm.llm.config if model.loaded else None
    family = config.model_type if config else ""
    return OllamaDetails(
        family=family,
        families=[family] if family else [],
        quantization_level=config.provenance.precision if config else "",
    )


def _time(model: ServedModel) -> str:
    return rfc3339(model.created)
