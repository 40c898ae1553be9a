"""Ollama's API: what is asked for, and answered. Answers tell what Ollama's do of what there is to tell here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, JsonValue, model_validator

from genai.requests.base import JsonObject, Request, WholeRequest
from genai.requests.chat import Tools
from genai.requests.embeddings import few
from genai.requests.messages import Name
from server.schemas.common import Response


class OllamaOptions(Request):
    """How a text is made; what is about the machine is ignored."""

    num_predict: int | None = Field(default=None, description="Tokens at most; below 0: no limit.")
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    mirostat: Literal[0] | None = Field(default=None, description="Not known here.")


class OllamaRequest(WholeRequest):
    """What conversations and single texts have in common."""

    says_something: ClassVar[frozenset[str]] = frozenset({"messages", "prompt"})

    model: str = Field(description="A model's name, with or without `:latest`.")
    stream: bool | None = Field(None, description="False: one answer. Null: a line of JSON for each piece.")
    options: OllamaOptions = OllamaOptions()
    format: Literal["json"] | JsonObject | None = Field(None, description="`json`, or a JSON schema.")
    think: bool | Literal["low", "medium", "high"] | None = Field(None, description="Whether the model thinks first.")
    keep_alive: JsonValue = Field(None, description="How long a model stays is the server's setting `unload_after`.")


class OllamaFunction(Request):
    """A function that was called."""

    name: Name
    arguments: JsonObject = Field(default={})


class OllamaCall(Request):
    """A call that the model made."""

    function: OllamaFunction


class OllamaMessage(Request):
    """What was said."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[str] | None = Field(None, description="Not read: models here read text only.")
    tool_calls: Annotated[list[OllamaCall], Field(max_length=128)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChatRequest(OllamaRequest):
    """A conversation to be continued."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True, max_length=4096)] = Field(
        [], description="None: the model is loaded, and that is all."
    )
    tools: Tools | None = None


class OllamaGenerateRequest(OllamaRequest):
    """A text to be answered, or with `raw` continued."""

    prompt: str = Field("", description="Empty: the model is loaded, and that is all.")
    suffix: str | None = Field(None, description="What stands behind the gap that is to be filled.")
    system: str | None = None
    raw: bool | None = Field(None, description="The prompt as it is, without the chat template.")
    template: Literal[""] | None = Field(None, description="Not taken: templates are the model's own.")
    images: Annotated[list[str], Field(max_length=0)] | None = Field(None, description="Not read.")


class OllamaEmbedRequest(WholeRequest):
    """Texts to be embedded."""

    writes: ClassVar[bool] = False
    says_something: ClassVar[frozenset[str]] = frozenset({"input"})

    model: str = Field(description="A model's name, with or without `:latest`.")
    input: Annotated[str | Annotated[list[str], Field(fail_fast=True)], AfterValidator(few)] = Field(
        description="A text, or several. Empty: the model is loaded, and that is all."
    )
    truncate: bool | None = Field(None, description="False: texts that are too long are refused. Null: they are cut.")
    dimensions: int | None = Field(None, ge=1, description="Only so many first numbers of each.")
    options: JsonObject = Field(default={}, description="Nothing here changes embeddings.")
    keep_alive: JsonValue = Field(None, description="How long a model stays is the server's setting `unload_after`.")


class OllamaEmbeddingRequest(WholeRequest):
    """A text to be embedded."""

    writes: ClassVar[bool] = False
    says_something: ClassVar[frozenset[str]] = frozenset({"prompt"})

    model: str = Field(description="A model's name, with or without `:latest`.")
    prompt: str = Field(description="The text. Empty: the model is loaded, and that is all.")
    options: JsonObject = Field(default={}, description="Nothing here changes embeddings.")
    keep_alive: JsonValue = Field(None, description="How long a model stays is the server's setting `unload_after`.")


class OllamaShowRequest(Request):
    """A model by name."""

    model: str | None = None
    name: str | None = Field(None, description="Its older name.")

    @model_validator(mode="after")
    def _named(self) -> OllamaShowRequest:
        if self.model is None and self.name is None:
            raise ValueError("give the model's name as `model`")
        return self


class OllamaCounts(Response):
    """Tokens, and nanoseconds."""

    done: Literal[True] = True
    done_reason: str = Field(description="stop, length, or load.")
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class OllamaEmbeddings(Response):
    """Several texts' embeddings, in their order; nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class OllamaEmbedding(Response):
    """One text's."""

    embedding: list[float]


class OllamaDetails(Response):
    """What a model is."""

    parent_model: str = ""
    format: str = "onnx"
    family: str
    families: list[str]
    parameter_size: str = ""
    quantization_level: str


class OllamaModel(Response):
    """A model that is served."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaTags(Response):
    """All models."""

    models: list[OllamaModel]


class OllamaShown(Response):
    """A model, in detail."""

    modelfile: str = ""
    parameters: str = ""
    template: str
    details: OllamaDetails
    model_info: dict[str, JsonValue]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(Response):
    """A version."""

    version: str


class OllamaError(Response):
    """Every error of what is asked of a model."""

    error: str = Field(description="For people: what is wrong, what is allowed.")
