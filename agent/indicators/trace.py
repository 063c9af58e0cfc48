"""The green-power trace: which source covered the consumption in each slot. A slot is an hour or an interval.

These rules apply:
- Consumption is covered first by power generated on site in the same slot, then by the direct line, then by the
  storage. The grid covers the rest.
- Power from a storage does not count as green, even if green power charged it.
- A certificate is a unit of 1,000 kWh. It belongs to a month, not to an hour: the certificates of a month cover grid
  power of this month, at most all of it.
- A producer earns one unit per 1,000 kWh each month. The remainder is carried to the next month.

Source: the rules for green certificates of 2024 and 2026, and 发改能源〔2026〕688号 for hourly tracing, as
``docs/indicators.md`` cites them. All energies are exact decimals in kWh.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

ZERO = Decimal(0)
UNIT_KWH = Decimal(1000)


@dataclass(frozen=True, slots=True)
class TraceSlot:
    """The metered amounts of ``[start_ms, end_ms)``, in kWh.

    ``complete``: every counter covered the whole slot. ``missing``: the roles and flows that are unknown. If any is
    missing, the consumption of the slot is unknown.
    """

    start_ms: int
    end_ms: int
    generation: Decimal = ZERO  # energy from renewable sources, measured before any storage
    direct: Decimal = ZERO
    grid_import: Decimal = ZERO
    grid_export: Decimal = ZERO
    charge: Decimal = ZERO
    discharge: Decimal = ZERO
    complete: bool = True
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsumptionMatch:
    """The sources that covered the consumption of one slot. ``own`` to ``grid`` add up to ``consumption``.

    ``exported``: generation of this slot that was exported. ``stored``: generation that charged the storage.
    """

    slot: TraceSlot
    consumption: Decimal
    own: Decimal
    direct: Decimal
    storage: Decimal
    grid: Decimal
    exported: Decimal
    stored: Decimal


@dataclass(frozen=True, slots=True)
class Traced:
    """The matches of several slots, and their totals.

    ``certified``: grid power that the certificates of this time cover.

    Slots with a ``missing`` role are excluded from matches and totals.
    """

    matches: tuple[ConsumptionMatch, ...]
    missing: tuple[TraceSlot, ...]
    consumption: Decimal
    own: Decimal
    direct: Decimal
    storage: Decimal
    grid: Decimal
    certified: Decimal
    incomplete: int  # number of incomplete slots; the slots in ``missing`` count too

    @property
    def at_the_time(self) -> Decimal | None:
        """The share of the consumption that was green when it was used, 0 to 1. None: there was no consumption."""
        return (self.own + self.direct) / self.consumption if self.consumption else None

    @property
    def with_certificates(self) -> Decimal | None:
        """Like ``at_the_time``, but the grid power that certificates cover counts as green too."""
        return (self.own + self.direct + self.certified) / self.consumption if self.consumption else None


@dataclass(frozen=True, slots=True)
class CertificateIssue:
    """The certificates that a month's generation earned.

    Certificates for power used on site are issued too, but cannot be traded.
    """

    label: str
    traded: int  # number of units for power that left the site
    held: int  # number of units for power used on site
    traded_rest: Decimal  # kWh that do not fill a unit; they are carried to the next month
    held_rest: Decimal


def match(slot: TraceSlot) -> ConsumptionMatch:
    """Match the consumption of one slot with its sources. No result is negative, even if meters disagree slightly."""
    sources = slot.generation + slot.direct + slot.grid_import + slot.discharge
    consumption = max(sources - slot.grid_export - slot.charge, ZERO)
    exported = min(slot.grid_export, slot.generation)
    left = slot.generation - exported
    own = min(left, consumption)
    stored = min(left - own, slot.charge)
    rest = consumption - own
    direct = min(slot.direct, rest)
    storage = min(slot.discharge, rest - direct)
    return ConsumptionMatch(slot, consumption, own, direct, storage, rest - direct - storage, exported, stored)


def trace(slots: Iterable[TraceSlot], certificates_kwh: Decimal = ZERO) -> Traced:
    """Return the trace of all slots, and the grid power that the certificates cover."""
    slots = tuple(slots)
    matches = tuple(match(slot) for slot in slots if not slot.missing)
    missing = tuple(slot for slot in slots if slot.missing)

    def total(name: str) -> Decimal:
        found: Decimal = sum((getattr(one, name) for one in matches), ZERO)
        return found

    grid = total("grid")
    return Traced(
        matches,
        missing,
        total("consumption"),
        total("own"),
        total("direct"),
        total("storage"),
        grid,
        min(max(certificates_kwh, ZERO), grid),
        sum(not one.slot.complete for one in matches) + len(missing),
    )


def issue(
    months: Sequence[tuple[str, Decimal, Decimal]], rests: tuple[Decimal, Decimal] = (ZERO, ZERO)
) -> list[CertificateIssue]:
    """Return the certificates of each month.

    Args:
        months: (label, kWh that left the site, kWh used on site) of each month, in order. Neither amount includes
            discharge of a storage.
        rests: kWh carried over from earlier months: (of power that left the site, of power used on site).
    """
    found = []
    traded_rest, held_rest = rests
    for label, traded_kwh, held_kwh in months:
        traded, traded_rest = divmod(traded_rest + traded_kwh, UNIT_KWH)
        held, held_rest = divmod(held_rest + held_kwh, UNIT_KWH)
        found.append(CertificateIssue(label, int(traded), int(held), traded_rest, held_rest))
    return found
