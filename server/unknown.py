"""What becomes of a request's fields that nobody here knows: they are ignored and told, or refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Literal

from genai.requests.base import unknown_field

IGNORED_HEADER = "x-genai-ignored"
"""The header of an answer that names the fields that were ignored."""
_MAX_TOLD = 20
_MAX_LOGGED = 1000

_log = logging.getLogger(__name__)


class UnknownFields:
    """The policy of one server. Each field stands in the log once, however often it comes."""

    def __init__(self, policy: Literal["ignore", "refuse"]) -> None:
        self._policy = policy
        self._logged: set[str] = set()

    def headers(self, names: Sequence[str], path: str) -> dict[str, str]:
        """What an answer says of fields that were ignored. Raises: RequestError, if they are to be refused."""
        if not names:
            return {}
        if self._policy == "refuse":
            raise unknown_field(min(names))
        told = [_plain(name) for name in names[:_MAX_TOLD]]
        new = [name for name in told if name not in self._logged]
        if new and len(self._logged) < _MAX_LOGGED:
            self._logged.update(new)
            _log.warning("%s: ignored, since nothing here knows them: %s", path, ", ".join(new))
        return {IGNORED_HEADER: ", ".join(told + ["..."] * (len(names) > _MAX_TOLD))}


def _plain(name: str) -> str:
    """A name as a header and a line of the log can have it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "?", name[:64]) or "?"
