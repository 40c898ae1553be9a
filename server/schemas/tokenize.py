"""`POST /tokenize` and `POST /detokenize`, as vLLM has them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from genai.requests.base import ModelName, TokenIds, WholeRequest
from genai.requests.chat import Tools
from genai.requests.generation import ChatTemplateOptions
from genai.requests.messages import Messages
from server.schemas.common import Response


class TokenizeRequest(WholeRequest):
    """A text, or a conversation."""

    writes: ClassVar[bool] = False
    says_something: ClassVar[frozenset[str]] = frozenset({"prompt", "content"})

    model: ModelName = None
    prompt: str | None = Field(None, description="The text; or give `messages`.")
    add_special_tokens: bool | None = Field(None, description="The text's begin and end, as the model wants them.")
    content: str | None = Field(None, description="llama.cpp's name of the prompt.")
    add_special: bool | None = Field(None, description="With `content`: the text's begin and end. Null: false.")
    with_pieces: bool | None = Field(None, description="With `content`: tell each token with its text.")
    messages: Messages | None = Field(None, description="The conversation; or give `prompt`.")
    add_generation_prompt: bool | None = Field(None, description="With messages: begin the answer. Null: true.")
    continue_final_message: bool | None = Field(
        None, description="With messages: end where the last one, an assistant's, does; so does its `prefix: true`."
    )
    tools: Tools | None = Field(None, description="With messages: the tools that the model is told about.")
    chat_template_kwargs: ChatTemplateOptions | None = Field(None, description="With messages: template variables.")
    return_token_strs: bool | None = Field(None, description="Tell the tokens' texts too.")

    @model_validator(mode="after")
    def _either(self) -> TokenizeRequest:
        if [self.prompt, self.content, self.messages].count(None) != 2:
            raise ValueError("give either prompt or messages")
        if self.messages is None:
            for name in ("add_generation_prompt", "continue_final_message", "tools", "chat_template_kwargs"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} goes with messages, not with a prompt")
        elif self.add_special_tokens is not None:
            raise ValueError("add_special_tokens goes with a prompt: a chat template writes special tokens itself")
        return self


class Piece(Response):
    """A token and its text."""

    id: int
    piece: str


class Tokenized(Response):
    """Token ids."""

    count: int
    max_model_len: int
    tokens: list[int] | list[Piece] = Field(description="Token ids; pieces, where `with_pieces` asks for them.")
    token_strs: list[str] | None


class DetokenizeRequest(WholeRequest):
    """Token ids."""

    writes: ClassVar[bool] = False
    model: ModelName = None
    tokens: Annotated[TokenIds, Field(max_length=1 << 20)]
    skip_special_tokens: bool | None = Field(None, description="Leave special tokens out. Null: false.")


class Detokenized(Response):
    """Their text."""

    prompt: str
    content: str = Field(description="The same, as llama.cpp calls it.")
