"""Indicators as data: sets that are shipped, and a park's own plan. Read once, checked whole, never executed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.indicators.factors import FactorText
from drivers.model import ConfigError

_DECIMAL = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?")
PeriodKind = Literal["interval", "day", "month", "year", "rolling"]
Title = dict[str, str]  # "en" and "zh"
Text = str | int  # a decimal number as it was written; TOML's own decimals are kept as text


class InputText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A value that a person attests: an amount belongs to a stretch of time, a state holds until the next one.

    ``assume`` is taken where nothing was declared, and the figure says so; without it the figure is missing.
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
    """When a threshold applies: ``term``, scaled to a whole year, is at least this."""

    term: str
    at_least: Text
    unit: str


class ThresholdText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One of the four bounds, in the indicator's unit."""

    at_most: Text | None = None
    at_least: Text | None = None
    above: Text | None = None
    below: Text | None = None
    where: WhereText | None = None

    def bound(self) -> tuple[str, str]:
        """("at_most", "0.2"). Raises ValueError unless exactly one is there."""
        found = [(name, str(text)) for name in BOUNDS if (text := getattr(self, name)) is not None]
        if len(found) != 1:
            raise ValueError(f"wants exactly one of {', '.join(BOUNDS)}")
        return found[0]


BOUNDS = ("at_most", "at_least", "above", "below")


class IndicatorText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One figure: ``numerator`` over ``denominator``, or the numerator alone."""

    id: str
    title: Title
    numerator: str
    unit: str
    periods: list[PeriodKind]
    denominator: str = ""
    better: Literal["higher", "lower"] = "higher"
    gate: Literal["", "core", "guiding"] = ""
    threshold: list[ThresholdText] = []
    weighs: list[str] = []  # terms and quantities that keep it from being better, for the report
    note: Title = {}


class SetText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file of indicators. ``official`` is the one kind of period whose verdict counts; others are monitoring."""

    schema: Literal[1]
    id: str
    title: Title
    source: str
    uses: list[str] = []
    official: Literal["", "interval", "day", "month", "year"] = ""
    pin: dict[str, int] = {}  # factor id -> data year that the rule names
    input: list[InputText] = []
    term: list[TermText] = []
    indicator: list[IndicatorText] = []


class PlanText(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What one park says: which sets, what is not there, its own factors, thresholds, inputs and figures."""

    schema: Literal[1]
    sets: list[str] = msgspec.field(default_factory=lambda: ["plain"])
    absent: dict[str, str] = {}  # role -> why the park has none: counts as zero, stated by the plan
    exclude: dict[str, str] = {}  # "set/indicator" -> why
    pin: dict[str, int] = {}
    assume: dict[str, Text] = {}  # "declared.x" -> value in the input's unit
    threshold: dict[str, list[ThresholdText]] = {}  # "set/indicator" -> in place of the set's
    factor: list[FactorText] = []
    input: list[InputText] = []
    term: list[TermText] = []
    indicator: list[IndicatorText] = []


def read_plan(path: Path | None) -> PlanText:
    """The park's plan; the plain set where there is no file. Raises ConfigError."""
    if path is None:
        return PlanText(schema=1)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8", where=str(path)) from error
    return parse_plan(text, str(path))


def parse_plan(text: str, where: str) -> PlanText:
    """Raises ConfigError naming the place."""
    plan: PlanText = _convert(text, PlanText, where)
    return plan


@cache
def shipped_sets() -> Mapping[str, SetText]:
    """The sets that come with the program, by id."""
    folder = resources.files("agent.indicators") / "sets"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    made = [_convert(file.read_text("utf-8"), SetText, file.name) for file in files]
    return {one.id: one for one in made}


def _convert(text: str, kind: type[Any], where: str) -> Any:
    try:
        # a bound written as a number keeps its digits
        return msgspec.convert(tomllib.loads(text, parse_float=str), kind)
    except RecursionError:
        raise ConfigError("brackets are nested too deep", where=where) from None
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        hint = "docs/indicators.md lists the keys"
        raise ConfigError(
            what, where=f"{where}: {place.strip('`').removeprefix('$.')}" if place else where, hint=hint
        ) from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"is not TOML: {error}", where=where) from None


def decimal(text: Text) -> Fraction:
    """An exact value of a bound or an assumption. Raises ValueError."""
    if not _DECIMAL.fullmatch(str(text)):
        raise ValueError(f"{text!r} is no plain decimal number")
    return Fraction(text)
