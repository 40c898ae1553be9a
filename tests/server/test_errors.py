"""The table of errors."""

from __future__ import annotations

import json
import logging

import pytest

from genai.errors import (
    CapacityError,
    ConfigError,
    GenAIError,
    GraphRunError,
    ModelNotFoundError,
    QueueFullError,
    RequestError,
    TokenizerError,
)
from server.context import request_context
from server.errors import ApiError, api_error, error_json


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (CapacityError("9 > 8"), 400, "invalid_request_error", "context_length_exceeded"),
        (ConfigError("no"), 400, "invalid_request_error", "invalid_value"),
        (TokenizerError("no"), 400, "invalid_request_error", "invalid_value"),
        (QueueFullError("full"), 429, "rate_limit_error", "queue_full"),
        (ModelNotFoundError("none"), 404, "invalid_request_error", "model_not_found"),
        (RequestError("no", code="invalid_type", param="n"), 400, "invalid_request_error", "invalid_type"),
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
