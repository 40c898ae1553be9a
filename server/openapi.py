"""The OpenAPI document: which errors each endpoint can answer with, and nothing that it cannot."""

from __future__ import annotations

from typing import TypeAlias

from fastapi import FastAPI
from pydantic import BaseModel

from server.schemas.common import ErrorBody
from server.unknown import IGNORED_HEADER

Responses: TypeAlias = dict[int | str, dict[str, object]]

_ERRORS = {
    400: "The request cannot be understood or done; `param` names the field.",
    401: "An API key is needed, or this one is not valid.",
    403: "The server may not be called by this name.",
    404: "There is no such model, or it cannot do this.",
    408: "The body did not come in time.",
    409: "A model is needed by others, or another one is called so.",
    413: "The body is too long; the message has the numbers.",
    415: "The body is not application/json.",
    429: "Too many requests wait, or are being answered for this key; see Retry-After.",
    500: "The model failed while it ran this request.",
    503: "The model is loading, the request got no turn in time, or the server is shutting down; see Retry-After.",
}
_RETRY = {"Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}}

_IGNORED = {IGNORED_HEADER: {"description": "Fields that were ignored.", "schema": {"type": "string"}}}

_EVENTS = {"text/event-stream": {"schema": {"description": "One event after the other, each with JSON as its data."}}}
"""The documentation of a stream; tools that read it take the schema for that of an event."""


def errors(*statuses: int) -> Responses:
    """The documentation of these errors."""
    return {
        status: {
            "model": ErrorBody,
            "description": _ERRORS[status],
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in statuses
    }


KEYED = errors(401, 403, 408, 413, 429, 503)
"""What any endpoint that needs a key may answer before it is reached."""
GENERATING = KEYED | errors(400, 404, 415, 500)
"""What an endpoint that runs a model may answer."""


def streaming(whole: type[BaseModel], told: str | None = None) -> Responses:
    """The documentation of an answer that is whole, or a stream of events if the request says so.

    told: how the stream goes; None: in pieces of the whole, as OpenAI's first two APIs do.
    """
    told = told or f"events: pieces of a {whole.__name__}, one JSON object an event; the last event is `data: [DONE]`."
    description = f"With `stream` as {told}"
    return {200: {"model": whole, "content": _EVENTS, "description": description, "headers": _IGNORED}}


def describe(app: FastAPI) -> dict[str, object]:
    """The document, made once."""
    if app.openapi_schema is None:  # which FastAPI keeps it in
        document = FastAPI.openapi(app)
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        document["security"] = [{}, {"bearer": []}, {"x-api-key": []}]
        for operations in document["paths"].values():
            for operation in operations.values():  # FastAPI adds a 422 to those with parameters; ours is 400
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
    return FastAPI.openapi(app)
