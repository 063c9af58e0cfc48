"""Translates the texts that people see into Chinese: errors, warnings, hints, tables of `check` and `watch`.

The code writes English. The catalogue consists of the text files in this folder, and of ``chinese.txt`` of each
protocol. Each English text is followed by an indented line with the Chinese text. `{}` stands for an inserted value. If
Chinese needs another order, `{0}` stands for the first value, and `{1}` for the second. A value is translated too if it
is in the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

PART: Final = re.compile(r"(\. |; |(?<=[?!]) )")  # separators between the sentences of a text
MARKS: Final = {". ": "。", "; ": "；", " ": ""}
LETTERS: Final = re.compile("[A-Za-z]")
# a place such as "line roof unit 1", as Device.where writes it
ADDRESS: Final = re.compile(r"(.+?),? (unit|address) (\S+)")
PROFILE_ON: Final = re.compile(r"(\S+) on (\S+)")  # PROFILE on DEVICE, as drivers/plan/compiled.py writes it
OF_PERIOD: Final = re.compile(r"(\S+) of (\d.*)")  # FIGURE of PERIOD, as `verify --recompute` writes it
MEASURES: Final = {
    "ms": "毫秒", "s": "秒", "min": "分钟", "h": "小时", "d": "天", "days": "天",
    "packs": "个数据包", "streams": "个数据流",
}  # fmt: skip
# texts such as "3 packs"; they have no template, because "{} packs" would also match sentences that end with "packs"
COUNTED: Final = re.compile(rf"(-?\d[\d,.]*) ({'|'.join(MEASURES)})")
VALUE: Final = re.compile(r"\{(\d?)\}")
MOST_SENTENCES: Final = 6  # a template has at most this many sentences
MOST_PLACES: Final = 6  # only this many colons of a text are tried as the end of WHERE in `WHERE: WHAT`
DEPTH: Final = 2  # values inside values are translated down to this level


class Pair(NamedTuple):
    """An English template and its translation, with the path of the file that has both."""

    english: str
    chinese: str
    file: str


def read_pairs() -> Iterator[Pair]:
    """Yield all pairs of the catalogue, in the order of the files."""
    from drivers.registry import all_protocols

    own = sorted(Path(__file__).parent.glob("*.txt"))
    for path in (*own, *(protocol.chinese for protocol in all_protocols() if protocol.chinese)):
        english = ""
        for line in path.read_text("utf-8").splitlines():
            if line.startswith("    "):
                yield Pair(english, line.strip(), str(path))
            elif line and not line.startswith("# "):
                english = line


class _Template:
    """A pair of the catalogue. The English text is split at its values, so that other texts can be matched with it."""

    def __init__(self, pair: Pair) -> None:
        self.chinese = pair.chinese
        self.literals = pair.english.split("{}")
        self.size = sum(map(len, self.literals))
        self.sentences = len(PART.findall(pair.english))

    def values(self, text: str) -> list[str] | None:
        """Return the inserted values of a text, each as short as possible; None if the text does not match."""
        if len(self.literals) == 1:
            return [] if text == self.literals[0] else None
        first, *inner, last = self.literals
        if not text.startswith(first) or not text.endswith(last):
            return None
        found, at, end = [], len(first), len(text) - len(last)
        for literal in inner:
            place = text.find(literal, at, end)
            if place < 0:
                return None
            found.append(text[at:place])
            at = place + len(literal)
        return [*found, text[at:end]] if at <= end else None


@lru_cache(maxsize=1)
def _catalogue() -> tuple[_Template, ...]:
    """Return all templates. Templates with more literal text come first, because they are more specific."""
    return tuple(sorted(map(_Template, read_pairs()), key=lambda template: -template.size))


@lru_cache(maxsize=1)
def plain_texts() -> Mapping[str, str]:
    """Return English text -> Chinese text, for all texts without inserted values."""
    return {pair.english: pair.chinese for pair in read_pairs() if "{}" not in pair.english}


@lru_cache(maxsize=1)
def _labels() -> Mapping[str, str]:
    """Return English label -> Chinese label, for all texts of the form `LABEL: {}`."""
    pairs = ((pair.english.removesuffix(": {}"), pair.chinese.removesuffix("：{}"), pair) for pair in read_pairs())
    return {
        english: chinese
        for english, chinese, pair in pairs
        if english != pair.english and chinese != pair.chinese and "{" not in english + chinese
    }


def find(text: str, depth: int = DEPTH, anything: bool = False) -> str | None:
    """Return the translation of a text that one template matches as a whole; None if no template matches.

    ``anything``: True if values may contain several sentences. Then templates with fewer sentences than ``text`` match
    too.
    """
    if (counted := translate_measure(text)) != text:
        return counted
    sentences = len(PART.findall(text))
    for template in _catalogue():
        if template.sentences != sentences and not anything:
            continue
        values = template.values(text)
        if values is not None:
            shown = [  # what stands between quotes is written so in a file
                translate(value, depth - 1) if depth and " " in value and not before.endswith('"') else value
                for before, value in zip(template.literals, values, strict=False)
            ]
            return _insert(shown, template.chinese)
    return None


def translate_measure(text: str) -> str:
    """Return a duration or another number with a unit of ``MEASURES`` in Chinese; any other text unchanged."""
    counted = COUNTED.fullmatch(text)
    return f"{counted[1]} {MEASURES[counted[2]]}" if counted else text


def _insert(values: Sequence[str], template: str) -> str:
    order = iter(range(len(values)))
    return VALUE.sub(lambda hole: values[int(hole[1] or next(order))], template)


def translate(text: str, depth: int = DEPTH) -> str:
    """Return a text in Chinese. Sentences that are not in the catalogue stay English."""
    if (plain := plain_texts().get(text)) is not None:
        return plain
    pieces = PART.split(text)  # the pieces are: sentence, separator, sentence, and so on
    out, at, missing = "", 0, False
    while at < len(pieces):
        for end in range(
            min(len(pieces), at + 2 * MOST_SENTENCES - 1), at, -2
        ):  # try the longest sequence of sentences first, because a template may have several sentences
            run = "".join(pieces[at:end])
            found = _find_run(run, depth)
            # a template may have matched WHERE as part of a value and left it English, so also translate WHERE and WHAT
            # separately
            if end == at + 1 and (found is None or LETTERS.search(found)):
                either = [one for one in (found, _with_place(run, depth)) if one is not None]
                found = min(either, key=lambda text: len(LETTERS.findall(text)), default=None)
            if found is not None:
                break
        out += run if found is None else found
        missing = missing or (found is None and bool(run))
        if end < len(pieces):
            out += MARKS[pieces[end]]
        at = end + 1
    if not missing:
        return out
    whole = find(text, depth, anything=True) or text
    return min(whole, out, key=lambda text: len(LETTERS.findall(text)))  # choose the text with fewer English letters


def _find_run(text: str, depth: int) -> str | None:
    """Return the result of ``find``. The text may end with a full stop that the template does not have."""
    found = find(text, depth)
    if found is None and text.endswith(".") and (found := find(text[:-1], depth)) is not None:
        found += "。"
    return found


def translate_place(where: str) -> str:
    """Return the place of an error, such as "line roof", in Chinese.

    A single word is a name, key or path, and stays as it is.
    """
    return "：".join(map(_place, where.split(": ")))


def _place(part: str) -> str:
    if part.endswith(")") and " (" in part:  # such as "inv1 (line roof unit 1)"
        name, _, inner = part[:-1].partition(" (")
        return f"{_place(name)}（{_place(inner)}）"
    if found := ADDRESS.fullmatch(part):
        return f"{_place(found[1])} {'从站' if found[2] == 'unit' else '地址'} {found[3]}"
    if found := PROFILE_ON.fullmatch(part) or OF_PERIOD.fullmatch(part):
        return f"{found[2]} 的 {found[1]}"
    return (find(part, 0) if " " in part else None) or part


def _with_place(text: str, depth: int) -> str | None:
    """Return the translation of `WHERE: WHAT`, which is an error inside another text; None if there is none.

    WHERE may also be a label, such as "not verified".
    """
    for colon in islice(re.finditer(": ", text), MOST_PLACES):
        found = find(text[colon.end() :], depth)
        if found is not None:
            where = text[: colon.start()]
            return f"{_labels().get(where) or translate_place(where)}：{found}"
    return None


def describe(where: str, what: str, hint: str = "") -> str:
    """Return an error or a warning as one line in Chinese."""
    line = f"{translate_place(where)}：{translate(what)}"
    stop = "" if line.endswith("？") else "。"
    return f"{line}{stop}{translate(hint)}" if hint else line
