"""How one text is continued, as data: frozen, validated where it is made, unknown names and contradictions refused.

    GenerationConfig
    ├── sampling_config: SamplingConfig      how a token is chosen (with XtcConfig and DryConfig)
    ├── beam_search_config: BeamSearchConfig how several texts are compared
    └── constraint: ConstraintConfig         what the text must look like

The names are those of the ONNX generative-AI working group's preview interface; `GenerationConfig.updated` takes them
flat, and so it does those of transformers, OpenVINO GenAI, onnxruntime-genai and OpenAI (`docs/options.md`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, cast

from genai.errors import ConfigError
from genai.options.decoding_config import (
    BeamSearchConfig,
    ConstraintConfig,
    ConstraintKind,
    DryConfig,
    SamplingConfig,
    StopCriteria,
    XtcConfig,
)
from genai.options.values import SIZE_MAX, require, set_defaults, set_field, strings, token_ids, unlimited, whole

__all__ = [
    "ALIASES",
    "SIZE_MAX",
    "BeamSearchConfig",
    "ConstraintConfig",
    "ConstraintKind",
    "DryConfig",
    "GenerationConfig",
    "SamplingConfig",
    "Speculation",
    "StopCriteria",
    "XtcConfig",
    "config_from_data",
    "constraint_of",
    "flat_names",
    "names_of",
    "replaced",
]

Speculation: TypeAlias = Literal["prompt_lookup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How one prompt is continued.

    max_new_tokens: at most this many tokens are generated (0: none; the prompt is only run); max_length: at most this
    many with the prompt; None for both: until the context is full. min_new_tokens, min_length: no end of sequence
    before. eos_token_ids: tokens that end the text; None: the model's own. ignore_eos: go on past them (benchmarks).
    stop_token_ids: tokens that end it beside those, ignore_eos or not. stop_strings: the text ends before the first of
    these. n: how many texts, each with a random stream of its own. logprobs, top_logprobs: report the log probability
    of each generated token, and of so many of the most probable ones, before any sampling option; prompt_logprobs: the
    same for the prompt's tokens (0: only their own; None: off). echo: the result's text begins with the prompt's.
    speculative: "prompt_lookup" takes drafts from the text so far; draft_length: most tokens in a draft; neither
    changes the result.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    min_length: int = 0
    eos_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    echo: bool = False
    speculative: Speculation | None = None
    draft_length: int = 10
    constraint: ConstraintConfig | None = None
    sampling_config: SamplingConfig = field(default_factory=SamplingConfig)
    beam_search_config: BeamSearchConfig = field(default_factory=BeamSearchConfig)

    def __post_init__(self) -> None:
        set_defaults(self)
        set_field(self, "max_new_tokens", unlimited(self.max_new_tokens, "max_new_tokens", at_least=0))
        set_field(self, "max_length", unlimited(self.max_length, "max_length"))
        for name in ("min_new_tokens", "min_length", "top_logprobs"):
            set_field(self, name, whole(getattr(self, name), name, 0, "at least 0"))
        for name in ("n", "draft_length"):
            set_field(self, name, whole(getattr(self, name), name, 1, "at least 1"))
        if self.prompt_logprobs is not None:
            set_field(self, "prompt_logprobs", whole(self.prompt_logprobs, "prompt_logprobs", 0, "at least 0, or None"))
        set_field(self, "stop_strings", strings(self.stop_strings, "stop_strings"))
        if self.eos_token_ids is not None:
            set_field(self, "eos_token_ids", token_ids(self.eos_token_ids, "eos_token_ids"))
        set_field(self, "stop_token_ids", token_ids(self.stop_token_ids, "stop_token_ids"))
        known = (None, "prompt_lookup")
        require(self.speculative in known, "speculative", self.speculative, "'prompt_lookup' or None")
        for name, kind in _NESTED.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigError(f"{name} is a {kind.__name__}, not {type(value).__name__}")
        if not isinstance(self.constraint, ConstraintConfig | None):
            raise ConfigError(f"constraint is a ConstraintConfig, not {type(self.constraint).__name__}")
        self._refuse_contradictions()

    def ends(self, own: Iterable[int]) -> frozenset[int]:
        """The tokens that end a text; own: the model's end-of-sequence tokens."""
        eos = () if self.ignore_eos else own if self.eos_token_ids is None else self.eos_token_ids
        return frozenset(eos) | frozenset(self.stop_token_ids)

    @property
    def is_beam_search(self) -> bool:
        """Whether several continuations are compared."""
        return self.beam_search_config.num_beams > 1

    @property
    def num_choices(self) -> int:
        """How many texts the result has."""
        return self.beam_search_config.num_return_sequences if self.is_beam_search else self.n

    def updated(self, **options: object) -> GenerationConfig:
        """A copy with options set, given flat: this class's fields and its nested ones side by side, and their aliases.

        A sampling option given without `do_sample` switches sampling on; `temperature=0` switches it off.
        Raises: ConfigError for an unknown name, a bad value or a contradiction.
        """
        options = _with_own_names(options)
        parts = {name: options.pop(name) for name in list(options) if name in _PARTS}
        own = {name: options.pop(name) for name in list(options) if name in names_of(GenerationConfig)}
        if "num_return_sequences" in options and not self._will_use_beams(options):
            own["n"] = options.pop("num_return_sequences")
        sampling = {name: options.pop(name) for name in list(options) if name in names_of(SamplingConfig)}
        beams = {name: options.pop(name) for name in list(options) if name in names_of(BeamSearchConfig)}
        if options:
            raise ConfigError(f"unknown generation option {min(options)!r}; allowed: {', '.join(sorted(flat_names()))}")
        chosen = own.pop("sampling_config", None) or self.sampling_config
        searched = own.pop("beam_search_config", None) or self.beam_search_config
        if isinstance(chosen, SamplingConfig):  # what is none is refused with the others
            chosen = _sampling(chosen, sampling, parts)
        if isinstance(searched, BeamSearchConfig):
            searched = replaced(searched, **beams)
        return replaced(self, sampling_config=chosen, beam_search_config=searched, **own)

    def _will_use_beams(self, options: Mapping[str, object]) -> bool:
        return options.get("num_beams", self.beam_search_config.num_beams) not in (None, 1)

    def _refuse_contradictions(self) -> None:
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(f"min_new_tokens={self.min_new_tokens} is above max_new_tokens={self.max_new_tokens}")
        if self.max_length is not None and self.min_length > self.max_length:
            raise ConfigError(f"min_length={self.min_length} is above max_length={self.max_length}")
        if self.top_logprobs and not self.logprobs:
            raise ConfigError(f"top_logprobs={self.top_logprobs} needs logprobs=True")
        if not self.is_beam_search:
            for item in dataclasses.fields(BeamSearchConfig):
                if (value := getattr(self.beam_search_config, item.name)) != item.default:
                    instead = "; for several samples set n" if item.name == "num_return_sequences" else ""
                    raise ConfigError(f"{item.name}={value!r} needs num_beams above 1{instead}")
            return
        for name, is_set in {
            "do_sample": self.sampling_config.do_sample,
            "n": self.n > 1,
            "stop_strings": bool(self.stop_strings),
            "logprobs": self.logprobs,
            "speculative": self.speculative is not None,
        }.items():
            if is_set:
                raise ConfigError(f"{name} cannot be had with num_beams above 1: {_WHY[name]}")


_NESTED: dict[str, type] = {"sampling_config": SamplingConfig, "beam_search_config": BeamSearchConfig}
_WHY = {
    "do_sample": "beams are the most probable texts, samples are not; leave one out",
    "n": "it counts samples; num_return_sequences says how many beams to return",
    "stop_strings": "beams are compared token by token; eos_token_ids ends them",
    "logprobs": "a beam is told by its score",
    "speculative": "beams fork at every token, which no draft foresees",
}

ALIASES: Mapping[str, str] = {
    "bad_words_ids": "bad_words",
    "eos_token_id": "eos_token_ids",
    "max_completion_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "num_assistant_tokens": "draft_length",
    "random_seed": "rng_seed",
    "repeat_penalty": "repetition_penalty",
    "seed": "rng_seed",
    "stop": "stop_strings",
}
"""Other libraries' names for options that mean the same."""
_PARTS = {
    "xtc_probability": ("xtc", "probability"),
    "xtc_threshold": ("xtc", "threshold"),
    "dry_multiplier": ("dry", "multiplier"),
    "dry_base": ("dry", "base"),
    "dry_allowed_length": ("dry", "allowed_length"),
    "dry_window": ("dry", "window"),
    "dry_sequence_breakers": ("dry", "sequence_breakers"),
}
_CONSTRAINTS: tuple[str, ...] = ("json_schema", "json_object", "regex", "lark", "choices")
_EARLY_STOPPING: Mapping[object, StopCriteria] = {True: "EARLY", False: "HEURISTIC", "never": "NEVER"}
_SAMPLING_SWITCHES = {"temperature", "top_k", "top_p", "min_p", "typical_p", "rng_seed", "xtc"}


def flat_names() -> set[str]:
    """Every name that `GenerationConfig.updated` takes."""
    own = names_of(GenerationConfig) | names_of(SamplingConfig) | names_of(BeamSearchConfig)
    return own | ALIASES.keys() | _PARTS.keys() | {*_CONSTRAINTS, "early_stopping", "prompt_lookup_num_tokens"}


def constraint_of(options: Mapping[str, object]) -> ConstraintConfig | None:
    """The constraint among flat options: `json_schema`, `json_object`, `regex`, `lark` or `choices`.

    Raises: ConfigError for several at once, or a grammar of the wrong type.
    """
    given = [name for name in _CONSTRAINTS if options.get(name) not in (None, False)]
    if not given:
        return None
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} cannot be had together: a text follows one constraint")
    (name,), value = given, options[given[0]]
    if name == "json_object":
        if value is not True:
            raise ConfigError(f"json_object={value!r}: True or False")
        return ConstraintConfig(kind="json_schema", grammar='{"type": "object"}')
    if name == "json_schema" and isinstance(value, Mapping | bool):
        return ConstraintConfig(kind="json_schema", grammar=json.dumps(value))
    if name == "choices":
        return ConstraintConfig(kind="choices", grammar=strings(value, "choices"))
    if not isinstance(value, str):
        raise ConfigError(f"{name} is a string{' or an object' if name == 'json_schema' else ''}, not {value!r}")
    return ConstraintConfig(kind=cast(ConstraintKind, name), grammar=value)


def _with_own_names(options: Mapping[str, object]) -> dict[str, object]:
    """Options under the names of the fields. Raises: ConfigError for the same option under two names."""
    result: dict[str, object] = {}
    for given, raw in options.items():
        if given in _CONSTRAINTS:
            continue
        name, value = ALIASES.get(given, given), raw
        if given == "early_stopping":
            name, value = "stop_criteria", _early_stopping(raw)
        elif given == "prompt_lookup_num_tokens":
            name, result["speculative"] = "draft_length", None if raw is None else "prompt_lookup"
        if name in result or (name != given and name in options):
            raise ConfigError(f"{given} and {name} are the same option; give it once")
        result[name] = value
    if any(name in options for name in _CONSTRAINTS):
        result["constraint"] = constraint_of(options)
    return result


def _early_stopping(value: object) -> StopCriteria | None:
    """transformers' way to write the stop criteria."""
    if value is None:
        return None
    if not isinstance(value, bool | str) or value not in _EARLY_STOPPING:
        raise ConfigError(f"early_stopping={value!r}: must be True, False or 'never'")
    return _EARLY_STOPPING[value]


def _sampling(base: SamplingConfig, options: dict[str, object], parts: Mapping[str, object]) -> SamplingConfig:
    """A sampling configuration with options set, and those of its parts; `do_sample` follows from them if not given."""
    for given, value in parts.items():
        part, name = _PARTS[given]
        options[part] = replaced(options.get(part) or getattr(base, part), **{name: value})
    if options.get("temperature") == 0:
        options |= {"temperature": 1.0, "do_sample": False}
    elif options.keys() & _SAMPLING_SWITCHES:
        options.setdefault("do_sample", True)
    return replaced(base, **options)


Config = TypeVar("Config")


def replaced(config: Config, **changes: object) -> Config:
    """`dataclasses.replace` that refuses unknown names and values of the wrong type with a ConfigError."""
    known = names_of(type(config))
    if unknown := changes.keys() - known:
        raise ConfigError(f"unknown option {min(unknown)!r}; allowed: {', '.join(sorted(known))}")
    try:
        return cast(Config, dataclasses.replace(cast(Any, config), **changes))
    except TypeError as error:
        given = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        raise ConfigError(f"an option has a value of the wrong type ({given}): {error}") from None


def config_from_data(data: Mapping[str, object]) -> GenerationConfig:
    """A configuration from `dataclasses.asdict` of one, as JSON gives it back. Raises: ConfigError, TypeError."""
    parts = dict(data)
    sampling = dict(cast(Mapping[str, object], parts.pop("sampling_config")))
    sampling["xtc"] = replaced(XtcConfig(), **cast(Mapping[str, object], sampling["xtc"]))
    sampling["dry"] = replaced(DryConfig(), **cast(Mapping[str, object], sampling["dry"]))
    constraint = cast("Mapping[str, Any] | None", parts.pop("constraint"))
    return replaced(
        GenerationConfig(),
        sampling_config=replaced(SamplingConfig(), **sampling),
        beam_search_config=replaced(BeamSearchConfig(), **cast(Mapping[str, object], parts.pop("beam_search_config"))),
        constraint=None if constraint is None else ConstraintConfig(**constraint),
        **parts,
    )


def names_of(kind: type) -> set[str]:
    """The names of a configuration's fields."""
    return {item.name for item in dataclasses.fields(kind)}
