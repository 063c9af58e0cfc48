"""Reads indicators, which are data: the shipped sets, and a park's own plan. Files are checked, never executed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from agent.indicators.factors import FactorText
from drivers.model import ConfigError
from drivers.toml import Complaints, Layer, TomlSource, TomlTable, parse_source, read_source, show
from drivers.toml.structs import read_struct

S = TypeVar("S", bound=msgspec.Struct)
_DECIMAL = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
PeriodKind = Literal["interval", "day", "month", "year", "rolling"]
Title = dict[str, str]  # "en" and "zh"
Text = str | int  # a decimal number, kept as it was written, with or without quotes


class InputText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A value that a person attests: an amount belongs to a stretch of time, a state applies until the next state.

    If nobody declared a value, ``assume`` is used, and the figure says so. If there is no ``assume`` either, the figure
    has no value.
    """

    name: str
    unit: str
    kind: Literal["amount", "state"]
    title: Title
    assume: Text | None = None


class TermText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A part that several formulas share."""

    name: str
    formula: str
    unit: str
    title: Title


class WhereText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The condition of a threshold.

    The threshold applies if ``term``, scaled to a whole year, is at least ``at_least``.
    """

    term: str
    at_least: Text
    unit: str


class ThresholdText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A threshold. Exactly one of the four bounds is given, in the indicator's unit."""

    at_most: Text | None = None
    at_least: Text | None = None
    above: Text | None = None
    below: Text | None = None
    where: WhereText | None = None

    def bound(self) -> tuple[str, str]:
        """Return the kind and value of the bound, such as ("at_most", "0.2").

        Raises ValueError unless there is exactly one bound.
        """
        found = [(name, str(text)) for name in BOUNDS if (text := getattr(self, name)) is not None]
        if len(found) != 1:
            raise ValueError(f"needs exactly one of {', '.join(BOUNDS)}")
        return found[0]


BOUNDS = ("at_most", "at_least", "above", "below")


class IndicatorText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One figure. It is ``numerator`` divided by ``denominator``, or the numerator alone."""

    id: str
    title: Title
    numerator: str
    unit: str
    periods: list[PeriodKind]
    denominator: str = ""
    better: Literal["higher", "lower"] = "higher"
    gate: Literal["", "core", "guiding"] = ""
    threshold: list[ThresholdText] = []
    weighs: list[str] = []  # the terms and quantities that make the figure worse; the report shows the largest
    note: Title = {}


class SetText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file of indicators.

    ``official``: the kind of period, such as year, whose verdict counts officially. Verdicts of other periods are for
    monitoring only.
    """

    schema: Literal[1]
    id: str
    title: Title
    source: str
    uses: list[str] = []
    official: Literal["", "interval", "day", "month", "year"] = ""
    pin: dict[str, int] = {}  # factor id -> the data year that the rule requires
    input: list[InputText] = []
    term: list[TermText] = []
    indicator: list[IndicatorText] = []


class PlanText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The plan of one park: its sets, absent roles, its own factors, thresholds, inputs and figures."""

    schema: Literal[1]
    sets: list[str] = msgspec.field(default_factory=lambda: ["plain"])
    # role -> the reason why the park has no meter with this role; its amounts count as zero
    absent: dict[str, str] = {}
    exclude: dict[str, str] = {}  # "set/indicator" -> the reason why the park does not compute it
    pin: dict[str, int] = {}
    assume: dict[str, Text] = {}  # "declared.x" -> the assumed value in the input's unit
    threshold: dict[str, list[ThresholdText]] = {}  # "set/indicator" -> thresholds that replace those of the set
    factor: list[FactorText] = []
    input: list[InputText] = []
    term: list[TermText] = []
    indicator: list[IndicatorText] = []


def read_plan(path: Path | None) -> PlanText:
    """Read the park's plan. Without a file, return a plan with the set ``plain``.

    Raises ConfigError with all complaints.
    """
    if path is None:
        return PlanText(schema=1)
    complaints = Complaints()
    source, raw = read_source(path, complaints)
    return _struct(PlanText, source, raw, complaints)


def parse_plan(text: str | bytes, where: str) -> tuple[PlanText, TomlSource]:
    """Parse the text of a plan. Returns the plan, and the line of each key. Raises ConfigError with all complaints."""
    return _parse(PlanText, text, where)


@cache
def shipped_sets() -> Mapping[str, SetText]:
    """The sets that come with the program, by id."""
    folder = resources.files("agent.indicators") / "sets"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    made = [_parse(SetText, file.read_bytes(), file.name)[0] for file in files]
    return {one.id: one for one in made}


def _parse(kind: type[S], text: str | bytes, where: str) -> tuple[S, TomlSource]:
    source, complaints = TomlSource(where, Path()), Complaints()
    raw = parse_source(source, text.encode() if isinstance(text, str) else text, complaints)
    return _struct(kind, source, raw, complaints), source


def _struct(kind: type[S], source: TomlSource, raw: dict[str, Any], complaints: Complaints) -> S:
    made = None if complaints.items else read_struct(TomlTable("", [Layer(source, (), raw)], complaints), kind)
    if made is None:
        raise all_of(complaints.items, source.name)
    return made


def all_of(complaints: Sequence[ConfigError], where: str) -> ConfigError:
    """Return one error that contains all complaints about a plan. A single complaint is returned unchanged."""
    if len(complaints) == 1:
        return complaints[0]
    return ConfigError(f"{len(complaints)} errors in the plan", where=where, complaints=tuple(complaints))


def decimal(text: Text) -> Fraction:
    """Return the exact value of a decimal number, such as a bound.

    Raises ValueError if it is not a plain decimal number.
    """
    if not _DECIMAL.fullmatch(str(text)):
        raise ValueError(f"{show(text)} is not a plain decimal number")
    return Fraction(text)
