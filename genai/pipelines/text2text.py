"""The `Text2Text` namespace of the ONNX generative-AI working group's preview interface: text in, text out.

A backend is whoever implements `Pipeline` (and `Generator`, if it can go step by step). The preview's names are kept,
in Python's spelling; where it is silent (streaming, token ids, chat messages) this module says what holds for all.
Source: github.com/onnx/working-groups, generative-ai/genai-interfaces/include/pipelines/text2text_pipeline.hpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from genai.errors import ConfigError
from genai.options.generation_config import BeamSearchConfig, GenerationConfig, SamplingConfig

if TYPE_CHECKING:
    from genai.llm.results import Generation

__all__ = [
    "BeamSearchConfig",
    "GenerationConfig",
    "GenerationInput",
    "GenerationResult",
    "Generator",
    "Message",
    "Pipeline",
    "SamplingConfig",
    "Streamer",
]

Message: TypeAlias = Mapping[str, object]
"""One turn of a conversation: `{"role": "user", "content": "Hi"}`."""

Streamer: TypeAlias = Callable[[str], bool | None]
"""Takes each piece of the text when it is there; the pieces joined are the text. True ends the text."""


@dataclass(frozen=True, slots=True)
class GenerationInput:
    """What is to be continued, one of three.

    text: continued as it stands, no chat template around it; messages: the whole conversation, through the model's own
    chat template; token_ids: tokens as they are. Raises: ConfigError unless exactly one is given.
    """

    text: str | None = None
    messages: Sequence[Message] | None = field(default=None, kw_only=True)
    token_ids: Sequence[int] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given = [name for name in ("text", "messages", "token_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"an input is one of text, messages or token_ids, not {' and '.join(given) or 'none'}")

    @classmethod
    def of(cls, given: GenerationInput | str) -> GenerationInput:
        """A string is an input's text, as the preview converts it."""
        return cls(given) if isinstance(given, str) else given


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """What came of it.

    text: the text, or the first of several; token_ids: its generated tokens; finish_reason: "stop" (end of sequence or
    a stop string), "length" or "cancelled" (by the streamer); texts: all of them, best first; generation: all else that
    the native backend knows (log probabilities, tool calls, timings), None from others.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    texts: tuple[str, ...]
    generation: Generation | None = None


class Generator(Protocol):
    """One text, token by token. A pipeline's `generator` makes one; call `close` when done."""

    @property
    def token_ids(self) -> list[int]:
        """All tokens so far: appended and generated."""

    def append_input_tokens(self, tokens: str | Sequence[int]) -> None:
        """Add a text, or token ids, to what is to be continued."""

    def generate_next_token(self) -> str:
        """Choose the next token; the text that is complete with it, perhaps none. Raises: ConfigError at the end."""

    def is_done(self) -> bool:
        """Whether the text has ended: an end-of-sequence token, or a limit."""

    def close(self) -> None:
        """Free what the text holds."""


class Pipeline(Protocol):
    """A loaded model that continues texts, with a configuration that holds until another is set."""

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        """Continue one input. Raises: GenAIError's kinds."""

    def get_generation_config(self) -> GenerationConfig:
        """The configuration in force; the model's own at first."""

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Use another from now on. Raises: ConfigError naming what this backend cannot do."""

    def generator(self) -> Generator:
        """Begin a text step by step, with the configuration in force. Raises: ConfigError."""

    def close(self) -> None:
        """Free the model."""
