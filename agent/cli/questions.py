"""Questions to the person at the terminal. Where there is none, an error names the option that answers them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from agent.cli.common import say
from drivers.model import UsageError, sentences
from drivers.toml.parsers import InvalidValue

T = TypeVar("T")
_CONFIRM: Mapping[str, str] = {"en": "Write it?", "zh": "是否写入？"}


def is_terminal() -> bool:
    """Can a person answer?"""
    return sys.stdin.isatty()


def asked(question: str, parse: Callable[[Any], T], default: str | None = None, *, hidden: bool = False) -> T:
    """The answer, once it is valid; each wrong one is explained. ``default``: for an empty answer."""

    def process(text: str) -> T:
        try:
            return parse(text.strip() if not hidden else text)
        except InvalidValue as wrong:
            raise click.UsageError(say(sentences(wrong.what, wrong.hint))) from None
        except UsageError as wrong:
            raise click.UsageError(say(str(wrong))) from None

    answer: T = click.prompt(
        question, default=default, value_proc=process, err=True, hide_input=hidden, show_default=bool(default)
    )
    return answer


def given(option: str, parse: Callable[[object], T], text: object) -> T:
    """The value of an option. Raises UsageError naming it."""
    try:
        return parse(text)
    except InvalidValue as wrong:
        raise UsageError(wrong.what, where=option, hint=wrong.hint) from None


def confirmed(yes: bool, where: str, language: str, question: str = "") -> None:
    """Ask before something is written. Raises UsageError where nobody can answer; Abort for a no."""
    if yes:
        return
    if not is_terminal():
        raise UsageError("confirmation needed, but stdin is not a terminal", where=where, hint="Use --yes")
    click.confirm(question or _CONFIRM[language], abort=True, err=True)
