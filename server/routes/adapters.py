"""Adapters that come and go while the server runs: vLLM's paths, for administrators, and llama.cpp's list."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from server import scales
from server.body import StrictRoute
from server.openapi import GENERATING, KEYED, Responses, errors
from server.schemas.adapters import Done, LlamaAdapter, LoadAdapterRequest, UnloadAdapterRequest, UsualScales
from server.state import State

router = APIRouter(tags=["models"], route_class=StrictRoute)

LOAD, UNLOAD, SCALES = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/lora-adapters"
ADMIN_PATHS = (LOAD, UNLOAD, SCALES)
"""What only administrators may do, but for looking."""
_SAID: Responses = {200: {"description": "It is done.", "content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.post(LOAD, responses=GENERATING | errors(409) | _SAID, response_class=Response)
async def load_adapter(body: LoadAdapterRequest, state: State) -> PlainTextResponse:
    """Load a LoRA adapter; from then on its name is a model's, while all other texts go on. For administrators."""
    model = await state.models.load_adapter(body.lora_name, body.lora_path, body.base_model_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully, to {model.name}.")


@router.post(UNLOAD, responses=GENERATING | _SAID, response_class=Response)
async def unload_adapter(body: UnloadAdapterRequest, state: State) -> PlainTextResponse:
    """Unload a LoRA adapter; texts that have it go on to their end with it. For administrators."""
    await state.models.unload_adapter(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


@router.get(SCALES, responses=KEYED)
async def list_adapters(state: State) -> list[LlamaAdapter]:
    """The adapters of all models, by number."""
    listed = []
    for model in state.models.models:
        usual, scale = model.usual or (None, 0.0)
        for name, path in model.adapters.items():
            number = state.models.adapter_numbers[name]
            listed.append(LlamaAdapter(id=number, path=path, scale=scale if name == usual else 0.0))
    return sorted(listed, key=lambda each: each.id)


@router.post(SCALES, responses=GENERATING)
async def scale_adapters(body: UsualScales, state: State) -> Done:
    """Say which adapters requests get that name a model and no adapter, as llama.cpp does. For administrators."""
    scales.make_usual(state.models, body.root)
    return Done()
