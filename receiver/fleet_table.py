"""The state of the fleet as a table for a terminal."""

from __future__ import annotations

import time
from textwrap import shorten
from typing import Any, Final

from rich.text import Text

from agent.cli.common import say, show_age, speaks_chinese
from agent.cli.console_tables import cell, open_console, plain_table
from receiver.finding_texts import finding_word
from receiver.fleet_state import FleetState, GatewayState

NAMED: Final = 3  # the column "why" names at most this many streams of a gateway
MOST: Final = 50  # the table lists at most this many verified gateways
CUT: Final = 100  # a longer reason of a refused message is cut to this number of characters
_STYLES: Final = {"verified": "green", "incomplete": "yellow", "failed": "red", "silent": "dim"}


def print_state(state: FleetState, *, only_bad: bool = False) -> None:
    """Print the table of gateways, then notes and totals. Gateways with faults come first.

    Args:
        only_bad: leave out verified gateways that are not late.
    """
    console, now_s = open_console(), time.time()
    order = {"failed": 0, "incomplete": 1, "silent": 2, "verified": 3}
    rows = sorted(state.gateways, key=lambda one: (order[one.verdict], not one.is_late(now_s), not one.lost, one.name))
    if only_bad:
        rows = [one for one in rows if one.verdict != "verified" or one.is_late(now_s)]
    good = [one for one in rows if one.verdict == "verified"]
    shown = [one for one in rows if one.verdict != "verified"] + good[:MOST]
    table = plain_table(
        "Fleet", "gateway", "verdict", "packs", "readings", "complete", "missing", "lost", "age", "why",
        right=("packs", "readings", "complete", "missing", "lost", "age"),
    )  # fmt: skip
    for one in shown:
        complete = "" if one.completeness is None else _percent(one.completeness)
        age = "" if one.newest_ms is None else show_age(one.late_s(now_s), "zh" if speaks_chinese() else "en")
        reasons = ", ".join(filter(None, [say("late") if one.is_late(now_s) else "", why(one)]))
        table.add_row(
            cell(one.name), Text(say(one.verdict), style=_STYLES[one.verdict]), str(one.packs), str(one.readings),
            complete,
            str(one.missing + one.withheld), str(one.lost), age, cell(reasons, 300),
        )  # fmt: skip
    console.print(table)
    if len(good) > MOST:
        console.print(say(f"verified gateways that are not listed: {len(good) - MOST}"))
    for gateway, thumbprint in state.unknown[:20]:
        console.print(
            say(f"not enrolled: {cell(gateway)}, which claims the thumbprint {cell(thumbprint)} for its newest key")
        )
    if state.unknown_count > 20:
        console.print(say(f"gateways that are neither enrolled nor listed: {state.unknown_count - 20}"))
    for away in state.away:
        text = f"database {away.place} is unreachable: {cell(away.why, 200)}. Its gateways are not in this table"
        console.print(Text.from_markup(say(text), style="red"))
    console.print(totals_in_words(state.summary(now_s)))
    s = state.summary(now_s)
    if s["lots_waiting"]:
        console.print(
            say(f"batches that are not checked yet: {s['lots_waiting']}. Is `meterhouse platform keep` running?")
        )
    if s["unsettled"]:
        console.print(say(f"packs that wait for their birth pack, or for the rest of a split pack: {s['unsettled']}"))


def totals_in_words(s: dict[str, Any]) -> str:
    """The line with the totals, made from ``FleetState.summary``."""
    return say(
        f"{s['gateways']} gateways: {s['verified']} verified, {s['incomplete']} incomplete, {s['failed']} failed, "
        f"{s['silent']} silent, {s['late']} late; {s['packs']} packs with {s['received']} "
        f"of {s['due'] + s['due_missing']} due readings (missing readings in stated gaps: {s['gaps']}); "
        f"{s['missing_packs']} packs missing, {s['lost_packs']} lost"
    )


def why(one: GatewayState) -> str:
    """The text of the column "why": findings (by the codes of the verifier), missing packs, and reasons of gaps."""
    from agent.cli.finding_words import reason_words

    chinese = speaks_chinese()

    def word(code: str) -> str:
        return finding_word(code, "zh") if chinese else code

    reasons = [f"{word(code)} {count}" for code, count in sorted(one.findings.items())]
    reasons += [say(f"missing {one.missing} packs")] if one.missing else []
    if one.refused:
        last = f" ({shorten(one.refused_why, CUT, placeholder=' ...')})" if one.refused_why else ""
        reasons.append(f"{word('refused')} {one.refused}{last}")
    reasons += [f"{word('withheld')} {one.withheld}"] if one.withheld else []
    if one.unsettled:
        reasons.append(say(f"packs that wait for their birth pack, or for the rest of a split pack: {one.unsettled}"))
    reasons += [say(f"restarts of streams at sequence 1: {one.restarts}")] if one.restarts else []
    reasons += [say(f"missing pages of the newest checkpoint: {one.torn}")] if one.torn else []
    reasons += (
        [say(f"agreed streams that appear in no pack or checkpoint: {' '.join(one.unnamed[:NAMED])}")]
        if one.unnamed
        else []
    )
    reasons += [say(f"streams that were not asked for: {' '.join(one.unasked[:NAMED])}")] if one.unasked else []
    reasons += [
        f"{reason_words(reason)[1] if chinese else reason} {count}" for reason, count in sorted(one.reasons.items())
    ]
    return ", ".join(reasons)


def _percent(completeness: float) -> str:
    """Return a share from 0 to 1 as a percentage, which is never rounded up to 100 %."""
    return f"{100 if completeness >= 1 else min(100 * completeness, 99.99):.2f} %"
