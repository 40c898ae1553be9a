"""API keys: from a file and from the environment, compared in constant time, and never shown."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from starlette.types import Scope

from genai.config import environment
from genai.errors import ConfigError
from server.context import request_info
from server.errors import ApiError

KEYS_VARIABLE = "GENAI_API_KEYS"
ADMIN_KEYS_VARIABLE = "GENAI_ADMIN_KEYS"
_LOOKING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


class ApiKeys:
    """The keys that clients may give, as digests."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode()) for key in dict.fromkeys(keys)]

    def __add__(self, other: ApiKeys) -> ApiKeys:
        both = ApiKeys(())
        both._digests = [*self._digests, *other._digests]
        return both

    def __len__(self) -> int:
        return len(self._digests)

    def number_of(self, given: bytes) -> int | None:
        """Which key this is, from 1; None if it is none. Takes as long for a wrong key as for a right one."""
        digest, found = _digest(given), None
        for number, known in enumerate(self._digests, start=1):
            if hmac.compare_digest(digest, known):
                found = number
        return found


def load_api_keys(file: Path | None, variable: str = KEYS_VARIABLE) -> ApiKeys:
    """The keys of a file (one a line, # begins a comment) and those of a variable (separated by commas).

    Raises: ConfigError for a file that cannot be read or holds no key: a typing error must not open the server.
    """
    listed = environment(variable).get(variable, "").split(",")
    keys = [key.strip() for key in listed if key.strip()]
    if file is not None:
        own = _read(file)
        if not own:
            raise ConfigError(f"{file} holds no API key; write one a line, or leave the setting out")
        keys += own
    return ApiKeys(keys)


def _read(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the keys of {str(file)!r} cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def _digest(key: bytes) -> bytes:
    """Of one length, so that comparing tells nothing about a key's."""
    return hashlib.sha256(key).digest()


@contextmanager
def authenticated(keys: ApiKeys, open_paths: Sequence[str], scope: Scope) -> Iterator[None]:
    """A gate for who gives a key, as a bearer token or as `x-api-key`; open paths, and all if there are no keys."""
    if len(keys) and scope["path"] not in open_paths:
        given = _given_key(scope)
        number = None if given is None else keys.number_of(given)
        if number is None:
            raise _refusal(given)
        request_info().key = number
    yield


@contextmanager
def administered(admins: ApiKeys, paths: Sequence[str], is_off: str, scope: Scope) -> Iterator[None]:
    """A gate to paths that change what is served, for who gives an administrator's key.

    is_off: what is said of them by a server that has no such keys.
    """
    if scope["path"] in paths and scope["method"] not in _LOOKING:
        if not len(admins):
            raise ApiError(403, is_off, code="administration_off")
        given = _given_key(scope)
        if given is None or admins.number_of(given) is None:
            raise _refusal(given)
    yield


def _given_key(scope: Scope) -> bytes | None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token.strip():
        return token.strip()
    return headers.get(b"x-api-key") or None


def _refusal(given: bytes | None) -> ApiError:
    message = "no API key was given: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`"
    if given is not None:
        message = "this API key is not valid here"
    code = "missing_api_key" if given is None else "invalid_api_key"
    return ApiError(401, message, code=code, headers={"www-authenticate": "Bearer"})
