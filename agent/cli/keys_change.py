"""`meterhouse keys rotate` and `revoke`: another key in the place of the one that signs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent.cli.common import config_options, json_option, tidy
from agent.cli.control import Kept, ask
from agent.cli.keys_facts import (
    SEEN_S,
    Lasts,
    Place,
    alg_option,
    ask_first,
    check_growth,
    facts,
    file_argument,
    find_place,
    gateway_option,
    in_use,
    kind_of,
    lasts_of,
    lasts_rows,
    most_signed,
    oddities,
    read_lasts,
    show_facts,
    show_lasts,
    token_option,
    yes_option,
)
from agent.cli.stopped import AgentLives, ask_database
from agent.service.control.protocol import Keys
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from agent.cli.keys_child import PublicKey

SPARE_S = 8.0  # an agent that holds its sealing for us does so for ten seconds
MAX_LASTS = 4 << 20


@click.command()
@file_argument
@alg_option
@token_option
@gateway_option
@yes_option
@config_options
@json_option
def rotate(
    file: Path | None,
    alg: str | None,
    token: str,
    gateway: str | None,
    yes: bool,
    config_file: Path,
    state_dir: Path | None,
    runtime_dir: Path | None,
    as_json: bool,
) -> None:
    """Put a new key in the place of the one in FILE, or where the configuration says.

    The old key signs the record of the new one, and is gone then. A running agent takes the new key up within seconds,
    at one pack border of all streams; what the old one signed stays good, and verifiers go on without any work.
    A systemd credential is read-only: rotate the file that it comes from, then restart the agent.

    \b
    Examples:
      meterhouse keys rotate
      meterhouse keys rotate /etc/meterhouse/signing.key --alg es256 --yes

    \b
    Exit codes: 0 replaced, 2 wrong usage, 3 no usable key or configuration, 4 the token does not answer.
    """
    from agent.cli.keys_child import Look, Replace, work_on_key

    place = find_place(file, gateway, config_file, state_dir, runtime_dir)
    old = work_on_key(Look(str(place.path)))
    ask_first(f"Replace the key {old.kid} in {place.path} by a new one?", yes)
    new = work_on_key(Replace(str(place.path), place.gateway, int(time.time()), kind_of(alg, token), token))
    _tell(place, old, new, as_json)


@click.command()
@click.argument("kid")
@file_argument
@click.option(
    "--last", "lasts", multiple=True, metavar="STREAM=SEQ", help="Trusted up to here; other streams not at all."
)
@click.option("--until", metavar="TIME", help="Trusted up to this time, by the gateway's own database.")
@alg_option
@token_option
@gateway_option
@yes_option
@config_options
@json_option
def revoke(
    kid: str,
    file: Path | None,
    lasts: tuple[str, ...],
    until: str | None,
    alg: str | None,
    token: str,
    gateway: str | None,
    yes: bool,
    config_file: Path,
    state_dir: Path | None,
    runtime_dir: Path | None,
    as_json: bool,
) -> None:
    """Cut off the key KID, which somebody else may have, and put a new key in the place of the one that signs.

    KID is a thumbprint, or its beginning; `keys show` lists them. What KID signed counts up to a last sequence in each
    stream, and not at all after it. By default that is all that this gateway itself has sealed with it.

    \b
    Examples:
      meterhouse keys revoke pVa0zQ3k
      meterhouse keys revoke pVa0zQ3k --until 2026-11-20T08:00
      meterhouse keys revoke pVa0zQ3k --last inv1=812 --last _gateway=97 --yes

    \b
    Exit codes: 0 revoked, 1 the agent or its database does not answer, 2 wrong usage, 3 no usable key or configuration.
    """
    from agent.cli.keys_child import Look, Replace, work_on_key
    from agent.keys import check_key_records

    if lasts and until:
        raise UsageError("--last and --until say the same thing", where="keys revoke", hint="Give one of them")
    place = find_place(file, gateway, config_file, state_dir, runtime_dir)
    old = work_on_key(Look(str(place.path), place.gateway))
    known = check_key_records(old.published.encode(), place.gateway).kids
    gone = _whole(kid, known)
    said = lasts_of(lasts, place.gateway)
    until_ms = _read(until, place) if until else None
    question = f"Revoke {gone} and replace the key {old.kid} in {place.path}?"
    made: list[PublicKey] = []

    def change(trusted: Lasts) -> None:
        now, give_up_s = int(time.time()), time.monotonic() + SPARE_S
        name, revokes = kind_of(alg, token), {gone: dict(trusted)}
        made.append(work_on_key(Replace(str(place.path), place.gateway, now, name, token, revokes, give_up_s)))
        said.update(trusted)

    before = known[: known.index(gone)]
    if lasts:
        check_said(place, gone, said, before)
        show_lasts(gone, said)
        ask_first(question, yes)
        change(said)
    else:
        ask_for_lasts(place, gone, until_ms, change, before, lambda odd: ask_first(question, yes, odd))
    _tell(place, old, made[0], as_json, {"kid": gone, "last": said})


def ask_for_lasts(
    place: Place,
    kid: str,
    until_ms: int | None,
    change: Callable[[Lasts], object],
    before: Sequence[str],
    confirm: Callable[[Sequence[str]], object],
) -> None:
    """Show the last sequences that ``kid`` signed, ``confirm``, then ``change`` while the agent seals nothing.

    Args:
        before: the keys that lead to it.
        confirm: gets what is odd about the numbers.

    Raises:
        UsageError: the agent runs and would not see the change.
        GatewayError: the numbers cannot be right.
    """
    config = place.config
    if config is None:
        hint = "Name its configuration with -c, or say the sequences with --last"
        raise UsageError("only the gateway's database knows what the key signed", where="keys", hint=hint)

    def asked(request: Keys, take: Callable[[bytes], object]) -> None:
        if place.is_agents:
            ask(config, request, take)
            return
        try:
            ask_database(config, request, take)
        except AgentLives as error:
            raise UsageError(
                "the running agent would go on with the old key until it is restarted",
                where=str(place.path),
                hint="`systemctl stop meterhouse`, then this again, then start it",
            ) from error

    most = most_signed(place)
    request, kept = Keys(kid=kid, until_ms=until_ms, before=list(before)), Kept(MAX_LASTS)
    asked(request, kept.take)
    shown = read_lasts(kept.whole, place, most)
    show_lasts(kid, shown)
    confirm(oddities(shown, place))
    since = time.monotonic()

    def take(data: bytes) -> None:
        found = read_lasts(data, place, most)
        check_growth(shown, found, time.monotonic() - since + 1)
        change(found)

    asked(msgspec.structs.replace(request, hold=True), take)


def check_said(place: Place, kid: str, said: Lasts, before: Sequence[str]) -> None:
    """Sequences that a person gave, against the database where it can be asked. Raises UsageError.

    Beyond what the key signed they would trust what a thief signs later.
    """
    most = most_signed(place)
    if wrong := [stream for stream, seq in said.items() if not 0 < seq <= most]:
        raise UsageError(f"{tidy(wrong[0])} cannot have sequence {said[wrong[0]]}", where="--last")
    if place.config is None:
        click.echo("warning: without its configuration no database is asked whether the key signed so far", err=True)
        return
    try:
        kept = Kept(MAX_LASTS)
        ask(place.config, Keys(kid=kid, before=list(before)), kept.take)
        known = read_lasts(kept.whole, place, most)
    except GatewayError as error:
        click.echo(f"warning: it is not checked whether the key signed so far: {error}", err=True)
        return
    for stream, seq in said.items():
        if seq > known.get(stream, 0):
            signed = known.get(stream)
            what = f"{kid[:8]}... signed {'nothing' if signed is None else f'up to {signed} only'}"
            raise UsageError(
                what, where=f"--last {tidy(stream)}={seq}", hint="Beyond that only a thief can have signed"
            )


def _whole(kid: str, known: tuple[str, ...]) -> str:
    """The one known thumbprint that begins with ``kid``."""
    found = [one for one in known if one.startswith(kid)]
    if len(found) == 1 and len(kid) >= 4:
        return found[0]
    hint = f"Known are {', '.join(known)}"
    what = "begins several thumbprints" if len(found) > 1 else "is too short" if found else "is none of our keys"
    raise UsageError(f"{kid[:50]!r} {what}", where="KID", hint=hint)


def _read(until: str, place: Place) -> int:
    from agent.cli.export import read_time

    return read_time(until, "--until", place.config.timezone if place.config else "UTC")


def _tell(
    place: Place, old: PublicKey, new: PublicKey, as_json: bool, revoked: Mapping[str, Any] | None = None
) -> None:
    """What is now, and what is left to do."""
    found = facts(place.path, new)
    found["before"] = old.kid
    if revoked:
        found["revoked"] = revoked
    if place.config is not None and place.is_agents:
        found["in_use"] = in_use(place.config, new.kid, SEEN_S)
    show_facts(found, as_json)
    if revoked and not as_json:
        for text in lasts_rows(revoked["last"]):
            click.echo(text)
    if as_json:
        return
    if not place.is_agents:
        click.echo("The agent takes it at its next start: `systemctl restart meterhouse`.", err=True)
    if revoked:
        click.echo(
            "Tell whoever verifies to pin the new thumbprint: a thief can sign records with the old key.", err=True
        )
