"""The balance of the site and of each node of the metering tree: the energy that goes in must come out.

For electricity in one stretch of time: the energy from grid, direct lines, generation and storage equals the energy
that loads, storage and the grid took, plus a residual. The residual is losses, unmetered loads, and the errors of the
meters.

A node is a meter that other meters name as their ``parent``. It is compared with the sum of the meters below it. It is
also compared with each of its check meters, which measure the same energy again.

The verdict on a residual depends on the sum of the error limits of all meters. The limit of a meter is its accuracy
class times its amount, plus one count, because a counter moves in steps. If the residual exceeds the sum, the verdict
is ``beyond``, or ``unknown`` if the class of a meter is not known.

In a stretch that is longer than an interval, a meter may lack a hundredth of the time. Its estimated amount in that
time is added to the limits. If nothing is known of a meter, there is no residual, and the meter is listed as missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, Literal

from agent.intervals.meters import MeterAmount
from agent.intervals.page_format import Column
from agent.intervals.rows import Flag
from drivers.encoding import exact_text

BalanceVerdict = Literal["within", "beyond", "unknown", "spread", "incomplete"]
ELECTRIC: Final = "kWh"
CHECK: Final = "check"
ZERO, FINE = Decimal(0), Decimal("1e-6")
# in a stretch longer than an interval, the amount of a meter may be unknown for this share of the time
MAY_LACK = Decimal("0.01")

# role -> (flow by which the site gets energy, flow by which the site gives energy)
_SIDES: Mapping[str, tuple[str, str]] = {
    "grid": ("import", "export"),
    "direct": ("import", "export"),
    "generation": ("generation", "consumption"),
    "storage": ("discharge", "charge"),
    "load": ("feed", "consumption"),
}
# the site's balance leaves out meters below a meter with one of these roles, because that meter already counts
_COUNTED = ("generation", "storage", "load")
# sign of a flow at a node: 1 if energy flows from the node to the part below, -1 if it flows back
_TAKEN: Mapping[str, int] = {
    "import": 1, "consumption": 1, "charge": 1, "total": 1, "heat": 1, "volume": 1, "mass": 1,
    "export": -1, "feed": -1, "discharge": -1, "generation": -1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Residual:
    """The residual of a comparison, and the limit that the errors of the meters allow.

    ``unknown``: the meters whose accuracy class is unknown. ``missing``: the meters without any known interval. If
    there are any, ``value`` does not apply.
    """

    value: Decimal
    allowed: Decimal
    unknown: tuple[str, ...]
    verdict: BalanceVerdict
    missing: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the residual as a JSON object, with decimals as text."""
        if self.missing:
            return {"verdict": self.verdict, "missing": list(self.missing)}
        plain: dict[str, Any] = {
            "residual": exact_text(self.value),
            "allowed": exact_text(self.allowed),
            "verdict": self.verdict,
        }
        return plain | ({"unknown": list(self.unknown)} if self.unknown else {})


@dataclass(frozen=True, slots=True)
class BalanceNode:
    """The comparison of a meter with other meters: with the sum of the meters below it, or with one check meter."""

    place: str
    against: str  # "children", or the place of the check meter that it is compared with
    unit: str
    own: Decimal | None  # amount of the node itself, in ``unit``; None if it is unknown
    others: Decimal | None  # amount of the meters that the node is compared with, in ``unit``; None if it is unknown
    residual: Residual

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as a JSON object, with decimals as text."""
        front = {"n": self.place, "against": self.against, "u": self.unit}
        sides = {name: exact_text(v) for name, v in (("own", self.own), ("others", self.others)) if v is not None}
        return {**front, **sides, **self.residual.as_dict()}


@dataclass(frozen=True, slots=True)
class EnergyBalance:
    """The balance of one stretch. ``site`` is None if loads, or the sources that feed them, are not metered."""

    inputs: tuple[tuple[str, Decimal], ...]  # (role and flow, kWh), such as ("grid.import", 12.5)
    outputs: tuple[tuple[str, Decimal], ...]
    site: Residual | None
    nodes: tuple[BalanceNode, ...]
    trails: tuple[tuple[str, int, int], ...]  # the packs that the amounts come from: (stream, first pack, last pack)

    @property
    def given(self) -> Decimal:
        """The sum of all inputs in kWh."""
        return sum((value for _, value in self.inputs), ZERO)

    def as_dict(self) -> dict[str, Any]:
        """Return the balance as a JSON object for a pack's ``results`` and for reports. The caller adds the period."""
        plain: dict[str, Any] = {"kind": "balance", "id": "electricity", "u": ELECTRIC}
        if self.site is not None:
            plain |= {
                "inputs": [{"n": name, "v": exact_text(value)} for name, value in self.inputs],
                "outputs": [{"n": name, "v": exact_text(value)} for name, value in self.outputs],
                **self.site.as_dict(),
            }
        if self.nodes:
            plain["nodes"] = [node.as_dict() for node in self.nodes]
        plain["from"] = [{"stream": stream, "first": first, "last": last} for stream, first, last in self.trails]
        return plain


def _counted_once(meters: Iterable[MeterAmount]) -> list[MeterAmount]:
    """Return the amounts that count at a node.

    If a meter counts both directions, its total is left out: the same energy would count twice.
    """
    known = [one for one in meters if one.key.flow in _TAKEN]
    both = {one.place for one in known if one.key.flow == "import"}
    return [one for one in known if one.key.flow != "total" or one.place not in both]


def wants(stream: str, column: Column) -> bool:
    """Return True if a column is part of balances.

    This is so if it has a role and a flow. Then other meters may name its meter as their parent.
    """
    return bool(column.flow and column.role)


def balance(meters: Sequence[MeterAmount], length_ms: int, is_interval: bool) -> EnergyBalance | None:
    """Return the balance of a stretch of ``length_ms``; None if there is nothing to compare.

    Args:
        is_interval: True if the stretch is one interval. Then each spread amount gives the verdict ``spread``. In a
            longer stretch, an amount gives this verdict only if it is spread over the start or end of the stretch.
    """
    tree = MeterTree(meters)
    inputs: dict[str, Decimal] = defaultdict(Decimal)
    outputs: dict[str, Decimal] = defaultdict(Decimal)
    mine = []
    for one in meters:
        sides = _SIDES.get(one.column.role.partition(".")[0])
        if sides is None or one.unit != ELECTRIC or one.key.flow not in sides or tree.is_inside(one):
            continue
        mine.append(one)
        if one.covered_ms:
            (inputs if one.key.flow == sides[0] else outputs)[f"{one.column.role}.{one.key.flow}"] += one.amount
    roles = {one.column.role.partition(".")[0] for one in mine}
    site = None
    if "load" in roles and roles - {"load"}:
        site = _residual(sum(inputs.values(), ZERO) - sum(outputs.values(), ZERO), mine, length_ms, is_interval)
    nodes = tuple(tree.nodes(length_ms, is_interval))
    if site is None and not nodes:
        return None
    used = mine if site is not None else []
    sides_of = [tuple(sorted(side.items())) for side in (inputs, outputs)]
    return EnergyBalance(sides_of[0], sides_of[1], site, nodes, _trails([*used, *tree.used]))


def _residual(value: Decimal, meters: Sequence[MeterAmount], length_ms: int, is_interval: bool) -> Residual:
    allowed, unknown, is_known = ZERO, set(), True
    for one in meters:
        lack_ms = max(0, length_ms - one.covered_ms)
        if lack_ms and (is_interval or lack_ms > MAY_LACK * length_ms):
            is_known = False
        elif lack_ms:
            allowed += (abs(one.amount) * lack_ms / one.covered_ms).quantize(FINE)
        share = accuracy_limit(one.column.accuracy) if one.column.kind == "counter" else None
        if share is not None:
            allowed += share * abs(one.amount)
        # if the counter did not advance, its class does not matter: the error is a share of the amount, which is 0
        elif one.amount:
            unknown.add(one.place)
        allowed += one.count
    missing = tuple(sorted({one.place for one in meters if not one.covered_ms}))
    verdict: BalanceVerdict
    if not is_known:
        verdict = "incomplete"
    elif any(one.flags & Flag.SPREAD if is_interval else any(one.ends_spread) for one in meters):
        verdict = "spread"
    elif abs(value) <= allowed:
        verdict = "within"
    else:
        verdict = "unknown" if unknown else "beyond"
    return Residual(value, allowed, tuple(sorted(unknown)), verdict, missing)


def _trails(meters: Iterable[MeterAmount]) -> tuple[tuple[str, int, int], ...]:
    out: dict[str, tuple[int, int]] = {}
    for one in meters:
        stream = one.key.stream
        if not one.last_seq:
            continue
        first, last = out.get(stream, (one.first_seq, one.last_seq))
        out[stream] = min(first, one.first_seq), max(last, one.last_seq)
    return tuple((stream, *out[stream]) for stream in sorted(out))


class MeterTree:
    """The metering tree: which meter is below which other meter."""

    def __init__(self, meters: Sequence[MeterAmount]) -> None:
        # by place; also by device name if the device has only one place
        self._at: dict[str, list[MeterAmount]] = defaultdict(list)
        self._below: dict[str, list[MeterAmount]] = defaultdict(list)
        self.used: list[MeterAmount] = []
        for one in meters:
            self._at[one.place].append(one)
        parts: dict[str, set[str]] = defaultdict(set)
        for one in meters:
            parts[one.device].add(one.place)
        for device, places in parts.items():
            if len(places) == 1 and device not in self._at:
                self._at[device] = self._at[next(iter(places))]
        for one in meters:
            if one.column.parent in self._at and self._at[one.column.parent][0].place != one.place:
                self._below[self._at[one.column.parent][0].place].append(one)

    def _above(self, one: MeterAmount) -> Iterator[MeterAmount]:
        """Yield the meters above ``one``, nearest first.

        Each meter comes only once, so that a cycle in the tree ends.
        """
        seen = {one.place}
        while (up := self._at.get(one.column.parent)) and up[0].place not in seen:
            one = up[0]
            seen.add(one.place)
            yield one

    def is_inside(self, one: MeterAmount) -> bool:
        """Return True if ``one`` is below a meter that is itself counted for the site."""
        return any(up.column.role.partition(".")[0] in _COUNTED for up in self._above(one))

    def nodes(self, length_ms: int, is_interval: bool) -> Iterator[BalanceNode]:
        """Compare each node with the meters below it and with its check meters.

        The nodes come in the order of places.
        """
        for place in sorted(self._below):
            own = self._at[place]
            children = [one for one in self._below[place] if one.column.role != CHECK]
            checks: dict[str, list[MeterAmount]] = defaultdict(list)
            for one in self._below[place]:
                if one.column.role == CHECK:
                    checks[one.place].append(one)
            for against, others in [("children", children), *sorted(checks.items())]:
                for unit in sorted({one.unit for one in own} & {one.unit for one in others}):
                    yield self._node(place, against, unit, own, others, length_ms, is_interval)

    def _node(
        self,
        place: str,
        against: str,
        unit: str,
        meters: Sequence[MeterAmount],
        held_against: Sequence[MeterAmount],
        length_ms: int,
        is_interval: bool,
    ) -> BalanceNode:
        mine, theirs = (_counted_once([one for one in side if one.unit == unit]) for side in (meters, held_against))
        self.used += [*mine, *theirs]
        above = sum((_TAKEN[one.key.flow] * one.amount for one in mine), ZERO)
        # a direct line below a node delivers energy to the node, so its sign is the opposite
        below = sum(
            (_TAKEN[one.key.flow] * one.amount * (-1 if one.column.role == "direct" else 1) for one in theirs), ZERO
        )
        residual = _residual(above - below, [*mine, *theirs], length_ms, is_interval)
        own = above if all(one.covered_ms for one in mine) else None
        others = below if all(one.covered_ms for one in theirs) else None
        return BalanceNode(place, against, unit, own, others, residual)


# --- accuracy classes

# Accuracy classes of electricity meters, at rated conditions. A number is a percentage (IEC 62053-21 and -22; with S it
# is valid from 1 % of the rated current on). A letter is a class of EN 50470-3. A class does not include the instrument
# transformers. With transformers, the configuration must give a percentage for the whole chain.
_LETTERS: Mapping[str, str] = {"A": "2", "B": "1", "C": "0.5", "D": "0.2"}
_MOST_ERROR = Decimal(20)
ACCURACY_EXAMPLES = '"0.5S", "1", "B", or a percentage of the whole chain such as "1.2 %"'


@lru_cache(maxsize=256)
def accuracy_limit(text: str) -> Decimal | None:
    """Return the largest error as a share of the amount: 0.005 for "0.5S". None if ``text`` is not a class."""
    plain = text.strip()
    if plain in _LETTERS:
        plain = _LETTERS[plain]
    elif plain.endswith("%"):
        plain = plain[:-1].strip()
    else:
        plain = plain.removesuffix("S")
    try:
        percent = Decimal(plain)
    except InvalidOperation:
        return None
    return percent / 100 if plain[:1].isdigit() and percent.is_finite() and 0 < percent <= _MOST_ERROR else None
