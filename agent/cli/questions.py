"""Asks questions at the terminal. If stdin is not a terminal, an error names the option to use instead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from agent.cli.common import as_complaint
from drivers.model import UsageError, sentences
from drivers.texts import Catalogue
from drivers.toml.parsers import InvalidValue

T = TypeVar("T")
YES: Final = frozenset({"y", "yes", "是"})
NO: Final = frozenset({"", "n", "no", "否"})
WORDS: Final = Catalogue(__package__, "questions")


def is_terminal() -> bool:
    """True if stdin is a terminal, so that a person can answer."""
    return sys.stdin.isatty()


def asked(question: str, parse: Callable[[Any], T], default: str | None = None, *, hidden: bool = False) -> T:
    """Ask until the answer is valid. Returns the parsed answer. An empty answer means ``default``."""
    while True:
        text: str = click.prompt(question, default=default, err=True, hide_input=hidden, show_default=bool(default))
        try:
            return parse(text if hidden else text.strip())
        except InvalidValue as wrong:
            click.echo(as_complaint("error", sentences(wrong.what, wrong.hint)), err=True)
        except UsageError as wrong:
            click.echo(as_complaint("error", wrong), err=True)


def given(option: str, parse: Callable[[object], T], text: object) -> T:
    """Return the parsed value of an option. Raises UsageError, which names the option."""
    try:
        return parse(text)
    except InvalidValue as wrong:
        raise UsageError(wrong.what, where=option, hint=wrong.hint) from None


def confirmed(yes: bool, where: str, language: str, question: str = "", refused: str = "") -> None:
    """Ask for confirmation before something is written. If ``yes`` is True, do nothing.

    If the answer is no, prints ``refused`` and raises Abort. The default text says that nothing was changed.
    Raises UsageError if stdin is not a terminal.
    """
    if yes:
        return
    if not is_terminal():
        raise UsageError("confirmation needed, but stdin is not a terminal", where=where, hint="Use --yes")
    words = WORDS[language]
    while (answer := click.prompt(f"{question or words['write']} [y/N]", default="", show_default=False, err=True)
           .strip().lower()) not in YES | NO:  # fmt: skip
        click.echo(words["again"], err=True)
    if answer in NO:
        click.echo(refused or words["refused"], err=True)
        raise click.Abort
