"""Adapters that come and go: vLLM's requests, and llama.cpp's list."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, RootModel, StringConstraints

from genai.config import MAX_ADAPTER_SCALE
from genai.requests.base import Request
from server.schemas.common import Response

_Name = Annotated[str, StringConstraints(min_length=1, max_length=300)]


class LoadAdapterRequest(Request):
    """An adapter to be loaded and served from now on."""

    lora_name: _Name = Field(description="What requests will give as their model.")
    lora_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="A PEFT folder or a GGUF file on the server's machine."
    )
    base_model_name: _Name | None = Field(None, description="The model that it changes; left out: the first one.")


class UnloadAdapterRequest(Request):
    """An adapter that is to be served no longer."""

    lora_name: _Name
    lora_int_id: int | None = Field(None, description="vLLM's number of it; not needed here.")


class LlamaScale(Request):
    """An adapter by its number, and what it is multiplied by."""

    id: int = Field(ge=0, description="Its number, as `GET /lora-adapters` tells it.")
    scale: float = Field(ge=-MAX_ADAPTER_SCALE, le=MAX_ADAPTER_SCALE, description="0: as if it were not there.")


LlamaScales = Annotated[list[LlamaScale], Field(max_length=1000)]


class UsualScales(RootModel[LlamaScales]):
    """What requests get that ask for no adapter; 0 of those that are not named."""


class LlamaAdapter(Response):
    """An adapter as llama.cpp lists it."""

    id: int
    path: str
    scale: float = Field(description="What it is multiplied by for requests that name its model and no adapter.")


class Done(Response):
    """It is done."""

    success: bool = True
