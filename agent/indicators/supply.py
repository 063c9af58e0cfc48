"""The amounts for figures, from sums by role and from declarations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from agent.indicators import declared
from agent.indicators.declared import Declaration
from agent.indicators.figure import Amount, Period
from agent.indicators.quantities import FLOWS
from agent.indicators.units import Unit, parse_unit
from agent.intervals.rows import RoleSum, Source

# The flows of a role that count as `energy`. The meter of a thermal role may measure electricity too, for example at a
# generator that steam pressure drives.
_ENERGY: Mapping[str, tuple[str, ...]] = {"generation": ("generation",), "load": ("consumption",)}
_OTHER_ENERGY = ("heat", "total", "import")
_GAS_UNITS = {"volume": "m3", "normal": "Nm3"}


class Supply:
    """The amounts for the figures of one period: role sums of intervals, demands by role (kW), and declarations.

    A role without a sum has no meter, so it counts as zero. A role whose sums all have completeness 0 has meters, so it
    is unknown. If there is no sum at all, every amount is unknown.
    """

    def __init__(
        self,
        sums: Iterable[RoleSum],
        entries: Sequence[Declaration] = (),
        demands: Mapping[str, tuple[Decimal, tuple[Source, ...]]] | None = None,
    ) -> None:
        self._sums, self._entries, self._demands = list(sums), entries, demands or {}

    def metered(self, name: str, period: Period) -> Amount | None:
        """Return ROLE.FLOW, summed over all matching counters; None if no counter matches.

        If nothing is known of one of the matching roles, the completeness is 0, because the sum of the others would be
        too small.
        """
        role, _, flow = name.rpartition(".")
        unknown = Amount(name, Fraction(0), parse_unit(FLOWS[flow]), "metered", Fraction(0))
        if not self._sums:
            return unknown
        if flow == "demand":
            return self._demand(name, role)
        found = [one for one in self._sums if _fits(one, role, flow)]
        if not found:
            return None
        if {one.role for one in found} - {one.role for one in found if one.completeness}:
            return unknown
        value = estimated = Fraction(0)
        for one in found:
            factor = parse_unit(one.unit).factor
            value += Fraction(one.amount) * factor
            estimated += Fraction(one.estimated) * factor
        return Amount(
            name,
            value,
            parse_unit(FLOWS[flow] if flow != "energy" or found[0].unit != "GJ" else "GJ"),
            "metered",
            _mean([Fraction(one.completeness) for one in found]),
            abs(estimated / value) if value else Fraction(0),
            tuple(source for one in found for source in one.sources),
            silent=tuple(sorted({meter for one in found for meter in one.silent})),
        )

    def declared(self, name: str, unit: Unit, kind: str, period: Period) -> Amount | None:
        """Return the declared value of an input; None if nobody declared one."""
        return declared.amount(self._entries, name, unit, kind, period)

    def _demand(self, name: str, role: str) -> Amount | None:
        """Return the highest demand of a role or of a family of roles. Returns None if it has no meter.

        If all its intervals are incomplete, the demand is unknown: the completeness is 0.
        """
        shares = [Fraction(one.completeness) for one in self._sums if _is_of(one.role, role) and one.unit == "kWh"]
        if not shares:
            return None
        unit = parse_unit("kW")
        if role not in self._demands:
            return Amount(name, Fraction(0), unit, "metered", Fraction(0))
        kilowatts, sources = self._demands[role]
        return Amount(name, Fraction(kilowatts) * unit.factor, unit, "metered", _mean(shares), sources=sources)


@lru_cache(maxsize=1024)  # cached, because it is called for every interval of a year, and roles change only rarely
def families(role: str) -> tuple[str, ...]:
    """Return the families that a role belongs to: `load.*` and `load.press.*` for `load.press`."""
    parts = role.split(".")
    return tuple(".".join(parts[: count + 1]) + ".*" for count in range(len(parts)))


def _is_of(role: str, name: str) -> bool:
    return role == name or name in families(role)


def _fits(one: RoleSum, role: str, flow: str) -> bool:
    if not _is_of(one.role, role):
        return False
    if flow == "energy":
        return one.flow in _ENERGY.get(one.role.partition(".")[0], _OTHER_ENERGY)
    if flow in _GAS_UNITS:
        return one.flow == "volume" and one.unit == _GAS_UNITS[flow]
    return one.flow == flow


def _mean(shares: Sequence[Fraction]) -> Fraction:
    return sum(shares, Fraction(0)) / len(shares)
