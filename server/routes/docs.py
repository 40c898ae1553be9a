"""`GET /docs`: the OpenAPI document as one page to read, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, Template
from starlette.requests import Request
from starlette.responses import HTMLResponse

router = APIRouter()

_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(page(request.app.openapi()), headers=_HEADERS)


def page(document: Mapping[str, object]) -> str:
    """An OpenAPI document as HTML."""
    return _template().render(document=document)


@cache
def _template() -> Template:
    folder = Path(__file__).parents[1] / "static"
    return Environment(loader=FileSystemLoader(folder), autoescape=True).get_template("docs.html")
