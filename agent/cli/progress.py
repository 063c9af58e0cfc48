"""A progress bar on stderr, for commands that take longer than a person likes to wait without a sign."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Update(Protocol):
    """Reports progress."""

    def __call__(self, done: float, total: float | None = None, text: str = "") -> None:
        """``total`` None: not known. ``text`` is shown before the bar in place of the count."""


def no_progress(done: float, total: float | None = None, text: str = "") -> None:
    """Shows nothing."""


@contextmanager
def progress(unit: str) -> Iterator[Update]:
    """A bar while the context is open, removed at its end; nothing if stderr is not a terminal.

    Args:
        unit: what ``done`` counts, such as "packs".
    """
    if not sys.stderr.isatty():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(unit, total=None)

        def update(done: float, total: float | None = None, text: str = "") -> None:
            bar.update(task, completed=done, total=total, description=text or f"{done:.0f} {unit}")

        yield update
