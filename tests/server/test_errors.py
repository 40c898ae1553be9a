"""The table of errors, and what a validation tells of."""

from __future__ import annotations

import json
import logging
from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from genai.errors import (
    CapacityError,
    ConfigError,
    GenAIError,
    GraphRunError,
    ModelNotFoundError,
    QueueFullError,
    TokenizerError,
)
from genai.requests.base import Request, invalid
from server.context import request_context
from server.errors import ApiError, api_error, error_json


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (CapacityError("9 > 8"), 413, "invalid_request_error", "context_length_exceeded"),
        (ConfigError("no"), 400, "invalid_request_error", "invalid_value"),
        (TokenizerError("no"), 400, "invalid_request_error", "invalid_value"),
        (QueueFullError("full"), 429, "rate_limit_error", "queue_full"),
        (ModelNotFoundError("none"), 404, "invalid_request_error", "model_not_found"),
        (ApiError(418, "tea", code="pot"), 418, "invalid_request_error", "pot"),
    ],
)
def test_what_the_client_is_to_blame_for(error: Exception, status: int, kind: str, code: str) -> None:
    told = api_error(error)
    assert (told.status, told.type, told.code, told.message) == (status, kind, code, str(error))
    assert ("retry-after" in told.headers) == (status == 429)


@pytest.mark.parametrize("error", [GraphRunError("/secret/path"), GenAIError("/secret"), KeyError("/secret")])
def test_what_the_server_is_to_blame_for_is_logged_and_not_told(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with request_context("my-request"), caplog.at_level(logging.ERROR):
        told = api_error(error)
    assert (told.status, told.type, told.code) == (500, "server_error", "internal_error")
    assert "secret" not in told.message
    assert "my-request" in told.message
    assert "secret" in caplog.text


def test_json() -> None:
    error = ApiError(400, "é\n", code="c", param="p")
    assert json.loads(error_json(error, "/v1/models")) == {
        "error": {"message": "é\n", "type": "invalid_request_error", "param": "p", "code": "c"}
    }


class Dog(Request):
    kind: Literal["dog"]
    name: str


class Cat(Request):
    kind: Literal["cat"]
    lives: int = Field(ge=1)


class Collar(Request):
    kind: Literal["text"]
    text: str


class Owner(Request):
    pets: list[Annotated[Dog | Cat, Field(discriminator="kind")]] = Field(default=[])
    tags: list[Annotated[Dog | Collar, Field(discriminator="kind")]] = Field(default=[])
    stop: str | list[str] = ""
    age: float = Field(default=1, ge=0, le=200)


def complaint(body: object) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Owner).validate_python(body)
    return api_error(invalid(caught.value.errors(), body))


@pytest.mark.parametrize(
    ("body", "param", "code", "message"),
    [
        ({"agee": 1}, "agee", "unsupported_parameter", "agee is not supported"),
        ({"age": 201}, "age", "invalid_value", "age=201: must be less than or equal to 200"),
        ({"age": "1"}, "age", "invalid_type", 'age="1": must be a valid number'),
        ({"age": True}, "age", "invalid_type", "age=true: must be a valid number"),
        ({"age": float("inf")}, "age", "invalid_value", "age=Infinity: must be a finite number"),
        ({"stop": 5}, "stop", "invalid_type", "stop=5: must be a valid string or a valid list"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type", "stop[1]=5: must be a valid string"),
        ({"pets": [{"kind": "cat", "lives": 0}]}, "pets[0].lives", "invalid_value", "pets[0].lives=0"),
        (
            {"pets": [{"kind": "dog", "name": "x" * 500, "x": 1}]},
            "pets[0].x",
            "unsupported_parameter",
            "pets[0].x is not",
        ),
        ({"tags": [{"kind": "text", "text": "a", "x": 1}]}, "tags[0].x", "unsupported_parameter", "tags[0].x is not"),
        ({"tags": [{"kind": "text", "text": 1}]}, "tags[0].text", "invalid_type", "tags[0].text=1: must be"),
        ({"tags": [{"kind": "text"}]}, "tags[0].text", "missing_required_parameter", "tags[0].text is missing"),
        ({str(number): 1 for number in range(101)}, None, "invalid_value", "must have at most 100 fields, not 101"),
        ([], None, "invalid_type", "must be a valid dictionary"),
    ],
)
def test_validation_names_the_field(body: object, param: str | None, code: str, message: str) -> None:
    told = complaint(body)
    assert told.status == 400
    assert (told.param, told.code) == (param, code)
    assert told.message.startswith(message)
    assert len(told.message) < 300


def test_a_missing_field_is_named() -> None:
    told = complaint({"pets": [{"kind": "dog"}]})
    assert (told.param, told.code, told.message) == (
        "pets[0].name",
        "missing_required_parameter",
        "pets[0].name is missing",
    )
