"""Every error this library raises on purpose.

    GenAIError
    ├── ConfigError          an option, config file or request field is wrong
    │   ├── CapacityError    what was asked for cannot fit in memory or in the model's context
    │   │   ├── PromptTooLongError  the prompt alone leaves no room for an answer
    │   │   └── TextTooLongError    a text that is only read is longer than the context
    │   ├── TaskError        the model does something else than what it is asked for
    │   └── RequestError     a field of a request, which it names
    ├── QueueFullError       too many requests wait, or the engine is shutting down
    ├── DeadlineError        a request had no turn in the time that it was given
    ├── ModelError           a model cannot be used
    │   ├── ModelNotFoundError   no such model, file or folder
    │   ├── DownloadError        fetching weights failed (network, checksum, disk)
    │   ├── WeightsError         a GGUF or safetensors file is damaged or incomplete
    │   ├── UnsupportedModelError  an architecture or feature that is not supported
    │   ├── AdapterError         an adapter that is damaged, of another base, or something else than LoRA
    │   └── ContractError        a graph that does not follow the contract (genai/contract.py)
    ├── TokenizerError       a tokenizer or chat template cannot be built or applied
    ├── RuntimeUnavailableError  ONNX Runtime is missing, or its kernels are wrong or absent
    └── GraphRunError        ONNX Runtime failed while running a graph
        └── NotFiniteError       what it computed are no finite numbers

The command line prints `str(error)` as one line and exits with code 2.
Messages say what was wrong, what is allowed, and what to do next.
"""

from __future__ import annotations

import copy
from typing import TypeVar

E = TypeVar("E", bound="GenAIError | None")


class GenAIError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(GenAIError, ValueError):
    """An option, a configuration file or a request field is wrong."""


class CapacityError(ConfigError):
    """What was asked for does not fit in memory or in the model's context."""


class PromptTooLongError(CapacityError):
    """A prompt leaves no room for an answer. num_tokens: its length; most: that of the longest that does.

    is_least: it has more, which were not counted. The words are OpenAI's: clients look for them, and send less.
    """

    def __init__(self, num_tokens: int, most: int, is_least: bool = False) -> None:
        super().__init__(num_tokens, most, is_least)
        self.num_tokens = num_tokens
        self.most = most
        self.is_least = is_least

    def __str__(self) -> str:
        least = "at least " if self.is_least else ""
        return (
            f"This model's maximum context length is {self.most + 1} tokens. However, the prompt has {least}"
            f"{self.num_tokens} tokens; at most {self.most} leave room for an answer. Please reduce the length of the "
            "prompt."
        )


class TextTooLongError(CapacityError):
    """A text that is only read has more tokens than the model takes. place: which text, as whoever gave it calls it."""

    def __init__(self, num_tokens: int, most: int, place: str = "the text", is_least: bool = False) -> None:
        super().__init__(num_tokens, most, place, is_least)
        self.num_tokens = num_tokens
        self.most = most
        self.place = place
        self.is_least = is_least

    def __str__(self) -> str:
        least = "at least " if self.is_least else ""
        return (
            f"This model's maximum context length is {self.most} tokens. However, {self.place} has {least}"
            f"{self.num_tokens} tokens. Please reduce its length."
        )


class TaskError(ConfigError):
    """A model does something else than what it is asked for: it has no head to write with, or gives no embeddings."""


class RequestError(ConfigError):
    """A request asks for what cannot be done. param: the field at fault; code: a short name of the error."""

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class QueueFullError(GenAIError):
    """Too many requests are waiting, or the engine is shutting down."""


class DeadlineError(GenAIError):
    """A request had no turn in the time that it was given."""


class ModelError(GenAIError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No such model, file or folder."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DownloadError(ModelError):
    """Fetching weights failed: network, checksum or disk."""


class WeightsError(ModelError):
    """A weights file is damaged or incomplete."""


class UnsupportedModelError(ModelError):
    """The model uses an architecture or a feature that is not supported."""


class AdapterError(ModelError):
    """An adapter is damaged, of another base, has too large a rank, or is something else than LoRA."""


class ContractError(ModelError):
    """A graph does not follow the contract in `genai/contract.py`."""


class TokenizerError(GenAIError):
    """A tokenizer or a chat template cannot be built or applied."""


class RuntimeUnavailableError(GenAIError):
    """ONNX Runtime is missing, or a kernel that decoding needs is wrong or absent."""


class GraphRunError(GenAIError):
    """ONNX Runtime failed while running a graph."""


class NotFiniteError(GraphRunError):
    """Values of a model have overflowed."""

    def __init__(
        self, message: str = "the model's logits are not finite numbers; a package of higher precision may help"
    ) -> None:
        super().__init__(message)


def bare(error: E) -> E:
    """A copy of an error, for one thread to raise, without the frames that it came from.

    Whoever keeps those would keep the graph and the cache.
    """
    own = copy.copy(error)
    if own is not None and error is not None:
        own.__cause__ = error.__cause__
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return own
