"""`/v1/models` and the state of the server."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.schemas.common import Response


class Model(Response):
    """A model that is served. Beyond OpenAI's fields: state and max_model_len."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the server began to load it, in seconds since 1970.")
    owned_by: str = "genai"
    state: Literal["loading", "ready", "failed"]
    max_model_len: int | None = Field(description="Longest sequence in tokens, prompt and answer together.")


class ModelList(Response):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(Response):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(Response):
    """Whether requests are answered now."""

    status: Literal["ready", "loading", "draining", "failed"]
    models: dict[str, Literal["loading", "ready", "failed"]]


class RowStatus(Response):
    """One row of the KV cache."""

    valid: int = Field(description="Tokens whose keys and values it holds.")
    capacity: int = Field(description="Tokens it has room for where it lies.")


class CacheStatus(Response):
    """The arena of keys and values, allocated once."""

    used_bytes: int = Field(default=0, description="Those of the rows' valid tokens.")
    total_bytes: int = Field(default=0, description="The whole arena.")


class PrefixCacheStatus(Response):
    """How often prompts begin with what is known, since the server began."""

    prompt_tokens: int = Field(default=0, description="Tokens of all prompts.")
    hits: int = Field(default=0, description="Those of them whose keys and values were found.")
    bytes: int = Field(default=0, description="Keys and values of earlier prompts that are kept now.")


class ModelStatus(Response):
    """What one model is doing."""

    state: Literal["loading", "ready", "failed"]
    running: int = Field(default=0, description="Sequences that have a row.")
    waiting: int = Field(default=0, description="Sequences that wait for one.")
    rows: list[RowStatus] = Field(default=[], description="In the order in which they lie.")
    cache: CacheStatus = CacheStatus()
    max_batch: int = Field(default=0, description="Most sequences that run together.")
    max_model_len: int = Field(default=0, description="Longest sequence in tokens.")
    prefix_cache: PrefixCacheStatus = PrefixCacheStatus()
    generated_tokens: int = Field(default=0, description="Tokens generated since the server began.")
    tokens_per_second: float = Field(default=0.0, description="Tokens generated a second, lately.")


class ServerStatus(Response):
    """What the server is doing: the sum of all models, and each of them."""

    status: Literal["ready", "loading", "draining", "failed"]
    running: int
    waiting: int
    rows: list[RowStatus] = Field(description="Those of all models.")
    cache: CacheStatus
    tokens_per_second: float
    prefix_cache: PrefixCacheStatus
    requests: int = Field(description="HTTP requests being answered.")
    models: dict[str, ModelStatus]
