"""Adapters that come and go while the server runs: vLLM's paths, for administrators, and llama.cpp's list."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from server.body import StrictRoute
from server.openapi import GENERATING, KEYED, Responses, errors
from server.schemas.adapters import LlamaAdapter, LoadAdapterRequest, UnloadAdapterRequest
from server.state import State

router = APIRouter(tags=["models"], route_class=StrictRoute)

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
ADMIN_PATHS = (LOAD, UNLOAD)
"""What only administrators may do."""
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


@router.get("/lora-adapters", responses=KEYED)
async def list_adapters(state: State) -> list[LlamaAdapter]:
    """The adapters of all models."""
    paths = [path for model in state.models.models for path in model.adapters.values()]
    return [LlamaAdapter(id=number, path=path, scale=0.0) for number, path in enumerate(paths)]
