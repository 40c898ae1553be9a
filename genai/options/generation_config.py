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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

from genai.errors import ConfigError
from genai.options.decoding_config import (
    CONSTRAINTS,
    BeamSearchConfig,
    ConstraintConfig,
    ConstraintKind,
    DryConfig,
    SamplingConfig,
    StopCriteria,
    XtcConfig,
)
from genai.options.option import Entry, Flag, Served, check_options, entries_of, option, part
from genai.options.rules import SIZE_MAX, UNLIMITED, OneOf, TokenIds, Whole, strings, switch

__all__ = [
    "ALIASES",
    "EFFORTS",
    "FLAT_NAMES",
    "OPTIONS",
    "SIZE_MAX",
    "BeamSearchConfig",
    "ConstraintConfig",
    "ConstraintKind",
    "DryConfig",
    "GenerationConfig",
    "ReasoningEffort",
    "SamplingConfig",
    "Speculation",
    "StopCriteria",
    "XtcConfig",
    "config_from_data",
    "constraint_of",
    "names_of",
    "replaced",
]

Speculation: TypeAlias = Literal["prompt_lookup"]
MAX_STOPS = 64
"""Strings that may end a text, in a request to the server."""
ReasoningEffort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[str, ...] = get_args(ReasoningEffort)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How one prompt is continued. Every option says what it does; beside that:

    The text ends at eos_token_ids (None: the model's own) and stop_token_ids, and before the first of stop_strings;
    ignore_eos lets only stop_token_ids end it. Without max_new_tokens and max_length it goes on until the context is
    full. Each of n texts has a random stream of its own. Log probabilities are those before any sampling option.
    speculative and draft_length change nothing in the result.
    """

    # fmt: off
    max_new_tokens: int | None = option(None, Whole(none=UNLIMITED),
        "Tokens to generate at most; 0 only runs the prompt.",
        unset="until full", aliases=("max_tokens", "max_completion_tokens"),
        peers=("same", "same", "–", "`max_tokens`, `max_completion_tokens`"))
    max_length: int | None = option(None, Whole(least=1, none=UNLIMITED), "The same, with the prompt's.",
        unset="until full", peers=("same", "same", "same", "–"))
    min_new_tokens: int = option(0, Whole(), "No end before so many tokens.",
        aliases=("min_tokens",), peers=("same", "same", "–", "`min_tokens`"), flag=Flag(),
        served=Served(name="min_tokens"))
    min_length: int = option(0, Whole(), "The same, with the prompt's.", peers=("same", "–", "same", "–"))
    eos_token_ids: tuple[int, ...] | None = option(None, TokenIds(),
        "Tokens that end the text instead of the model's own.",
        unset="the model's", aliases=("eos_token_id",), peers=("`eos_token_id`", "`eos_token_id`", "–", "–"))
    ignore_eos: bool = option(False, switch, "Go on past the end (for benchmarks).",
        peers=("–", "same", "–", "same"), flag=Flag(), served=Served())
    stop_token_ids: tuple[int, ...] = option((), TokenIds(),
        "Tokens that end the text beside the model's own, `ignore_eos` or not.",
        peers=("–", "same", "–", "same"), served=Served(most=1024))
    stop_strings: tuple[str, ...] = option((), strings, "The text ends before the first of these.",
        aliases=("stop",), peers=("same", "same", "–", "`stop`"), flag=Flag(name="stop", says="End before this text"),
        served=Served(name="stop", is_extension=False, most=MAX_STOPS, longest=1000, takes_one=True))
    n: int = option(1, Whole(least=1), "How many texts, each with a random stream of its own.",
        peers=("`num_return_sequences`", "`num_return_sequences`", "`num_return_sequences`", "same"),
        flag=Flag(group="several", says="How many texts, each with a random stream of its own (-n: how many tokens)."),
        served=Served(is_extension=False, most=128))
    reasoning_effort: ReasoningEffort | None = option(None, OneOf(EFFORTS, f"one of {', '.join(EFFORTS)}"),
        "How much a model reasons before it answers, as its chat template knows it; `none`: not at all.",
        unset="the template's", peers=("–", "–", "–", "same"), flag=Flag(metavar="|".join(EFFORTS)),
        served=Served(is_extension=False), bodies=("chat",))
    reasoning_budget: int | None = option(None, Whole(none=UNLIMITED),
        "Tokens of reasoning at most; then its end is written for the model.",
        unset="none", aliases=("thinking_token_budget", "thinking_budget"),
        peers=("–", "–", "–", "`thinking_token_budget` in vLLM, `thinking_budget` elsewhere"), flag=Flag(),
        served=Served(), bodies=("chat",))
    sampling_config: SamplingConfig = part(SamplingConfig)
    beam_search_config: BeamSearchConfig = part(BeamSearchConfig)
    constraint: ConstraintConfig | None = field(default=None, metadata={"forms": CONSTRAINTS})
    speculative: Speculation | None = option(None, OneOf(("prompt_lookup",), "'prompt_lookup' or None"),
        "Where drafts come from; the text stays the same.",
        unset="off", peers=("`prompt_lookup_num_tokens`", "`prompt_lookup`", "–", "–"), flag=Flag())
    draft_length: int = option(10, Whole(least=1), "Most tokens in a draft.",
        aliases=("num_assistant_tokens", "prompt_lookup_num_tokens"),
        peers=("`num_assistant_tokens`", "`num_assistant_tokens`", "–", "–"), flag=Flag())
    logprobs: bool = option(False, switch, "Report the log probability of each token.",
        peers=("`output_logits`", "same", "–", "same"))
    top_logprobs: int = option(0, Whole(), "Beside `logprobs`, those of so many likely others.",
        peers=("–", "–", "–", "same"),
        flag=Flag(name="logprobs", group="several",
                  says="Report log probabilities, and those of the N likeliest tokens."),
        served=Served(is_extension=False, most=20), bodies=("chat",))
    prompt_logprobs: int | None = option(None, Whole(none=(SIZE_MAX,)),
        "The same of the prompt's tokens; 0: only their own.",
        unset="off", peers=("–", "–", "–", "same"),
        flag=Flag(says="Report log probabilities of the prompt, as --logprobs does of the text.", group="prompt"),
        bodies=())
    echo: bool = option(False, switch, "Begin the text with the prompt.",
        peers=("–", "same", "–", "same"), flag=Flag(group="prompt"), served=Served(is_extension=False),
        bodies=("completion",))
    # fmt: on

    def __post_init__(self) -> None:
        check_options(self)
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
        if unknown := options.keys() - FLAT_NAMES:
            raise ConfigError(f"unknown generation option {min(unknown)!r}; allowed: {', '.join(sorted(FLAT_NAMES))}")
        changes = _with_own_names(options)
        if "num_return_sequences" in changes and not self._will_use_beams(changes):
            changes["n"] = changes.pop("num_return_sequences")
        if changes.get("temperature") == 0:
            changes |= {"temperature": 1.0, "do_sample": False}
        elif changes.keys() & _SAMPLING_SWITCHES:
            changes.setdefault("do_sample", True)
        return _with(self, changes)

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
        for name, (is_set, why) in {
            "do_sample": (
                self.sampling_config.do_sample,
                "beams are the most probable texts, samples are not; leave one out",
            ),
            "n": (self.n > 1, "it counts samples; num_return_sequences says how many beams to return"),
            "stop_strings": (self.stop_strings, "beams are compared token by token; eos_token_ids ends them"),
            "logprobs": (self.logprobs, "a beam is told by its score"),
            "speculative": (self.speculative, "beams fork at every token, which no draft foresees"),
        }.items():
            if is_set:
                raise ConfigError(f"{name} cannot be had with num_beams above 1: {why}")


def _table() -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for entry in entries_of(GenerationConfig):
        table.setdefault(entry.name, entry)
    return table


OPTIONS: Mapping[str, Entry] = _table()
"""Every option by its flat name. A name that samples and beams share is that of samples; beams' is set nested."""
ALIASES: Mapping[str, str] = {alias: name for name, entry in OPTIONS.items() for alias in entry.option.aliases}
"""Other libraries' names for options, and ours."""
_PARTS = {step for entry in OPTIONS.values() for step in entry.path[:-1]} | {"constraint"}
FLAT_NAMES = frozenset(OPTIONS.keys() | ALIASES.keys() | _PARTS)
"""Every name that `GenerationConfig.updated` takes."""
_SAMPLING_SWITCHES = {
    name for entry in OPTIONS.values() if entry.option.samples for name in (entry.name, *entry.path[1:-1])
}
_EARLY_STOPPING: Mapping[object, StopCriteria] = {True: "EARLY", False: "HEURISTIC", "never": "NEVER"}


def constraint_of(options: Mapping[str, object]) -> ConstraintConfig | None:
    """The constraint among flat options: `json_schema`, `json_object`, `regex`, `lark` or `choices`.

    Raises: ConfigError for several at once, or a grammar of the wrong type.
    """
    given = [name for name in CONSTRAINTS if options.get(name) not in (None, False)]
    if not given:
        return None
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} cannot be had together: a text follows one constraint")
    (name,) = given
    grammar = CONSTRAINTS[name].rule(options[name], name)
    if name == "json_object":
        name, grammar = "json_schema", '{"type": "object"}'
    return ConstraintConfig(kind=cast(ConstraintKind, name), grammar=cast(str, grammar))


def _with_own_names(options: Mapping[str, object]) -> dict[str, object]:
    """Options under the names of the fields. Raises: ConfigError for the same option under two names."""
    result: dict[str, object] = {}
    for given, value in options.items():
        if given in CONSTRAINTS:
            continue
        name = ALIASES.get(given, given)
        if name in result or (name != given and name in options):
            raise ConfigError(f"{given} and {name} are the same option; give it once")
        result[name] = _early_stopping(value) if given == "early_stopping" else value
        if given == "prompt_lookup_num_tokens":
            result["speculative"] = None if value is None else "prompt_lookup"
    if any(name in options for name in CONSTRAINTS):
        result["constraint"] = constraint_of(options)
    return result


def _early_stopping(value: object) -> StopCriteria | None:
    """transformers' way to write the stop criteria."""
    if value is None:
        return None
    if not isinstance(value, bool | str) or value not in _EARLY_STOPPING:
        raise ConfigError(f"early_stopping={value!r}: must be True, False or 'never'")
    return _EARLY_STOPPING[value]


Config = TypeVar("Config")


def _with(config: Config, changes: dict[str, object], prefix: str = "") -> Config:
    """A copy with options set, in it and in its parts; they are taken out of `changes`."""
    own: dict[str, object] = {}
    for item in dataclasses.fields(cast(Any, config)):
        name = prefix + item.name
        if (kind := item.metadata.get("part")) is not None:
            whole = changes.pop(name, None) or getattr(config, item.name)
            own[item.name] = _with(whole, changes, item.metadata["prefix"]) if isinstance(whole, kind) else whole
        elif name in changes:
            own[item.name] = changes.pop(name)
    return replaced(config, **own)


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
    constraint = cast("Mapping[str, Any] | None", data["constraint"])
    return _from_data(GenerationConfig, {**data, "constraint": constraint and ConstraintConfig(**constraint)})


def _from_data(kind: Callable[[], Config], data: Mapping[str, object]) -> Config:
    """A configuration whose parts are data too."""
    values = dict(data)
    for item in dataclasses.fields(cast(Any, kind)):
        if "part" in item.metadata:
            values[item.name] = _from_data(item.metadata["part"], cast(Mapping[str, object], data[item.name]))
    return replaced(kind(), **values)


def names_of(kind: type) -> set[str]:
    """The names of a configuration's fields."""
    return {item.name for item in dataclasses.fields(kind)}
