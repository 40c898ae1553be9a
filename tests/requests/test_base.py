"""What is wrong with a request is told by the field that is at fault."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from genai.errors import RequestError
from genai.requests.base import Request, WholeRequest, ignored_fields, invalid, read
from genai.requests.completions import CompletionRequest
from genai.requests.foreign import HARMLESS, REFUSED, RENAMED


class Dog(Request):
    kind: Literal["dog"]
    name: str


class Cat(Request):
    kind: Literal["cat"]
    lives: int = Field(ge=1)


class Collar(Request):
    kind: Literal["text"]
    text: str


class Owner(WholeRequest):
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
        ({"audio": {"voice": "x"}}, "audio", "unsupported_parameter", "audio is not supported: models here write"),
        ({"age": 201}, "age", "invalid_value", "age=201: must be less than or equal to 200"),
        ({"age": "1"}, "age", "invalid_type", 'age="1": must be a valid number'),
        ({"age": True}, "age", "invalid_type", "age=true: must be a valid number"),
        ({"age": float("inf")}, "age", "invalid_value", "age=Infinity: must be a finite number"),
        ({"stop": 5}, "stop", "invalid_type", "stop=5: must be a valid string or a valid list"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type", "stop[1]=5: must be a valid string"),
        ({"pets": [{"kind": "cat", "lives": 0}]}, "pets[0].lives", "invalid_value", "pets[0].lives=0"),
        ({"pets": [{"kind": "dog", "name": ["x" * 500]}]}, "pets[0].name", "invalid_type", 'pets[0].name=["xxx'),
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


def test_null_is_as_good_as_left_out_everywhere() -> None:
    nothing = {"age": None, "stop": None, "unheard_of": None, "audio": None}
    assert read(Owner, {"pets": [{"kind": "dog", "name": "Rex", "x": None}], **nothing}).age == 1
    assert ignored_fields(Owner, nothing) == []
    with pytest.raises(RequestError, match=r"^pets\[0\]\.name is missing$"):
        read(Owner, {"pets": [{"kind": "dog", "name": None}]})


def test_what_is_empty_is_as_good_as_left_out() -> None:
    assert read(Owner, {"pets": [], "stop": "", "functions": [], "unheard_of": {}}) == Owner()
    assert ignored_fields(Owner, {"unheard_of": {}, "elsewhere": "", "and": []}) == []


def test_unknown_fields_of_parts_are_ignored() -> None:
    owner = read(Owner, {"pets": [{"kind": "cat", "lives": 9, "colour": "black"}]})
    assert owner.model_dump()["pets"] == [{"kind": "cat", "lives": 9}]


def test_unknown_fields_of_the_whole_are_told() -> None:
    body = {"age": 3, "aeg": 4, "user": "me", "audio": False, "num_predict": 0, "thinking_budget": 5}
    assert read(Owner, body).age == 3
    assert ignored_fields(Owner, body) == ["aeg", "num_predict", "thinking_budget"], (
        "there is nothing that they could be"
    )
    with pytest.raises(RequestError, match="guided_regex is not supported: this API does not have it"):
        read(Owner, {"guided_regex": "a"})


class Pattern(WholeRequest):
    regex: str | None = None
    max_tokens: int | None = None


def test_other_servers_names() -> None:
    assert read(Pattern, {"guided_regex": "a", "n_predict": 5}) == Pattern(regex="a", max_tokens=5)
    assert read(Pattern, {"guided_regex": "a", "regex": "b"}).regex == "b"
    assert ignored_fields(Pattern, {"guided_regex": "a", "regex": "b"}) == ["guided_regex"]
    with pytest.raises(RequestError, match=r'^max_tokens="5"'):
        read(Pattern, {"n_predict": "5"})


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_unless_it_asks_for_nothing(name: str) -> None:
    class Nothing(WholeRequest):
        pass

    with pytest.raises(RequestError, match=f"^{name} is not supported: ") as caught:
        read(Nothing, {name: {"some": "thing"}})
    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    for nothing in (None, False, 0, "", [], {}, *REFUSED[name].off):
        read(Nothing, {name: nothing})
        assert ignored_fields(Nothing, {name: nothing}) == []


def test_a_field_is_in_one_table() -> None:
    assert not HARMLESS.keys() & REFUSED.keys()
    assert not RENAMED.keys() & (HARMLESS.keys() | REFUSED.keys() | set(RENAMED.values()))


def test_another_servers_name_counts_where_the_own_one_is_null() -> None:
    body = {"prompt": "a", "max_tokens": None, "max_new_tokens": 5}
    assert read(CompletionRequest, body).max_tokens == 5
    assert ignored_fields(CompletionRequest, body) == []
