"""Words that may not come back: private names for things that have a usual one, and phrases no native speaker writes.

Checked are identifiers and module names; the phrases in the texts that operators read (strings), in docstrings and
comments, and on the pages of docs/ with the decisions, the README and the changelog (not in code blocks: those quote
programs). docs/decisions/0023 explains the rule. A name may return once it is the usual name of something else: then it
leaves the list, with a reason in the commit.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

ROOT = Path(__file__).parents[2]
RELEASED = "agent/store/schema.py"  # its texts are steps of databases that exist

# word -> what the field calls it
NAMES = {
    "Agenda": "ScanPlan",
    "AgentLives": "AgentRunning",
    "Asked": "Block",
    "Balancer": "BalanceReport",
    "Ballast": "DiskReserve",
    "Behind": "LaggingStream",
    "Bell": "WakePipe",
    "Board": "LatestFigures",
    "Book": "PageSource",
    "Borrowed": "BorrowedLine",
    "Closing": "RowBuilder",
    "Contacts": "IdentityChecker",
    "Cut": "Calendar",
    "Desk": "ControlServer",
    "Disobeyed": "LimitExceeded",
    "Doubt": "DamageVerifier",
    "Ear": "TrafficTrace",
    "FactBook": "FactLookup",
    "FaultBox": "ActiveFaults",
    "Fleet": "DeviceManager",
    "Guest": "Connection",
    "Happening": "CounterEvent",
    "Headed": "StreamPosition",
    "Heard": "Response",
    "Hunt": "ScanOptions",
    "Hunter": "FrameScanner",
    "Intake": "PackTable",
    "Judge": "AnomalyDetector",
    "Kept": "AnswerBuffer",
    "Lane": "OutboxCursor",
    "LearnsMap": "KnownHoles",
    "Life": "Availability",
    "Mail": "MessageQueue",
    "Mailbox": "InboundQueue",
    "Manners": "RequestOptions",
    "Paces": "GrowthRates",
    "Parcel": "OutgoingMessage",
    "Patience": "ReconnectBackoff",
    "Pen": "ActiveKey",
    "Pulse": "Watchdog",
    "Pupil": "KnownHoles",
    "Purse": "DailyQuota",
    "Roster": "DeviceCatalog",
    "Rounds": "StoreScrubber",
    "Seldom": "RateLimitedLog",
    "Shelves": "PackTable",
    "Sketch": "TrackedPoints",
    "Slices": "ReadThrottle",
    "Spot": "Point",
    "Suspects": "PoisonDetector",
    "Taken": "DecodedPage",
    "Tally": "CounterKernel",
    "Torn": "IncompleteCheckpoint",
    "Unheard": "NoAnswer",
    "Waste": "RejectionBudget",
    "Watched": "LiveView",
    "Wrong": "InvalidValue",
    "_heard": "_received, _buffer",
    "_lives": "_answers",
    "_said": "_answer",
    "_told": "_last_glitch, _warned",
    "_was_mute": "_on_unanswered",
    "give_way": "release_if_idle",
    "heard": "received, on_answered",
    "lives": "answers, states",
    "mute": "unanswered",
    "said": "answer, result, given, text",
    "shortcoming": "diagnose",
    "told": "result, reported",
}
FILES = {"values.py", "words.py", "records.py", "utils.py", "helpers.py"}  # names that could hold anything
LEFT = {  # until protocols get their common layout
    "drivers/cjt188/values.py",
    "drivers/dlt645/values.py",
    "drivers/mbus/records.py",  # the standard's word
    "drivers/mbus/values.py",
}
PHRASES = {
    r"(?<!here )\b(?:is|are) no (?!longer|more\b)": "invalid X, not a X, unknown X",
    r"\bof before\b": "previous",
    r"\bwhoever\b": "the one that, or a subject with a name",
    r"\bas far as it goes\b": "the valid part",
    r"\bnobody is here\b": "stdin is not a terminal",
    r"\bhung up\b": "closed the connection",
    r"\bthings? (?:is|are) wrong\b": "errors",
    r"\b(?-i:Say) (?:it|one|which|so|ratio|modules|racks)\b": "Use, Give, Set",
    r"\bmust be said\b": "is missing",
    r"(?<!technician )\bwants (?:a|an|one|either)\b": "needs, must be",
    r"\b(?:is|stands) there twice\b": "duplicate",
    r"\bin force\b": "in effect",
    r"\b(?-i:so long)\b": "for this long",
    r"\bever less often\b": "backing off",
    r"\bmeans nothing\b": "does not apply",
}


def files() -> list[Path]:
    found = [p for folder in ("agent", "drivers", "ext", "receiver") for p in (ROOT / folder).rglob("*.py*")]
    return sorted(p for p in found if p.suffix in (".py", ".pyx", ".pyi"))


def pages() -> list[Path]:
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of all strings, docstrings too; the values of an f-string are ``{}``."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "{}" for one in node.values]
            skipped.update(id(one) for one in node.values)
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def comments(source: str) -> Iterator[tuple[int, str]]:
    """(line of its beginning, text) of each comment; those in lines that follow each other are one."""
    first, last, parts = 0, -1, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != last + 1:
                yield first, " ".join(parts)
                first, parts = token.start[0], []
            parts.append(token.string.lstrip("# "))
            last = token.start[0]
    yield first, " ".join(parts)


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, identifier) of what is defined or named."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def kernel_texts(source: str) -> Iterator[tuple[int, str]]:
    """The strings of a kernel, which is not Python: those in one line."""
    for number, line in enumerate(source.split("\n"), 1):
        if '"""' not in line:
            yield from ((number, text) for text in re.findall(r'"([^"]*)"', line))


def phrases(shown: str, said: Iterable[tuple[int, str]]) -> Iterator[str]:
    for line, text in said:
        plain = " ".join(text.split())  # a phrase may lie in two lines
        for pattern, better in PHRASES.items():
            if found := re.search(pattern, plain, re.IGNORECASE):
                near = plain[max(0, found.start() - 40) : found.end() + 40]
                yield f"{shown}:{line}: {found[0]!r} in {near!r}. Better: {better}"


def page_complaints(page: Path, root: Path = ROOT) -> Iterator[str]:
    text = re.sub(
        r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    line = 1
    for paragraph in re.split(r"(?<=\n)(?=\n|\||- )", text):
        yield from phrases(str(page.relative_to(root)), [(line, re.sub(r"`[^`]*`", "``", paragraph))])
        line += paragraph.count("\n")


def complaints(path: Path, root: Path = ROOT) -> Iterator[str]:
    source, shown = path.read_text("utf-8"), str(path.relative_to(root))
    if path.suffix == ".pyx":
        said, named = list(kernel_texts(source)), [(0, word) for word in re.findall(r"\b\w+\b", source)]
    else:
        tree = ast.parse(source)
        said, named = [*texts(tree), *comments(source)], list(names(tree))
    yield from phrases(shown, said if shown != RELEASED else ())
    for line, name in named:
        if name in NAMES:
            yield f"{shown}:{line}: {name}. Better: {NAMES[name]}"
    if path.name in FILES and shown not in LEFT:
        yield f"{shown}: the name of this file could hold anything"


def test_no_word_comes_back() -> None:
    found = [line for path in files() for line in complaints(path)]
    found += [line for page in pages() for line in page_complaints(page)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ('raise ValueError(f"{x!r} is no label")', "is no"),
        ('log.warning("%s: the configuration of before stays", x)', "of before"),
        ("class Purse:\n    pass", "Purse"),
        ("x.give_way()", "give_way"),
    ],
)
def test_the_check_finds_what_it_is_for(tmp_path: Path, source: str, word: str) -> None:
    path = tmp_path / "one.py"
    path.write_text(source)
    assert word in "\n".join(complaints(path, tmp_path))


@pytest.mark.parametrize(
    "text", ["x = 1  # In\n# force", 'def one() -> None:\n    """The birth in\n    force."""', "kernel = 'in force'"]
)
def test_the_phrases_are_found_in_comments_docstrings_and_strings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "one.py"
    path.write_text(text)
    assert ["in force" in line.lower() for line in complaints(path, tmp_path)] == [True]


def test_the_phrases_are_found_on_pages_but_not_in_what_they_quote(tmp_path: Path) -> None:
    page = tmp_path / "one.md"
    page.write_text("# One\n\n```\nin force\n```\n\n`in force` is fine\n- one stays in\n  force\n")
    assert [line.partition(": ")[0] for line in page_complaints(page, tmp_path)] == ["one.md:8"]


def test_the_exceptions_exist() -> None:
    assert all((ROOT / one).is_file() for one in (*LEFT, RELEASED))
