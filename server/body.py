"""JSON bodies, read strictly: UTF-8 only, no NaN, no half characters, not nested more than 200 deep.

What they have that nobody here knows is told with the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import pydantic_core
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from genai.requests.base import WholeRequest, ignored_fields
from server.errors import ApiError
from server.state import state_of


class StrictRoute(APIRoute):
    """A route whose body was read by `read_json` before it is validated."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The handler of this route's requests."""
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler
        kind = cast(type[WholeRequest], self.body_field.field_info.annotation)

        async def handle(request: Request) -> Response:
            body = read_json(await request.body(), request.headers.get("content-type", ""))
            ignored = ignored_fields(kind, body) if isinstance(body, Mapping) else []
            headers = state_of(request).unknown_fields.headers(ignored, request.url.path)
            response = await handler(_ReadRequest(request.scope, request.receive, body))
            response.headers.update(headers)
            return response

        return handle


class _ReadRequest(Request):
    """A request whose JSON is known."""

    def __init__(self, scope: Scope, receive: Receive, value: object) -> None:
        super().__init__(scope, receive)
        self._value = value

    async def body(self) -> bytes:
        """Not empty: that is all that is asked of it."""
        return b"{}"

    async def json(self) -> object:
        """What the body says."""
        return self._value


def read_json(body: bytes, content_type: str) -> object:
    """The value that a body writes. Raises: ApiError.

    The content type has to be JSON's: a page of another origin can send plain text, or nothing, without being asked.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        message = f"content-type {content_type[:100]!r}: must be 'application/json'"
        raise ApiError(415, message, code="unsupported_media_type")
    if not body:
        raise ApiError(400, "the body is empty; it must be a JSON object", code="invalid_json")
    try:
        value: object = pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON in UTF-8: {error}", code="invalid_json") from None
    return value
