"""`/v1/models` and the state of the server."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from genai.config import Precision
from genai.requests.base import Request
from server.schemas.common import Response

ModelState: TypeAlias = Literal["unloaded", "loading", "ready", "failed"]


class Model(Response):
    """A model that is served. Beyond OpenAI's fields: Anthropic's, state, aliases, max_model_len and capabilities."""

    id: str
    object: Literal["model"] = "model"
    type: Literal["model"] = "model"
    created: int = Field(description="When the server came to know it, in seconds since 1970.")
    created_at: str = Field(description="The same, as RFC 3339 writes it.")
    display_name: str
    owned_by: str = "genai"
    state: ModelState
    aliases: list[str] = Field(description="Other names that requests may give; * and ? stand for anything.")
    parent: str | None = Field(default=None, description="Of an adapter: the model that it changes.")
    root: str | None = Field(default=None, description="Of an adapter: where it lies.")
    max_model_len: int | None = Field(description="Longest sequence in tokens, once it is loaded.")
    capabilities: list[str] | None = Field(
        description="What it can do, once it is loaded: `completion`, `tools`, `rerank`; or `embedding`."
    )


class ModelName(Response):
    """A model as llama.cpp lists it, too."""

    name: str
    model: str


class ModelList(Response):
    """All models, at once: there are no further pages."""

    object: Literal["list"] = "list"
    data: list[Model]
    models: list[ModelName]
    first_id: str
    last_id: str
    has_more: Literal[False] = False


class NamedModel(Request):
    """A model by one of its names."""

    model: str


class PullRequest(Request):
    """A model to be brought here and served from now on."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=300)] = Field(
        description="A known name, or a hub id: organisation/name, organisation/name:Q4_K_M."
    )
    name: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = Field(
        None, description="What requests call it; left out: as it is pulled."
    )
    precision: Precision | None = Field(None, description="Its weights' precision, if not that of all models.")
    stream: bool | None = Field(None, description="False: one answer when it is here, instead of events. Null: true.")


class PullProgress(Response):
    """What is being done, as Ollama tells it."""

    status: str = Field(description="What is being done; `success` at the end.")
    completed: int | None = Field(default=None, description="How much of it.")
    total: int | None = None


class Health(Response):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(Response):
    """Whether requests are answered now."""

    status: Literal["ready", "loading", "draining", "failed"]
    models: dict[str, ModelState]


class RowStatus(Response):
    """One row of the KV cache."""

    valid: int = Field(description="Tokens whose keys and values it holds.")
    capacity: int = Field(description="Tokens it has room for where it lies.")
    state_bytes: int = Field(default=0, description="Its states, of one size however many tokens it holds.")


class CacheStatus(Response):
    """The arena of keys and values, allocated once."""

    used_bytes: int = Field(default=0, description="Those of the rows' valid tokens.")
    idle_rows: int = Field(default=0, description="Rows of ended texts, which stay while nobody needs their room.")
    idle_bytes: int = Field(default=0, description="Those of the idle rows' tokens: part of what is free.")
    total_bytes: int = Field(default=0, description="The whole arena.")


class PrefixCacheStatus(Response):
    """How often prompts begin with what is known, since the server began."""

    prompt_tokens: int = Field(default=0, description="Tokens of all prompts.")
    hits: int = Field(default=0, description="Those of them whose keys and values were found.")
    bytes: int = Field(default=0, description="Keys and values of earlier prompts that are kept now, and states.")
    snapshots: int = Field(default=0, description="Lengths of texts whose states are kept, of models that have some.")


class ModelStatus(Response):
    """What one model is doing."""

    state: ModelState
    running: int = Field(default=0, description="Sequences that have a row.")
    waiting: int = Field(default=0, description="Sequences that wait for one.")
    rows: list[RowStatus] = Field(default=[], description="In the order in which they lie.")
    cache: CacheStatus = CacheStatus()
    max_batch: int = Field(default=0, description="Most sequences that run together.")
    max_model_len: int = Field(default=0, description="Longest sequence in tokens.")
    same_bits: str = Field(default="", description="Whether a text is the same to the bit whatever runs beside it.")
    prefix_cache: PrefixCacheStatus = PrefixCacheStatus()
    generated_tokens: int = Field(default=0, description="Tokens generated since the server began.")
    tokens_per_second: float = Field(default=0.0, description="Tokens generated a second, lately.")


class ReplicaStatus(Response):
    """What one of several replicas is doing."""

    id: str
    node: str = Field(description="The machine that it is on.")
    models: list[str] = Field(description="What it serves.")
    status: Literal["ready", "loading", "draining", "failed"]
    running: int
    waiting: int
    requests: int
    tokens_per_second: float
    prefix_cache: PrefixCacheStatus


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
    replicas: list[ReplicaStatus] = Field(
        default=[], description="Where there are several: all this is their sum, and here is each."
    )
