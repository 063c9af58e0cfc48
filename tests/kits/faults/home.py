"""The end of a scenario: the platform gets everything that the agent has, and each value is accounted for."""

from __future__ import annotations

from collections.abc import Mapping

from agent.verify import Report
from tests.kits.books import balance, bodies
from tests.kits.faults.tally import Ledger, Tally
from tests.kits.house import Agent, Listener, come_home, until


def bring_home(
    agent: Agent, listener: Listener, meters: Mapping[str, Tally], held: Mapping[str, set[int]] | None = None
) -> int:
    """Run the agent until the platform has everything, then stop it. Returns its exit code.

    Args:
        held: device -> numbers that must arrive.
    """

    if agent.process is None:
        agent.start()
    counts = {name: meter.count for name, meter in meters.items()}
    for name in meters:
        until(lambda name=name: max(listener.numbers(name), default=0) > counts[name], 30, lambda: agent.said)
    for name, numbers in (held or {}).items():
        until(lambda name=name, numbers=numbers: numbers <= set(listener.numbers(name)), 30, lambda: agent.said)
    return come_home(agent, listener)


def settled(
    listener: Listener, agent: Agent, meters: Mapping[str, Tally], period_ms: int
) -> tuple[Report, dict[str, Ledger]]:
    """Assert that each value is accounted for. Returns (report, ledger of each device)."""
    report = balance(listener.heard, agent.kid, meters)
    books = {name: Ledger(name, meter, period_ms) for name, meter in meters.items()}
    packs = bodies(listener.heard)
    for name, book in books.items():
        book.take(packs)
        assert not book.twice, f"{name}: {book.twice} are in two packs"
        assert not (lost := book.unaccounted()), f"{name}: {lost} are neither here nor stated"
    return report, books
