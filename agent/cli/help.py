"""Writes the help of commands in the language of the terminal. Each text that click writes is translated here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import click

from agent.cli.common import columns, say, speaks_chinese

EXTRA: Final = re.compile(r"  \[([^\[\]]*)\]$")  # finds the part in brackets that click adds to the text of an option
EXTRAS: Final = (("default: ", "默认："), ("env var: ", "环境变量："), ("required", "必填"))
USAGE: Final = (("[OPTIONS]", "[选项]"), ("COMMAND [ARGS]...", "命令 [参数]..."))
VERBATIM: Final = "\b"  # click does not rewrap a paragraph that begins with this character


class TranslatedFormatter(click.HelpFormatter):
    """click's formatter for two languages. In Chinese, it translates each text and counts two columns per character."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the usage line."""
        if speaks_chinese():
            for english, chinese in USAGE:
                args = args.replace(english, chinese)
            prefix = say("Usage:")
        super().write_usage(prog, args, prefix)

    def write_heading(self, heading: str) -> None:
        """Write the heading of a list."""
        if speaks_chinese():
            self.write(f"{'':>{self.current_indent}}{say(heading)}：\n")
        else:
            super().write_heading(heading)

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        if not speaks_chinese():
            super().write_text(text)
            return
        indent = " " * self.current_indent
        shown = []
        for paragraph in re.split(r"\n[ \t]*\n", text):
            lines = paragraph.strip("\n").split("\n")
            if lines[0].strip() == VERBATIM:
                found = _in_lines(lines[1:], self.width - self.current_indent)
            else:
                found = wrapped(say(" ".join(" ".join(lines).split())), self.width - self.current_indent)
            shown.append("\n".join(indent + line for line in found))
        self.write("\n\n".join(shown) + "\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a list of options or commands, each with its text."""
        if not speaks_chinese():
            super().write_dl(rows, col_max, col_spacing)
            return
        rows = list(rows)
        first = min(max((columns(name) for name, _ in rows), default=0), col_max) + col_spacing
        for name, text in rows:
            head = " " * self.current_indent + name
            room = self.width - self.current_indent - first
            lines = wrapped(_option(text), room) or [""]
            if columns(name) > first - col_spacing:
                self.write(head + "\n")
            else:
                self.write(f"{head}{' ' * (first - columns(name))}{lines.pop(0)}\n")
            for line in lines:
                self.write(" " * (self.current_indent + first) + line + "\n")


RANGE: Final = re.compile(r"(\S+) is not in the range (\S+?)<=x<=(\S+?)\.")
PLAIN: Final = (  # (a text of click, the text that our own messages use for it)
    ("is not a valid integer range", "is not a whole number"), ("is not a valid integer", "is not a whole number"),
    ("is not a valid float range", "is not a number"), ("is not a valid float", "is not a number"),
)  # fmt: skip
SEVERAL: Final = re.compile(r"\.? \(Did you mean one of: (.*)\?\)")


def usage_message(error: click.UsageError) -> str:
    """Return the text of click's error about a command line, in the style of our own messages, in English."""
    text = error.format_message()
    for theirs, ours in PLAIN:
        text = text.replace(theirs, ours)
    text = RANGE.sub(r"\1 is out of range. Allowed: \2 to \3", text)
    return SEVERAL.sub(r". Did you mean \1?", text).removesuffix(".")


def _option(text: str) -> str:
    """Return the translated text of an option, with click's additions."""
    found = EXTRA.search(text)
    if found is None:
        return say(_uncut(text))
    extra = found[1]
    for english, chinese in EXTRAS:
        extra = extra.replace(english, chinese)
    default = extra.partition("默认：")[2]
    if " " in default:  # a default with spaces is not a value but words, which need a translation
        extra = extra.replace(default, say(default))
    return f"{say(text[: found.start()])}  [{extra}]"


def _uncut(text: str) -> str:
    """Return the whole first sentence of a command's help, which click has cut to the line width."""
    from agent.cli.chinese import plain_texts

    if not text.endswith("..."):
        return text
    begin = text.removesuffix("...")
    return next((whole for whole in plain_texts() if whole.startswith(begin)), text)


def _in_lines(lines: Sequence[str], width: int) -> list[str]:
    """Translate a paragraph with fixed lines.

    Exit codes are translated as one text. In examples, only remarks after the commands are translated.
    """
    from agent.cli.chinese import plain_texts

    whole = " ".join(" ".join(lines).split())
    if whole in plain_texts():
        return wrapped(say(whole), width)
    shown = []
    for line in lines:
        command, space, words = line.rpartition("   ")
        shown.append(f"{command}{space}{say(words)}" if command.strip() else line if line[:1] == " " else say(line))
    return shown


PIECE: Final = re.compile(  # finds pieces that are never broken: a word or a Chinese character, with its punctuation
    r"\s+|[（“《〔]*(?:[^\s\u2e80-\u9fff\u3000-\u303f\uff00-\uffef“”…]+|[\u2e80-\u2fff\u3040-\u9fff…])?[，。；：、）”》〕？！]*"
)


def wrapped(text: str, width: int) -> list[str]:
    """Return lines of at most ``width`` columns.

    Lines break at spaces and between Chinese characters, but not before punctuation.
    """
    lines, line, used = [], "", 0
    for piece in PIECE.findall(text):
        size = columns(piece)
        if line and used + size > width and piece.strip():
            lines.append(line.rstrip())
            line, used = "", 0
        if line or piece.strip():
            line, used = line + piece, used + size
    return [*lines, line.rstrip()] if line.strip() else lines
