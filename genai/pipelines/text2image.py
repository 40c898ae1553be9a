"""The `Text2Image` namespace of the ONNX generative-AI working group's preview interface: text in, pictures out.

There is no built-in backend. Where the preview is silent (defaults, the pictures' layout, progress) this module says
what holds for all.
Source: github.com/onnx/working-groups, generative-ai/genai-interfaces/include/pipelines/text2image_pipeline.hpp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from genai.errors import ConfigError
from genai.pipelines.data import Tensor

__all__ = ["GenerationConfig", "GenerationInput", "GenerationResult", "Pipeline", "Progress"]

Progress: TypeAlias = Callable[[int, int], bool | None]
"""Told (steps done, of how many) after each step of the first picture's; True ends it."""


@dataclass(frozen=True, slots=True)
class GenerationInput:
    """What is to be seen. Raises: ConfigError for an empty text."""

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise ConfigError("a picture needs a text that says what is to be seen")

    @classmethod
    def of(cls, given: GenerationInput | str) -> GenerationInput:
        """A string is an input's text, as the preview converts it."""
        return cls(given) if isinstance(given, str) else given


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How pictures are made. The preview has these four without defaults; None is the model's own.

    image_width, image_height: in pixels; num_inference_steps: of denoising; num_images_per_prompt: how many.
    Raises: ConfigError for what is no whole number above 0.
    """

    image_width: int | None = None
    image_height: int | None = None
    num_inference_steps: int | None = None
    num_images_per_prompt: int = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value: object = getattr(self, field.name)
            is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not is_number and not (value is None and field.default is None):
                raise ConfigError(f"{field.name}={value!r}: must be a whole number above 0")

    def updated(self, **options: int | None) -> Self:
        """The same with these options. Raises: ConfigError for an unknown one, or a bad value."""
        known = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if unknown := sorted(options.keys() - known.keys()):
            raise ConfigError(f"{unknown[0]}: no such option; there are {', '.join(known)}")
        return type(self)(**known | options)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """The pictures. tensor: [N, height, width, 3] uint8, red first."""

    tensor: Tensor


class Pipeline(Protocol):
    """A loaded model that makes pictures, with a configuration that holds until another is set."""

    def __call__(self, source: GenerationInput | str, progress: Progress | None = None) -> GenerationResult:
        """Make pictures of one text. Raises: GenAIError's kinds."""

    def get_generation_config(self) -> GenerationConfig:
        """The configuration in force; the model's own at first."""

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Use another from now on. Raises: ConfigError naming what this backend cannot do."""

    def close(self) -> None:
        """Free the model."""
