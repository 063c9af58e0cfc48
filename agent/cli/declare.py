"""`meterhouse declare`: stores inputs of the indicators that no meter measures and that a person attests."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import click

from agent.cli.answers import Accepted, Declared, checked
from agent.cli.common import as_line, say
from agent.cli.control import ask
from agent.cli.options import ConfigOptions, config_options, json_option, parse_time
from drivers.model import UsageError


@click.command()
@click.argument("name", required=False)
@click.argument("value", required=False)
@click.argument("unit", required=False)
@click.option(
    "--from",
    "from_text",
    metavar="DATE",
    help="First day of the period, or day from which the value holds, such as 2026-11-01.",
)
@click.option("--to", "to_text", metavar="DATE", help="For amounts: the day after the last day of the period.")
@click.option("--who", help="Name of the person who attests the value.")
@click.option(
    "--document",
    default="",
    help="Source of the value, such as the number of a certificate or of a weighbridge ticket.",
)
@click.option(
    "--replaces", default="", metavar="ID", help="The entry to replace. Without a new value, the entry is withdrawn."
)
@config_options
@json_option
def declare(
    name: str | None,
    value: str | None,
    unit: str | None,
    from_text: str | None,
    to_text: str | None,
    who: str | None,
    document: str,
    replaces: str,
    options: ConfigOptions,
    as_json: bool,
) -> None:
    """Attest an input value of the indicators: NAME VALUE UNIT. --from and --to give the days for which it
    applies. Without NAME, all values are listed.

    An entry is never changed. The agent signs it, with the person's name and the time, in the stream _indicators.
    A later entry may replace it. An amount belongs to a period. A value such as an area applies from a given day on.

    \b
    Examples:
      meterhouse declare
      meterhouse declare certificates 90 MWh --from 2026-11-01 --to 2026-12-01 --who "Li Wei" --document GEC-2026-4711
      meterhouse declare roof_suitable 42000 m2 --from 2026-01-01 --who "Li Wei"
      meterhouse declare certificates --replaces 5f0c2a91d3e47b68 --who "Li Wei"

    \b
    Exit codes: 0 stored, 1 no database or no answer, 2 wrong usage, 3 bad configuration or plan.
    """
    from agent.indicators.declared import MAX_TEXT
    from agent.service.control.protocol import Declarations, Declare

    given = {"--replaces": replaces, "--from": from_text, "--to": to_text, "--who": who, "--document": document}
    if name is None and (without := next((option for option, text in given.items() if text), "")):
        hint = 'Write the name of the input, for example "certificates". `meterhouse declare` alone lists all inputs'
        raise UsageError(f"{without} needs the NAME of an input", where="declare", hint=hint)
    config = options.load()
    if name is None:
        facts = checked(ask(config, Declarations()), Declared, "list of declarations")
        if as_json:
            click.echo(as_line(facts))
        else:
            _show(facts["entries"], ZoneInfo(config.timezone))
        return
    if value is not None and unit is None:
        raise UsageError(
            "the unit is missing",
            where="declare",
            hint=f"Write the unit after the value: meterhouse declare {name} {value} MWh ...",
        )
    if value is None and not replaces:
        raise UsageError("the value is missing", where="declare", hint="See `meterhouse declare --help`")
    if who is None:
        raise UsageError("--who is missing", where="declare", hint="Add --who NAME")
    full = name if name.startswith("declared.") else f"declared.{name}"
    if from_text is None and value is not None:
        raise UsageError("--from is missing", where="declare", hint="Give the first day: --from 2026-11-01")
    for option, text in (("NAME", full), ("VALUE", value), ("UNIT", unit), ("--who", who), ("--document", document)):
        if text is not None and len(text) > MAX_TEXT:
            raise UsageError(f"the text has more than {MAX_TEXT} characters", where=option, hint="Shorten the text")
    request = Declare(
        n=full,
        v=value or "",
        u=unit or "",
        who=who,
        from_=parse_time(from_text, "--from", config.timezone) / 1000 if from_text is not None else 0.0,
        to=parse_time(to_text, "--to", config.timezone) / 1000 if to_text is not None else None,
        document=document,
        replaces=replaces,
    )
    facts = checked(ask(config, request), Accepted, "declaration")
    if as_json:
        click.echo(as_line(facts))
    else:
        entry = facts["entry"]
        click.echo(
            say(f"the value is stored under the id {entry['id']}: {entry['n']} {entry['v']} {entry['u']}".rstrip())
        )


def _by(entry: dict[str, Any]) -> str:
    """Return the user who made an entry, as Linux identified the user; "" for an older entry, which has no user."""
    by = entry.get("by", {})
    return str(by.get("login") or (f"uid {by['uid']}" if by else ""))


def _show(entries: list[dict[str, Any]], zone: ZoneInfo) -> None:
    from agent.cli.console_tables import cell, open_console, plain_table

    if not entries:
        click.echo(say("nothing was entered"))
        return
    table = plain_table(
        "", "id", "input", "value", "from", "to", "who", "entered", "by", "document", "", right=("value",)
    )
    for entry in entries:
        days = [
            datetime.fromtimestamp(entry[key], zone).strftime("%Y-%m-%d") if key in entry else ""
            for key in ("from", "to")
        ]
        table.add_row(
            cell(entry["id"]),
            cell(entry["n"].removeprefix("declared.")),
            cell(f"{entry['v']} {entry['u']}"),
            *days,
            cell(entry["who"]),
            datetime.fromtimestamp(entry["at"], zone).strftime("%Y-%m-%d %H:%M"),
            cell(_by(entry)),
            cell(entry.get("document", "")),
            "" if entry.get("in_force") else f"[dim]{say('replaced')}[/]",
        )
    open_console().print(table)
