"""The templates of the page. Whatever they show is escaped, and names from a model stay text.

Names are cut, and shown without what cannot be seen or turns the text around; numbers have one decimal.
"""

from __future__ import annotations

import functools

import jinja2

from genai.inspect.blocks import short_size

_MAX_CHARACTERS = 600


def rendered(template: str, **values: object) -> str:
    """A template of this package with its values."""
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genai.inspect"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cut": _cut, "bytes": short_size}
    return environment


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _shown(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.1f}"
    if not isinstance(value, str) or hasattr(value, "__html__"):  # HTML of our own
        return value
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in _cut(value, _MAX_CHARACTERS)
    )
