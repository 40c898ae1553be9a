"""Pages to look at, which ask for nothing from elsewhere: `GET /`, the playground, and `GET /docs`, the API to read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, Template
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse

router = APIRouter()

_FOLDER = Path(__file__).parents[1] / "static"
_PLAYGROUND_HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",  # the rest stands in the page
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_DOCS_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@router.get("/", include_in_schema=False)
async def playground() -> FileResponse:
    """One page, which talks to this server."""
    return FileResponse(_FOLDER / "index.html", media_type="text/html; charset=utf-8", headers=_PLAYGROUND_HEADERS)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The OpenAPI document as one page, without scripts."""
    return HTMLResponse(docs_page(request.app.openapi()), headers=_DOCS_HEADERS)


def docs_page(document: Mapping[str, object]) -> str:
    """An OpenAPI document as HTML."""
    return _docs_template().render(document=document)


@cache
def _docs_template() -> Template:
    return Environment(loader=FileSystemLoader(_FOLDER), autoescape=True).get_template("docs.html")
