"""Lark rules in the making, for answers with markers that may be tokens.

A marker that is one token of the vocabulary is asked for by its id, `<[id]>`: so the model learnt to write it, and
llguidance matches special tokens in no other way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from genai.errors import ConfigError
from genai.grammar.lark import MAX_CHARACTERS

ANY_TEXT = r"(.|\n)*"
EMPTY = '""'


class LarkText:
    """Rules, and how texts are spelled in them.

    token_ids: the markers that are single tokens; any_quoted: the rule for any value whose strings stand in quotes, if
    there is one.
    """

    def __init__(self, token_ids: Mapping[str, int]) -> None:
        self.token_ids = token_ids
        self.any_quoted: str | None = None
        self._tokens = re.compile(f"({'|'.join(map(re.escape, token_ids))})" if token_ids else r"((?!))")
        self._num_rules = 0
        self._num_characters = 0
        self.rules = [r"TEXT: /(.|\n)+/", r"GAP: /[ \n]{1,4}/", r"NUMBER: /[0-9]{1,2}/"]

    def rule(self, body: str) -> str:
        """A new rule; returns its name. Raises: ConfigError for more of them than a constraint may have."""
        return self._add("rule", f": {body}")

    def mark(self) -> tuple[int, int, str | None]:
        """How much there is, for `back_to`."""
        return len(self.rules), self._num_characters, self.any_quoted

    def back_to(self, mark: tuple[int, int, str | None]) -> None:
        """Drop the rules that were added since."""
        num_rules, self._num_characters, self.any_quoted = mark
        del self.rules[num_rules:]

    def json(self, schema: object) -> str:
        """A new rule: JSON that follows a schema."""
        return self.rule(f"%json {json.dumps(schema)}")

    def spelled(self, text: str) -> str:
        """A text as literals and the tokens that are markers."""
        return " ".join(
            f"<[{self.token_ids[part]}]>" if part in self.token_ids else literal(part) for part in self._parts(text)
        )

    def split(self, text: str) -> tuple[str, str]:
        """A text's beginning before the first token in it, and the rest spelled; "" if there is no token."""
        first, *rest = self._parts(text)
        return first, self.spelled("".join(rest))

    def through(self, marker: str, regex: str = ANY_TEXT) -> str:
        """A text that matches, up to and with a marker that ends it."""
        first, rest = self.split(marker)
        if first in self.token_ids:
            before = "TEXT?" if regex == ANY_TEXT else self.rule(f"/{regex}/")
            return f"{before} {self.spelled(marker)}"
        if rest:  # a token within the marker cannot be part of the text before
            return f"{self.rule(f'/{regex}{in_regex(first)}/')} {rest}"
        return self._add("through", f"[suffix={literal(marker)}]: /{regex}/")

    def _add(self, name: str, rule: str) -> str:
        self._num_rules += 1
        name = f"{name}_{self._num_rules}"
        if self._num_characters + len(rule) > MAX_CHARACTERS:
            raise ConfigError(f"lark has more than {MAX_CHARACTERS} characters, the most that a constraint may have")
        self._num_characters += len(rule)
        self.rules.append(f"{name}{rule}")
        return name

    def _parts(self, text: str) -> list[str]:
        return [part for part in self._tokens.split(text) if part]


def literal(text: str) -> str:
    """A text as a string of Lark."""
    return json.dumps(text, ensure_ascii=False)


def in_regex(text: str) -> str:
    """A text as part of a regular expression between slashes."""
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")
