"""The native API of llama.cpp's server: what is asked for, and answered."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from genai.requests.base import JsonObject, ModelName, Request
from genai.requests.chat import Tools
from genai.requests.completions import CompletionRequest, Texts, TokenLists, Tokens
from genai.requests.generation import ChatTemplateOptions
from genai.requests.messages import Messages
from server.schemas.adapters import LlamaScales
from server.schemas.common import Response


class LlamaCompletionRequest(CompletionRequest):
    """A text to be continued, in llama.cpp's words: `n_predict`, `n_probs`, grammars in GBNF."""

    n_probs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="Tell so many likely tokens each.")
    json_schema: JsonObject | None = Field(None, description="The text is JSON that follows this schema.")
    grammar: str | None = Field(None, description="The text follows this grammar (GBNF).")
    return_tokens: bool | None = Field(None, description="Tell the token ids too.")
    lora: LlamaScales | None = Field(None, description="The adapter that is to be used: one at most above 0.")


class InputFile(Request):
    """Another file."""

    filename: str = ""
    text: str


class InfillRequest(LlamaCompletionRequest):
    """Text into a gap."""

    says_something: ClassVar[frozenset[str]] = frozenset({"input_prefix", "input_suffix"})

    prompt: str | Texts | Tokens | TokenLists = Field("", description="What the gap begins with already.")
    input_prefix: str = Field(description="What stands before the gap.")
    input_suffix: str = Field(description="What stands behind it.")
    input_extra: Annotated[list[InputFile], Field(max_length=1000)] | None = Field(
        None, description="What other files say."
    )


class LlamaTimings(Response):
    """Counts and milliseconds."""

    prompt_n: int
    prompt_ms: float
    prompt_per_second: float | None
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None
    cache_n: int = Field(description="Tokens of the prompt that were known.")


class GenerationSettings(Response):
    """What an answer was made under."""

    n_ctx: int


class LlamaCompletion(Response):
    """An answer, whole; or of a stream its last piece, whose content is what had not been told."""

    index: int = 0
    content: str
    tokens: list[int]
    stop: bool = True
    id_slot: int = -1
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    generation_settings: GenerationSettings
    truncated: bool = False
    stop_type: str = Field(description="eos, word or limit.")
    stopping_word: str
    timings: LlamaTimings
    completion_probabilities: list[dict[str, object]] | None = None


class ApplyTemplateRequest(Request):
    """A conversation to be written out."""

    model: ModelName = None
    messages: Messages
    tools: Tools | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: ChatTemplateOptions | None = None


class AppliedTemplate(Response):
    """The prompt as text."""

    prompt: str


class Slot(Response):
    """A place for a text that runs."""

    id: int
    n_ctx: int
    is_processing: bool
    n_past: int = Field(0, description="Tokens whose keys and values it holds.")


class Modalities(Response):
    """What models read beside text."""

    vision: bool = False
    audio: bool = False


class Props(Response):
    """What a model is, and how it is run."""

    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    bos_token: str
    eos_token: str
    modalities: Modalities = Modalities()
    build_info: str
