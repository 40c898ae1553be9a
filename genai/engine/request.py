"""What is asked of the engine, and the sequences that come of it."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import numpy as np

from genai.decoding.beam_search import BeamSearch
from genai.decoding.constraint import Constraint
from genai.decoding.sampler import Sampler
from genai.engine.beams import BeamRun
from genai.engine.consumers import Consumer, Keep, Sample
from genai.engine.drafting.draft_model import DraftModel, ModelProposer
from genai.engine.drafting.drafts import Drafter
from genai.engine.drafting.speculative import PromptLookup
from genai.engine.sequence import Job, Sequence, Sink, State
from genai.errors import CapacityError, ConfigError, PromptTooLongError, TextTooLongError
from genai.options.generation_config import GenerationConfig, SamplingConfig, replaced
from genai.runtime.adapters import LoadedAdapter, ScaledAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and how to continue it.

    priority: lower runs first; timeout: seconds from submission until it ends with "timeout"; sink: who follows it;
    bad_words, dry_breakers: what the strings in the configuration are as tokens; newline_tokens: those that XTC leaves
    as it does ends; constraint: what every text has to match, fresh; draft_model: foresees tokens; is_manual: run when
    logits are asked for, and keep them until a token is; reader: takes what the graph gives, where no text is to be
    written, fresh; adapter: what changes the model for it.
    Raises: ConfigError.
    """

    prompt: abc.Sequence[int]
    config: GenerationConfig
    priority: int = 0
    timeout: float | None = None
    sink: Sink | None = None
    bad_words: abc.Sequence[abc.Sequence[int]] = ()
    dry_breakers: frozenset[int] = frozenset()
    newline_tokens: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    draft_model: DraftModel | None = None
    is_manual: bool = False
    reader: Consumer | None = None
    adapter: ScaledAdapter | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.priority, int | np.integer):
            raise ConfigError(f"priority={self.priority!r}: must be a whole number; lower runs first")
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and self.timeout >= 0):
            raise ConfigError(f"timeout={self.timeout!r}: must be seconds, at least 0, or None")
        if self.draft_model is not None and self.config.is_beam_search:
            raise ConfigError("draft cannot be had with num_beams above 1: beams fork at every token")
        if self.draft_model is not None and self.config.speculative is not None:
            raise ConfigError(f"draft and speculative={self.config.speculative!r}: one of them drafts; leave one out")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What of the model a request is checked against."""

    vocab_size: int
    max_seq_len: int
    eos_token_ids: tuple[int, ...]


def check(request: Request, model: ModelLimits) -> None:
    """Refuse what can never be done. Raises: ConfigError, CapacityError."""
    prompt, config, limit = request.prompt, request.config, model.max_seq_len
    if not len(prompt):
        raise ConfigError("the prompt has no tokens; give at least one")
    if request.adapter is not None and request.adapter.loaded.is_leaving:
        raise unloaded(request.adapter.loaded)
    sampling = config.sampling_config
    for what, tokens in {
        "token id": prompt,
        "eos_token_ids: token id": config.eos_token_ids or (),
        "stop_token_ids: token id": config.stop_token_ids,
        "logit_bias: token id": tuple(sampling.logit_bias),
        "suppress_tokens: token id": sampling.suppress_tokens,
        "allowed_token_ids: token id": sampling.allowed_token_ids or (),
        "bad_words: token id": tuple(token for word in request.bad_words for token in word),
    }.items():
        bad = next((token for token in tokens if not 0 <= token < model.vocab_size), None)
        if bad is not None:
            raise ConfigError(f"{what} {bad} is outside the vocabulary (0 to {model.vocab_size - 1})")
    if request.reader is not None and len(prompt) > limit:
        raise TextTooLongError(len(prompt), limit)
    if request.reader is None and len(prompt) >= limit:
        raise PromptTooLongError(len(prompt), limit - 1)
    if config.max_length is not None and config.max_length <= len(prompt):
        raise CapacityError(f"max_length={config.max_length} leaves nothing: the prompt has {len(prompt)} tokens")


def unloaded(adapter: LoadedAdapter) -> ConfigError:
    """What is said to who asks for an adapter that is gone."""
    return ConfigError(f"adapter {adapter.name!r} has been unloaded; load it again")


def job_of(request: Request, model: ModelLimits) -> tuple[Job, Sequence]:
    """A request's job, and the sequence that is to be queued for it: the others fork from it.

    Raises: ConfigError for options that leave no first token.
    """
    config = request.config
    if not config.is_beam_search:
        sequences = [_sequence(request, model, index) for index in range(config.n)]
        sequences[0].sampler.check()
        job = Job(sequences=tuple(sequences), sink=request.sink)
        _belong(sequences, job)
        return job, sequences[0]
    search = config.beam_search_config
    results = [_sequence(request, model, index) for index in range(search.num_return_sequences)]
    beams = [_sequence(request, model, 0) for _ in range(search.num_beams)]
    job = Job(sequences=tuple(results), sink=request.sink)
    _belong(beams, job)
    first = beams[0]
    first.sampler.check()
    for result in results:
        result.job = job
        result.timeline = first.timeline
    run = BeamRun(BeamSearch(search, first.eos_token_ids, first.max_tokens - first.num_prompt), beams, results)
    for sequence in (*beams, *results):
        sequence.search = sequence.consumer = run
    return job, first


def _belong(sequences: abc.Sequence[Sequence], job: Job) -> None:
    """The first is queued, and the others fork from it."""
    for sequence in sequences:
        sequence.job = job
    sequences[0].forks = list(sequences[1:])


def _sequence(request: Request, model: ModelLimits, index: int) -> Sequence:
    config, num_prompt = request.config, len(request.prompt)
    eos_token_ids = config.ends(model.eos_token_ids)
    limits = [model.max_seq_len]
    if config.max_new_tokens is not None:
        limits.append(num_prompt + config.max_new_tokens)
    if config.max_length is not None:
        limits.append(config.max_length)
    sequence = Sequence(
        tokens=[int(token) for token in request.prompt],
        num_prompt=num_prompt,
        max_tokens=min(limits),
        config=config,
        eos_token_ids=eos_token_ids,
        sampler=Sampler(
            _sampling(config),
            request.prompt,
            model.vocab_size,
            choice=index,
            eos_token_ids=eos_token_ids,
            min_new_tokens=max(config.min_new_tokens, config.min_length - num_prompt),
            bad_words=request.bad_words,
            dry_breakers=request.dry_breakers,
            newline_tokens=request.newline_tokens,
            constraint=None if request.constraint is None else request.constraint.copy(),
        ),
        consumer=_consumer(request),
        index=index,
        priority=request.priority,
        drafter=_drafter(request),
        adapter=request.adapter,
    )
    if request.is_manual:
        sequence.pause(State.HELD)  # nothing is run before its logits are asked for
    if request.timeout is not None:
        sequence.deadline = sequence.timeline.submitted + request.timeout
    return sequence


def _consumer(request: Request) -> Consumer:
    if request.reader is not None:
        return request.reader
    return Keep() if request.is_manual else Sample()


def _sampling(config: GenerationConfig) -> SamplingConfig:
    """The sampling options, with what beam search has of its own."""
    size = config.beam_search_config.no_repeat_ngram_size
    if config.is_beam_search and size:
        return replaced(config.sampling_config, no_repeat_ngram_size=size)
    return config.sampling_config


def _drafter(request: Request) -> Drafter | None:
    if request.draft_model is not None:
        return Drafter(ModelProposer(request.draft_model), request.config.draft_length)
    if request.config.speculative == "prompt_lookup":
        return Drafter(PromptLookup(), request.config.draft_length)
    return None
