"""Input and output of `meterhouse decode`. Reads bytes in any hex notation, and prints one JSON object or a table."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import click

from agent.cli.common import as_complaint, say, speaks_chinese
from agent.cli.reading_words import STEP_WORDS, word_in
from drivers.explain import MAX_TEXT, BrokenInput, Json, number
from drivers.model import clean_text, sentences

MAX_INPUT = 1 << 24  # limit of the bytes that are read from standard input
HEX_HINT = "Write bytes as 68 61, 6861, 68:61 or 0x68 0x61"
_QUOTE = re.compile(r"""\bb?["']""")  # finds the opening quotes of a Python or C literal, which are removed first
_PREFIX = re.compile(r"0[xX]|\\x|\$")
# characters that can separate bytes, including the Chinese forms of , : ;
_BETWEEN = re.compile(r"""[\s:,;_|"'(){}\[\]\u200b\ufeff\uff0c\uff1a\uff1b-]+""")
_SUFFIX = re.compile(r"([0-9A-Fa-f]{2})[hH]")


def hex_bytes(words: Sequence[str]) -> bytes:
    """Return bytes from hex in any usual notation: with spaces, colons, commas, 0x or h, or as a C or Python literal.

    If all bytes are separated, a single digit is a byte too, because some tools print 3 for 03. If ``words`` is only
    ``-``, the hex is read from standard input. Raises BrokenInput.
    """
    if list(words) == ["-"]:
        words = [sys.stdin.buffer.read(MAX_INPUT).decode("utf-8", "replace")]
    text = _PREFIX.sub(" ", _QUOTE.sub(" ", " ".join(words)))
    pieces = [_SUFFIX.sub(r"\1", piece) for piece in _BETWEEN.split(text) if piece]
    if len(pieces) > 1 and all(len(piece) <= 2 for piece in pieces):
        pieces = [piece.rjust(2, "0") for piece in pieces]
    digits = "".join(pieces)
    wrong = re.search("[^0-9A-Fa-f]", digits)
    if wrong is not None:
        what = f"Character {wrong.start() + 1}, {clean_text(wrong[0])!r}, is not a hex digit"
        raise BrokenInput(f"not hex: {clean_text(digits, 40)!r}", hint=f"{what}. {HEX_HINT}")
    if len(digits) % 2:
        what = f"Each byte has two digits, but the number of digits is {len(digits)}: one digit is missing or extra"
        raise BrokenInput(f"not hex: {clean_text(digits, 40)!r}", hint=what)
    return bytes.fromhex(digits)


def read_json(path: Path, parse_float: Any = float) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32. ``-`` means standard input. Raises BrokenInput."""
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return json.loads(raw, parse_float=parse_float)
    except OSError as error:
        raise BrokenInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BrokenInput(f"{path} is not JSON: invalid UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise BrokenInput(f"{path}: the JSON is nested too deeply") from error
    except ValueError as error:
        raise BrokenInput(f"{path} is not JSON: {clean_text(str(error), 120)}", hint=_hex_hint(raw)) from error


def _hex_hint(raw: bytes) -> str:
    """Return a hint if a file that should be JSON contains hex; "" if it does not."""
    if not re.fullmatch(rb"[0-9A-Fa-f\s:,xX-]{8,}", raw[:MAX_TEXT]):
        return ""
    return "The input looks like hex: use the command of its protocol, `meterhouse decode PROTOCOL - < FILE`"


def finish(decoded: Json, as_json: bool) -> NoReturn:
    """Print one result, and end the process with the exit code of this result."""
    if as_json:
        click.echo(json.dumps(decoded, ensure_ascii=False, default=number))
    elif decoded["ok"]:
        _print_table(decoded)
    else:
        if decoded.get("readings"):  # print the readings that were decoded before the error
            _print_table(decoded)
        click.echo(say(f"cannot decode: {sentences(decoded['error'], decoded.get('hint', ''))}"), err=True)
    raise SystemExit(0 if decoded["ok"] else 4)


def run(decode: Any, as_json: bool) -> NoReturn:
    """Call ``decode``, print its result or its error, and end the process."""
    try:
        decoded = {"ok": True, **decode()}
    except BrokenInput as broken:
        hint = {"hint": broken.hint} if broken.hint else {}
        decoded = {"ok": False, "error": broken.error, **hint, **broken.partly}
    finish(decoded, as_json)


def _print_table(decoded: Json) -> None:
    for frame in decoded.get("frames") or [decoded.get("frame") or {}]:
        shown = {k: v for k, v in frame.items() if v not in (None, "", []) and k != "readings"}
        if shown:
            click.echo("  ".join(f"{key}={value}" for key, value in shown.items()))
    for reading in decoded.get("readings", ()):
        value = "-" if reading["value"] is None else reading["value"]
        if isinstance(value, Decimal):
            value = format(value, "f")
        notes = [f"{k} {reading[k]}" for k in ("quality", "storage", "tariff", "function", "time") if k in reading]
        line = f"{reading['name']:<36} {value!s:>16} {reading['unit']:<8} {', '.join(notes)}"
        click.echo(line.rstrip() + (f"  ({reading['label']})" if "label" in reading else ""))
    for model in decoded.get("models", ()):
        click.echo(say(f"model {model['id']} at {model['address']}, {model['length']} registers"))
        for name, value in model["points"].items():
            if value is not None:
                click.echo(f"  {name:<34} {value!s:>16}")
    for step in decoded.get("steps", ()):
        increment = "?" if step["increment"] is None else step["increment"]
        kind = word_in(STEP_WORDS, step["kind"], "zh" if speaks_chinese() else "en")
        click.echo(f"{step['time']!s:<32} {increment!s:>16}  {kind}")
    for warning in decoded.get("warnings", ()):
        click.echo(as_complaint("warning", warning), err=True)
