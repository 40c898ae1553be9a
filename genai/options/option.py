"""What there is to say of an option of generation, said where its field is declared.

    top_k: int = option(0, Whole(off=0), "Sample from the k most probable.", flag=Flag(), served=Served())

Checks, aliases, the command line's flags, the fields of requests and the table of `docs/options.md` are read from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Concatenate, Literal, ParamSpec, TypeAlias, TypeVar, cast

from genai.errors import ConfigError
from genai.options.rules import Rule

Body: TypeAlias = Literal["chat", "completion"]
"""The kinds of requests, of the server and in batch files."""
FlagGroup: TypeAlias = Literal["text", "several", "prompt"]
"""What a flag is about: any text; more than a conversation has place for; the prompt."""
Peers: TypeAlias = tuple[str, str, str, str]
"""What it is called in transformers, OpenVINO GenAI, onnxruntime-genai, and by OpenAI, vLLM or llama.cpp."""

NOBODY: Peers = ("–", "–", "–", "–")
EVERYBODY: Peers = ("same", "same", "same", "same")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """An option's flag; what has none goes through `--set`.

    name: if not the option's own; says: if the help is not the option's line; metavar: what stands for the value, and
    ends with @FILE if it may come from a file.
    """

    name: str = ""
    short: str = ""
    metavar: str = ""
    says: str = ""
    group: FlagGroup = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The field of the server's requests that an option is.

    name: if not the option's own; says: if the description is not the option's line; is_extension: whether OpenAI's API
    is without it. Bounds narrower than the option's: least, most, below of a number; most of a list's length, longest
    of its strings; takes_one: whether a string may stand for a list.
    """

    name: str = ""
    says: str = ""
    is_extension: bool = True
    least: float | None = None
    most: float | None = None
    below: int | None = None
    longest: int | None = None
    takes_one: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """All that is said of an option.

    says: what it does, in a line; unset: how the table writes its default, if that does not say enough; aliases: other
    libraries' names for it; bodies: the requests in whose answers it shows; samples: whether it asks for sampling.
    """

    rule: Rule
    says: str
    _: KW_ONLY
    unset: str = ""
    aliases: tuple[str, ...] = ()
    peers: Peers = NOBODY
    flag: Flag | None = None
    served: Served | None = None
    bodies: tuple[Body, ...] = ("chat", "completion")
    samples: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An option where it stands. name: the flat one; path: of fields, from `GenerationConfig` on."""

    name: str
    path: tuple[str, ...]
    default: object
    option: Option

    @property
    def flag_name(self) -> str:
        """What the command line calls it, in Python's spelling."""
        return (self.option.flag and self.option.flag.name) or self.name

    @property
    def field_name(self) -> str:
        """What the server's requests call it."""
        return (self.option.served and self.option.served.name) or self.name


T = TypeVar("T")
P = ParamSpec("P")


def _declaring(describe: Callable[P, Option]) -> Callable[Concatenate[T, P], T]:
    """Makes fields of options from a default, which is copied if it can change, and what describes an option."""

    def declare(default: T, /, *said: P.args, **more: P.kwargs) -> T:
        metadata = {"option": describe(*said, **more)}
        if isinstance(default, dict):
            return cast(T, field(default_factory=default.copy, metadata=metadata))
        return field(default=default, metadata=metadata)

    return declare


option = _declaring(Option)
"""The field of an option: its default, and then what `Option` takes."""


def part(kind: Callable[[], T], prefix: str = "") -> T:
    """The field of a configuration within one; prefix: what its options' flat names begin with."""
    return field(default_factory=kind, metadata={"part": kind, "prefix": prefix})


def entries_of(kind: type, path: tuple[str, ...] = (), prefix: str = "") -> Iterator[Entry]:
    """The options of a configuration and of its parts, in the order in which they are declared."""
    for item in dataclasses.fields(kind):
        here = (*path, item.name)
        if "option" in item.metadata:
            yield Entry(name=prefix + item.name, path=here, default=default_of(item), option=item.metadata["option"])
        elif "part" in item.metadata:
            yield from entries_of(item.metadata["part"], here, item.metadata["prefix"])
        for name, described in item.metadata.get("forms", {}).items():
            yield Entry(name=name, path=here, default=None, option=described)


def default_of(item: dataclasses.Field[object]) -> object:
    """What a field is if nobody says."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def check_options(config: object, prefix: str = "") -> None:
    """Check a configuration that is being made; None is the default, each is written one way. Raises: ConfigError."""
    for item in dataclasses.fields(config):  # type: ignore[arg-type]  # its class calls this
        value = getattr(config, item.name)
        if value is None:
            value = default_of(item)
        described: Mapping[str, object] = item.metadata
        if value is not None and isinstance(known := described.get("option"), Option):
            value = known.rule(value, prefix + item.name)
        kind = described.get("part")
        if isinstance(kind, type) and not isinstance(value, kind):
            raise ConfigError(f"{item.name} is a {kind.__name__}, not {type(value).__name__}")
        object.__setattr__(config, item.name, value)
