"""What is wrong with a request is told by the field that is at fault."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from genai.errors import RequestError
from genai.requests.base import Request, invalid, read


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


def complaint(body: object) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Owner).validate_python(body)
    return invalid(caught.value.errors(), body)


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
    assert (told.param, told.code) == (param, code)
    assert str(told).startswith(message)
    assert len(str(told)) < 300


def test_a_missing_field_is_named() -> None:
    told = complaint({"pets": [{"kind": "dog"}]})
    assert (told.param, told.code, str(told)) == (
        "pets[0].name",
        "missing_required_parameter",
        "pets[0].name is missing",
    )


def test_reading() -> None:
    assert read(Dog, {"kind": "dog", "name": "Rex"}).name == "Rex"
    with pytest.raises(RequestError, match=r"^name is missing$"):
        read(Dog, {"kind": "dog"})
