"""TOML files as tables. They know the line of each key, and collect all complaints.

This reader is used for agent.toml, for profiles and for plans of indicators.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from drivers.model import ConfigError, clean_text
from drivers.toml import parsers
from drivers.toml.lines import KeyPath, key_lines
from drivers.toml.parsers import InvalidValue, did_you_mean, show

T = TypeVar("T")
MAX_FILE_BYTES = 4 << 20
_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)\Z")
_DUPLICATE = "Cannot overwrite a value"
# beginning of a tomllib message -> (complaint, hint) in words that a technician understands
_SYNTAX = {
    "Invalid value": (
        "this value is not understood",
        'Write text in quotes, such as name = "inv1"; write true and false without quotes',
    ),
    "Expected '=' after a key in a key/value pair": ("this line has a key without a value", 'Write key = "value"'),
    "Invalid statement": ("this line is not understood", 'Write key = "value", or a [table] header'),
    _DUPLICATE: ("this table already has this key", "Keep only one of the two"),
    "Unclosed array": ("a list is not closed", "Is a ] or a comma missing?"),
    "Unclosed inline table": ("a table in { } is not closed", "Is a } or a comma missing?"),
    "Unterminated string": ("a quote is not closed", 'Is a " missing?'),
    "Illegal character '\\n'": ("a quote is not closed on this line", 'Is a " missing?'),
    "Expected newline or end of document after a statement": (
        "unexpected text after the value",
        "Write only one key per line",
    ),
    "Unescaped '\\' in a string": (
        "this line has a backslash in a quoted text",
        "Write the backslash twice, or use single quotes: 'C:\\path'",
    ),
}

_KEY = re.compile(r"\s*([A-Za-z0-9_.-]{1,60})\s*=")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|#.*")
# Typing errors. The line that tomllib does not understand is searched for them, outside of quotes.
_SLIPS = tuple(
    (re.compile(pattern), slip, hint)
    for pattern, slip, hint in (
        ("[\u201c\u201d\u2018\u2019\u300c\u300d\uff02\uff07]", "these are Chinese or typographic quotes",
         'Switch the input method to English and write straight quotes: name = "inv1"'),
        ("[\uff1a\uff1d]", "this line has a full-width colon or equals sign",
         'Switch the input method to English and write: name = "inv1"'),
        ("[\uff0c\u3001\uff3b\uff3d\uff5b\uff5d\u3010\u3011\u3000]",
         "this line has a full-width comma, bracket or space", "Switch the input method to English"),
        (r"=\s*[-+]?[0-9]+,[0-9]+\s*(?:[,}]|$)", "this line has a number with a comma",
         "Write a decimal point, such as 0.01"),
        (r"=\s*[0-9.]+\s*/\s*[0-9.]+\s*(?:[,}]|$)",
         "this line has a fraction with a slash; only plain numbers are allowed",
         "A ratio is one number: for 400/5 write 80"),
        (r"=\s*0[0-9A-Fa-f]+\s*$|=\s*[0-9][0-9A-Fa-f]*[hH]\s*$|=\s*[0-9]+[A-Fa-f][0-9A-Fa-f]*\s*$",
         "a number on this line begins with 0 or has letters", "Hexadecimal numbers begin with 0x, such as 0x010A"),
    )
)  # fmt: skip


class Complaint(ConfigError):
    """A complaint and its place. The line is None if the file has no such place."""

    def __init__(self, what: str, *, file: str, line: int | None, key: str, hint: str = "") -> None:
        place = file if line is None else f"{file}:{line}"
        super().__init__(what, where=f"{place}: {key}" if key else place, hint=hint)
        self.file, self.line, self.key = file, line, key


class Complaints:
    """All complaints about one or several files."""

    def __init__(self) -> None:
        self.items: list[Complaint] = []

    def add(self, source: TomlSource, path: KeyPath, key: str, what: str, hint: str = "") -> None:
        """Record a complaint about the key at ``path``. ``key`` is the path as it is shown to people."""
        self.items.append(Complaint(what, file=source.name, line=source.line(path), key=key, hint=hint))


@dataclass(slots=True)
class TomlSource:
    """One file. ``text`` is None for the command line, which is treated like a file."""

    name: str
    folder: Path
    text: str | None = None
    order: int = 0
    _places: dict[KeyPath, int] | None = None

    def line(self, path: KeyPath) -> int | None:
        """The line of a key. If the key does not exist, the line of the nearest table around it."""
        if self.text is None or not path:
            return None
        if self._places is None:
            try:
                self._places = key_lines(self.text)
            except RecursionError:  # the nesting is just small enough for tomllib, but too deep for ``key_lines``
                self._places = {}
        for end in range(len(path), 0, -1):
            # an array of tables as a whole has no line, so the line of its first item is used
            for place in (path[:end], (*path[:end], 0)):
                if (line := self._places.get(place)) is not None:
                    return line
        return None


@dataclass(frozen=True, slots=True)
class Layer:
    """One table of one file."""

    source: TomlSource
    path: KeyPath
    raw: dict[str, Any]


@dataclass(slots=True)
class TomlTable:
    """A table that is being read. Several files may contribute keys to it, but a later file must not repeat a key.

    ``over`` has the settings of the command line. They replace those of the files without a complaint.
    """

    name: str  # the name in messages: "store", "device.inv1"
    layers: list[Layer]
    complaints: Complaints
    over: Layer | None = None
    known: set[str] = field(default_factory=set)
    joiner: str = "."  # separates the name of the table from a key in messages

    @property
    def raw(self) -> Mapping[str, Any]:
        """The content of the table. Only for a table that comes from a single file."""
        return self.layers[0].raw

    @property
    def path(self) -> KeyPath:
        """The path of the table. Only for a table that comes from a single file."""
        return self.layers[0].path

    def find(self, key: str) -> tuple[Layer, Any] | None:
        """Find ``key``. Returns the layer that sets it, and its raw value. If two files set it, a complaint names
        both.
        """
        self.known.add(key)
        if self.over and key in self.over.raw:
            return self.over, self.over.raw[key]
        found = [layer for layer in self.layers if key in layer.raw]
        for again in found[1:]:
            first, path = found[0].source, (*found[0].path, key)
            what = f"is already set in {first.name}:{first.line(path)}"
            self.complain(again, key, what, "Keep only one of the two")
        return (found[0], found[0].raw[key]) if found else None

    def complain(self, layer: Layer | None, key: str, what: str, hint: str = "") -> None:
        """Record a complaint about ``key`` of this table. An empty key means the table itself."""
        if layer is None:
            places = [*self.layers, *([self.over] if self.over else [])]
            layer = next((place for place in places if key in place.raw), places[0])
        path = (*layer.path, *(part for part in key.split(".") if part))
        self.complaints.add(layer.source, path, self._named(key), what, hint)

    def add(self, key: str, what: str, hint: str = "") -> None:
        """Record a complaint at ``key``. It shows only the name of the table, so ``what`` must name the key."""
        self.complaints.add(self.layers[0].source, (*self.path, key), self.name, what, hint)

    def _named(self, key: str) -> str:
        return self.joiner.join(part for part in (self.name, key) if part)

    def has(self, key: str) -> bool:
        """Whether the key is present, even if its value is invalid. Only ``find`` complains if two files set it."""
        self.known.add(key)
        return any(key in layer.raw for layer in (*self.layers, *([self.over] if self.over else [])))

    def take(self, key: str, parse: Callable[[object], T], default: T) -> T:
        """The parsed value of ``key``. If the key is absent or invalid, the default. An invalid value also gives a
        complaint.
        """
        found = self.find(key)
        if found is None:
            return default
        try:
            return parse(found[1])
        except InvalidValue as wrong:
            self.complain(found[0], key, wrong.what, wrong.hint)
            return default

    def need(self, key: str, parse: Callable[[object], T], default: T, hint: str = "") -> T:
        """Like ``take``, but an absent key gives a complaint with ``hint``."""
        if not self.has(key):
            self.complain(None, "", f'the key "{key}" is missing', hint)
        return self.take(key, parse, default)

    def table(self, key: str) -> TomlTable | None:
        """An inner table. None if it is absent, or if it is not a table; the latter gives a complaint."""
        found = self.find(key)
        if found is None:
            return None
        if not isinstance(found[1], dict):
            form = f"{{ ct = {show(found[1])} }}" if key == "ratio" else "{ name = value }"
            self.complain(found[0], key, f"{show(found[1])} is not a table", f"Write {key} = {form}")
            return None
        layer = Layer(found[0].source, (*found[0].path, key), found[1])
        return self.inner(self._named(key), layer.path, found[1], layer.source)

    def inner(self, name: str, path: KeyPath, raw: dict[str, Any], source: TomlSource | None = None) -> TomlTable:
        """Make a table below this one. ``name`` is its name in complaints."""
        layer = Layer(source or self.layers[0].source, path, raw)
        return TomlTable(name, [layer], self.complaints, joiner=self.joiner)

    def tables(self, key: str) -> list[TomlTable]:
        """The items of ``[[key]]``. Empty if there are none. In complaints, an item is named by its key ``name`` or
        ``id``.
        """
        found = self.find(key)
        if found is None:
            return []
        layer, raw = found
        if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
            self.complain(layer, key, "is not a list of tables", f"Write [[{self._named(key)}]], with double brackets")
            return []
        out = []
        for n, item in enumerate(raw):
            own = next((item[k] for k in ("name", "id") if isinstance(item.get(k), str) and item[k]), None)
            name = f"{self._named(key)}[{n + 1}]" if own is None else f"{self._named(key)}.{clean_text(own, 40)}"
            out.append(self.inner(name, (*layer.path, key, n), item, layer.source))
        return out

    def pairs(self, key: str, parse_key: Callable[[object], str], parse: Callable[[object], T]) -> dict[str, T]:
        """An inner table whose keys are parsed by ``parse_key``, and its values by ``parse``. Invalid pairs give
        complaints.
        """
        inner = self.table(key)
        out: dict[str, T] = {}
        for name in inner.layers[0].raw if inner else ():
            assert inner is not None
            try:
                parse_key(name)
                out[name] = parse(inner.layers[0].raw[name])
            except InvalidValue as wrong:
                layer = inner.layers[0]
                shown = inner._named(clean_text(name, 60))
                self.complaints.add(layer.source, (*layer.path, name), shown, wrong.what, wrong.hint)
        return out

    def items(self, key: str, parse: Callable[[object], T]) -> tuple[T, ...] | None:
        """A list whose items are parsed one by one. None if it is absent or not a list."""
        found = self.find(key)
        if found is None:
            return None
        layer, raw = found
        if not isinstance(raw, list):
            self.complain(layer, key, f"{show(raw)} is not a list", f"Write {key} = [{show(raw)}]")
            return None
        out: list[T] = []
        for n, item in enumerate(raw):
            try:
                out.append(parse(item))
            except InvalidValue as wrong:
                self.complaints.add(layer.source, (*layer.path, key, n), self._named(key), wrong.what, wrong.hint)
        return tuple(out)

    # The following methods call ``take`` for the usual kinds of values. They return the default if a key is absent or
    # invalid.

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """A text. If ``required``, an absent or empty text gives a complaint."""
        value = self.need(key, parsers.text, default) if required else self.take(key, parsers.text, default)
        if required and isinstance(given := self.raw.get(key), str) and not given.strip():
            self.complain(None, key, "is empty")
        return value

    def choice(self, key: str, allowed: Iterable[str], default: str = "", *, required: bool = False) -> str:
        """One of the ``allowed`` words. An empty text means that none of them is chosen."""
        value = self.text(key, default, required=required)
        try:
            return parsers.choice(*allowed)(value) if value else ""
        except InvalidValue as wrong:
            self.complain(None, key, wrong.what, wrong.hint)
            return default

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int | None:
        """A whole number from ``low`` to ``high``."""
        return self.take(key, parsers.whole(low, high), default)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        return self.take(key, parsers.boolean, default)

    def number(self, key: str, default: Decimal | None = None) -> Decimal | None:
        """A finite number."""
        return self.take(key, parsers.number, default)

    def seconds(self, key: str) -> float | None:
        """A duration such as "20 ms", in seconds."""
        return self.take(key, parsers.seconds, None)

    def of_types(self, key: str, types: tuple[type, ...], wanted: str, default: Any = None) -> Any:
        """A value of one of these types, unchanged. ``wanted`` names the types in the complaint."""
        return self.take(key, parsers.of_types(types, wanted), default)

    def mapping(self, key: str) -> dict[str, Any]:
        """The content of an inner table, unchecked. Empty if there is none."""
        inner = self.table(key)
        return {} if inner is None else dict(inner.raw)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, or one text instead of a list. Empty texts are left out."""
        raw = self.raw.get(key)
        if isinstance(raw, str):
            return (self.text(key),) if raw else ()
        return tuple(item for item in self.items(key, parsers.text) or () if item)

    def keyed(self, key: str) -> dict[int, Any]:
        """A table whose keys are numbers, decimal or with 0x. (TOML writes them as texts.)"""
        result: dict[int, Any] = {}
        for name, value in self.mapping(key).items():
            try:
                result[int(name, 0)] = value
            except ValueError:
                self.complain(None, key, f"the key {show(name)} must be a number", "Write for example 1 or 0x01")
        return result

    def unknown(self, known: Iterable[str]) -> None:
        """Complain about every key that is not in ``known``."""
        self.known.update(known)
        self.done()

    def done(self, elsewhere: Mapping[str, str] | None = None) -> None:
        """Complain about every key that was not read. ``elsewhere``: key -> hint about the place where the key
        belongs.
        """
        for layer in [*self.layers, *([self.over] if self.over else [])]:
            for key in layer.raw:
                if key not in self.known:
                    hint = (elsewhere or {}).get(key) or did_you_mean(key, self.known)
                    shown = self._named(clean_text(key, 60))
                    self.complaints.add(layer.source, (*layer.path, key), shown, "unknown key", hint)


Loads = Callable[[str], dict[str, Any]]


def toml_loads(text: str) -> dict[str, Any]:
    """Parse TOML; numbers with a decimal point become Decimal. Raises what ``tomllib.loads`` raises."""
    return tomllib.loads(text, parse_float=Decimal)


def read_source(
    path: Path, complaints: Complaints, order: int = 0, *, name: str = "", hint: str = "", loads: Loads = toml_loads
) -> tuple[TomlSource, dict[str, Any]]:
    """Read one TOML file. If it cannot be read or parsed, there is a complaint, and the returned table is empty.

    Args:
        order: position of the file among several files.
        name: the name of the file in messages; by default its path.
        hint: what to do if the file cannot be read.
        loads: parses the text.
    """
    source = TomlSource(name or str(path), path.parent, "", order)
    try:
        # other files are refused, because opening a pipe could block
        if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
            complaints.add(source, (), "", "is a pipe, socket or device, not a file", "Use a text file instead")
            return source, {}
        with path.open("rb") as stream:
            blob = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        todo = (
            "Use sudo, or run the command as a user who may read the file"
            if isinstance(error, PermissionError)
            else hint
        )
        complaints.add(source, (), "", f"cannot be read: {error.strerror or error}", todo)
        return source, {}
    except ValueError as error:  # raised if the name contains a NUL character
        complaints.add(source, (), "", f"cannot be read: {error}")
        return source, {}
    return source, parse_source(source, blob, complaints, loads)


_HUGE = re.compile(r"0[xob][0-9a-fA-F_]{1000}")


def parse_source(source: TomlSource, blob: bytes, complaints: Complaints, loads: Loads = toml_loads) -> dict[str, Any]:
    """Parse the bytes of a file, and store the text in ``source``. If they are invalid, there is a complaint and the
    result is empty.
    """
    if len(blob) > MAX_FILE_BYTES:
        complaints.add(source, (), "", "is larger than 4 MiB", "Is this the right file?")
        return {}
    try:
        text = blob.decode("utf-8-sig")  # some editors write a byte order mark at the beginning
    except UnicodeDecodeError as error:
        line = blob[: error.start].count(b"\n") + 1
        hint = "Save the file as UTF-8 (it looks like GBK, UTF-16 or another encoding)"
        what = f"byte {error.start + 1} is not UTF-8"
        complaints.items.append(Complaint(what, file=source.name, line=line, key="", hint=hint))
        return {}
    source.text = text.replace("\r\n", "\n")
    if found := _HUGE.search(text):  # Python can read a number of this size, but cannot print it
        line = text[: found.start()].count("\n") + 1
        complaints.items.append(
            Complaint(
                "a number has thousands of digits", file=source.name, line=line, key="", hint="Shorten the number"
            )
        )
        return {}
    try:
        return loads(text)
    except RecursionError:
        complaints.add(source, (), "", "brackets are nested too deep")
    except (ValueError, ArithmeticError) as error:  # a TOMLDecodeError, or a number with thousands of digits
        complaints.items.append(_syntax(source, str(error)))
    return {}


def _key_on(line: str) -> str:
    """The key at the start of a line. "" if the line has triple quotes, because a secret of several lines may end
    there.
    """
    found = None if '"""' in line or "'''" in line else _KEY.match(line)
    return found[1] if found else ""


def _syntax(source: TomlSource, message: str) -> Complaint:
    """Convert a message of tomllib to a complaint with its line number. The line's text is left out: it may contain a
    secret.
    """
    found = _AT_LINE.search(message)
    line = source.text.count("\n") + 1 if source.text else 1
    if found and found[1]:
        line = int(found[1])
    what = message[: found.start()] if found else message
    lines = (source.text or "").split("\n")
    written = _QUOTED.sub('""', lines[line - 1]) if line <= len(lines) else ""
    for pattern, slip, hint in _SLIPS:
        if pattern.search(written):
            return Complaint(slip, file=source.name, line=line, key="", hint=hint)
    if twice := re.match(r"Cannot declare \((.*?),?\) twice", what):
        table = ".".join(re.findall(r"'([^']*)'", twice[1]))[:60]
        hint = "Keep only one of the two tables; each table of a list, such as [[device]], needs double brackets"
        return Complaint(f"duplicate table [{clean_text(table)}]", file=source.name, line=line, key="", hint=hint)
    for known, (text, hint) in _SYNTAX.items():
        if what.startswith(known):
            key = _key_on(lines[line - 1]) if known == _DUPLICATE and line <= len(lines) else ""
            return Complaint(text, file=source.name, line=line, key=key, hint=hint)
    what = clean_text(what[:1].lower() + what[1:], 120)
    return Complaint(what, file=source.name, line=line, key="", hint="This is not valid TOML")
