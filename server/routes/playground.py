"""`GET /`: the playground, one page that asks for nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse

router = APIRouter()

_PAGE = Path(__file__).parents[1] / "static" / "index.html"
_HEADERS = {
    "content-security-policy": "frame-ancestors 'none'",  # the rest stands in the page
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page."""
    return FileResponse(_PAGE, media_type="text/html; charset=utf-8", headers=_HEADERS)
