"""Progress bars on standard error, if that is a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from genai.progress import Progress, silent

_BYTES_FROM = 1 << 20
"""Totals from here on are shown as megabytes: nothing here has a million steps."""


@contextlib.contextmanager
def bars() -> Iterator[Progress]:
    """A `Progress` that draws one bar per label and clears them at the end; silent where nobody looks."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        tasks: dict[str, TaskID] = {}

        def report(label: str, done: int, total: int) -> None:
            if label not in tasks:
                for task in display.tasks:
                    if task.total is None:
                        display.remove_task(task.id)  # what took an unknown time is over when something else begins
                tasks[label] = display.add_task(label, total=total or None, amount="")
            if tasks[label] in display.task_ids:
                display.update(tasks[label], completed=done, total=total or None, amount=_amount(done, total))

        yield report


def _amount(done: int, total: int) -> str:
    if not total:
        return ""
    return f"{done / 1e6:.0f}/{total / 1e6:.0f} MB" if total >= _BYTES_FROM else f"{done}/{total}"
