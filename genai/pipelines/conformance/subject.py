"""What the rules are tried on: a backend's pipelines, and what came of a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from genai.errors import ConfigError, GenAIError
from genai.options.generation_config import GenerationConfig
from genai.pipelines.text2text import GenerationInput, GenerationResult, Generator, Message, Pipeline, Streamer


class Violation(GenAIError):
    """A rule is not kept; the message says what was seen."""


class Refused(GenAIError):
    """The backend says that it has not what the rule is about."""


class Undecided(GenAIError):
    """The model's texts do not let the rule be looked at: they end too early, say."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A backend with a model.

    create: loads the model anew; prompt: a text that the model continues with at least 8 tokens; messages: a
    conversation, None for a model without a chat template.
    """

    create: Callable[[], Pipeline]
    prompt: str = "Once upon a time"
    messages: Sequence[Message] | None = ({"role": "user", "content": "Tell me a story."},)

    @cached_property
    def pipeline(self) -> Pipeline:
        """A pipeline that rules share; each sets its own configuration."""
        return self.create()

    @cached_property
    def own(self) -> GenerationConfig:
        """The configuration that the pipeline had at first."""
        return self.pipeline.get_generation_config()

    def configure(self, **options: object) -> GenerationConfig:
        """Set the model's own configuration with these options, greedy unless they say otherwise. Raises: Refused."""
        config = self.own.updated(**{"do_sample": False, "num_beams": 1, "max_new_tokens": 8} | options)
        try:
            self.pipeline.set_generation_config(config)
        except ConfigError as error:
            raise Refused(str(error)) from error
        return config

    def run(
        self, source: GenerationInput | str | None = None, streamer: Streamer | None = None, **options: object
    ) -> GenerationResult:
        """Continue the prompt, or another source, with these options. Raises: Refused."""
        self.configure(**options)
        return self.pipeline(self.prompt if source is None else source, streamer)

    def tokens(self, count: int) -> tuple[int, ...]:
        """The first tokens of the greedy text. Raises: Undecided if there are fewer."""
        found = self.run(max_new_tokens=count).token_ids
        if len(found) < count:
            raise Undecided(f"the text ends after {len(found)} tokens; give a prompt that is continued for longer")
        return found

    def generator(self, **options: object) -> Generator:
        """Begin a text step by step. Raises: Refused."""
        self.configure(**options)
        try:
            return self.pipeline.generator()
        except ConfigError as error:
            raise Refused(str(error)) from error

    def close(self) -> None:
        """Close the pipeline that rules share."""
        if "pipeline" in self.__dict__:
            self.pipeline.close()


def expect(is_so: bool, seen: str) -> None:
    """Raises: Violation with what was seen, unless it is so."""
    if not is_so:
        raise Violation(seen)
