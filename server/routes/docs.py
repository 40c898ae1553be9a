"""`GET /docs`: the OpenAPI document as one page to read, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TypeAlias, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse

router = APIRouter()

Node: TypeAlias = "Mapping[str, Node] | list[Node] | str | int | float | bool | None"
Schema: TypeAlias = Mapping[str, Node]

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 0 auto; padding: 1rem }
table { border-collapse: collapse; width: 100% }
td, th { border-bottom: 1px solid #8886; padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top }
code { overflow-wrap: anywhere }
"""


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(page(request.app.openapi()), headers=_HEADERS)


def page(document: Schema) -> str:
    """An OpenAPI document as HTML."""
    paths = cast("Mapping[str, Mapping[str, Schema]]", document["paths"])
    components = cast("Mapping[str, Mapping[str, Schema]]", document["components"])
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    ]
    objects = [_object(name, schema) for name, schema in components["schemas"].items()]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>API</title><style>{_STYLE}</style><h1>API</h1>"
        "<p>The same as data: <a href='openapi.json'>openapi.json</a></p>"
        f"{''.join(operations)}<h1>Objects</h1>{''.join(objects)}</html>"
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    body = cast(Schema, operation.get("requestBody") or {})
    responses = cast("Mapping[str, Schema]", operation["responses"])
    rows = [("Body", _contents(body), "")] if body else []
    rows += [(status, _contents(answer), str(answer["description"])) for status, answer in responses.items()]
    return f"<h2><code>{method} {escape(path)}</code></h2>{_paragraph(operation)}{_table(rows)}"


def _object(name: str, schema: Schema) -> str:
    fields = cast("Mapping[str, Schema]", schema.get("properties", {}))
    required = cast("list[str]", schema.get("required", []))
    rows = [
        (f"{field}{' *' if field in required else ''}", _type(each), str(each.get("description", "")))
        for field, each in fields.items()
    ]
    return f"<h2 id='{escape(name)}'>{escape(name)}</h2>{_paragraph(schema)}{_table(rows)}"


def _paragraph(node: Schema) -> str:
    return f"<p>{escape(str(node.get('description', '')))}</p>"


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    """rows: a name, HTML, and a text."""
    cells = (f"<tr><td><code>{escape(a)}</code><td>{b}<td>{escape(c)}" for a, b, c in rows)
    return f"<table>{''.join(cells)}</table>"


def _contents(node: Schema) -> str:
    kinds = cast("Mapping[str, Schema]", node.get("content", {}))
    return "<br>".join(f"{escape(kind)}: {_type(cast(Schema, each.get('schema', {})))}" for kind, each in kinds.items())


def _type(schema: Schema) -> str:
    """A schema in a few words, with a link to an object's own section."""
    if "$ref" in schema:
        name = escape(str(schema["$ref"]).rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(_type(each) for each in cast("list[Schema]", schema[key]))
    if "const" in schema or "enum" in schema:
        values = cast("list[Node]", schema.get("enum", [schema.get("const")]))
        return escape(" | ".join(map(repr, values)))
    if schema.get("type") == "array":
        return f"[{_type(cast(Schema, schema.get('items', {})))}]"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = (f" {sign} {schema[name]}" for name, sign in limits.items() if name in schema)
    return escape(f"{schema.get('type', 'any')}{','.join(told)}")
