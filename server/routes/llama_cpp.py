"""llama.cpp's own paths: `/completion`, `/infill`, `/props`, `/slots`, `/apply-template`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.errors import RequestError
from genai.grammar.gbnf import lark_of_gbnf
from genai.requests.chat import described
from genai.requests.completions import completion_options, prompts_of
from genai.requests.generation import options_of
from genai.requests.messages import template_messages
from genai.tokenizer.infill import OtherFile, infill_ends, infill_prompt
from server import scales
from server.body import StrictRoute
from server.errors import unless_gone
from server.generation import Work, start
from server.openapi import GENERATING, KEYED, Responses, errors, streaming
from server.replies.llama_cpp import llama_completion, llama_events, whole_json
from server.schemas.llama_cpp import (
    AppliedTemplate,
    ApplyTemplateRequest,
    GenerationSettings,
    InfillRequest,
    LlamaCompletion,
    LlamaCompletionRequest,
    Props,
    Slot,
)
from server.state import ServerState, State

if TYPE_CHECKING:
    from genai.llm.prepare import Prompt
    from genai.tokenizer.tokenizer import Tokenizer
    from server.models import ServedModel

router = APIRouter(tags=["llama.cpp"], route_class=StrictRoute)

_TOLD = streaming(LlamaCompletion, "events: pieces of the text, and at the end its counts.")[200]
_ANSWER: Responses = {200: {**_TOLD, "model": LlamaCompletion | list[LlamaCompletion]}}
"""Of several prompts a list."""
_ASKING = KEYED | errors(404)


@router.post("/completion", responses=GENERATING | _ANSWER)
async def completion(body: LlamaCompletionRequest, request: Request, state: State) -> Response:
    """Continue one or several texts."""
    model = await state.models.get(body.model)
    return await _answered(model, body, prompts_of(body), request, state)


@router.post("/infill", responses=GENERATING | _ANSWER)
async def infill(body: InfillRequest, request: Request, state: State) -> Response:
    """Write what stands between two texts, with a model that was taught to."""
    model = await state.models.get(body.model)
    tokenizer = model.llm.llm.tokenizer
    tokens = await asyncio.to_thread(_infill_tokens, body, tokenizer)
    return await _answered(model, body, [tokens], request, state, stop_token_ids=infill_ends(tokenizer))


@router.get("/props", responses=_ASKING)
async def props(state: State, model: str | None = None) -> Props:
    """What a model is, and how it is run."""
    served = await state.models.get(model)
    llm = served.llm.llm
    tokenizer = llm.tokenizer
    return Props(
        default_generation_settings=GenerationSettings(n_ctx=llm.max_seq_len),
        total_slots=llm.engine_config.max_batch,
        model_alias=served.name,
        model_path=served.settings.source,
        chat_template=tokenizer.chat_template or "",
        bos_token=_token(tokenizer, tokenizer.bos_token_id),
        eos_token=_token(tokenizer, next(iter(tokenizer.eos_token_ids), None)),
        build_info=f"onnx-kv-runtime {version('onnx-kv-runtime')}",
    )


@router.get("/slots", responses=_ASKING)
async def slots(state: State, model: str | None = None) -> list[Slot]:
    """The places for texts that run together, and what they hold."""
    llm = (await state.models.get(model)).llm
    rows = llm.engine.cache_status.rows
    return [
        Slot(
            id=number,
            n_ctx=llm.llm.max_seq_len,
            is_processing=number < len(rows),
            n_past=rows[number].valid if number < len(rows) else 0,
        )
        for number in range(llm.llm.engine_config.max_batch)
    ]


@router.post("/apply-template", responses=GENERATING)
async def apply_template(body: ApplyTemplateRequest, state: State) -> AppliedTemplate:
    """A conversation as the text that the model is given."""
    tokenizer = (await state.models.get(body.model)).llm.llm.tokenizer
    return await asyncio.to_thread(_applied, body, tokenizer)


async def _answered(
    model: ServedModel,
    body: LlamaCompletionRequest,
    prompts: Sequence[Prompt],
    request: Request,
    state: ServerState,
    **options: object,
) -> Response:
    if body.lora:
        options["adapter"] = scales.asked(state.models, model, body.lora)
    work = Work(prompts=prompts, options=_options(body, state) | options, param="prompt")
    running = await start(model, work, state)
    if body.stream:
        return state.event_stream(llama_events(model, body, running))
    results = await unless_gone(request.receive, running.results())
    answers = [llama_completion(model, body, result, index) for index, result in enumerate(results)]
    return Response(whole_json(answers), media_type="application/json")


def _options(body: LlamaCompletionRequest, state: ServerState) -> dict[str, object]:
    """All options of a request. Raises: RequestError, ConfigError."""
    given = options_of(body, "completion")
    for name, usual in (("n", 1), ("echo", False)):
        if given.get(name, usual) != usual:
            raise RequestError(f"{name}: ask /v1/completions", code="unsupported_parameter", param=name)
    if body.grammar:
        given["lark"] = lark_of_gbnf(body.grammar)
    if body.json_schema is not None:
        given["json_schema"] = body.json_schema
    if body.n_probs:
        given |= {"logprobs": True, "top_logprobs": body.n_probs}
    return {"max_new_tokens": state.settings.default_max_tokens, **completion_options(body, given)}


def _applied(body: ApplyTemplateRequest, tokenizer: Tokenizer) -> AppliedTemplate:
    variables: dict[str, Any] = dict(body.chat_template_kwargs or {})
    text = tokenizer.render_chat(
        template_messages(body.messages),
        add_generation_prompt=body.add_generation_prompt is not False,
        tools=described(body.tools),
        **variables,
    )
    return AppliedTemplate(prompt=text)


def _infill_tokens(body: InfillRequest, tokenizer: Tokenizer) -> list[int]:
    """Raises: RequestError for several prompts, ConfigError for a model that was not taught to."""
    if not isinstance(body.prompt, str):
        raise RequestError("prompt: must be a text, what the gap begins with", code="invalid_type", param="prompt")
    others = [OtherFile(name=each.filename, text=each.text) for each in body.input_extra or ()]
    prompt = infill_prompt(tokenizer, body.input_prefix, body.input_suffix, others)
    return prompt + tokenizer.encode(body.prompt, add_special_tokens=False)


def _token(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.id_to_token(token_id) or ""
