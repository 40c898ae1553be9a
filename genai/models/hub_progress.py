"""The hub client's progress bars as calls of our own `Progress`."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm  # type: ignore[import-untyped]

from genai.progress import Progress


def bars_to(progress: Progress, label: str) -> type:
    """A tqdm class that draws nothing and reports bytes.

    The client shows bytes received and bytes written in two bars; the one that is ahead is reported.
    """
    furthest = 0

    class _Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            self._done = 0
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            nonlocal furthest
            self._done += int(n or 0)
            if self._counts_bytes and self._done > furthest:
                furthest = self._done
                progress(label, furthest, max(furthest, int(self.total or 0)))

    return _Bar
