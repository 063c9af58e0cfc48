"""`meterhouse keys rotate` and `revoke`: another key in the place of the one that signs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import config_options, json_option
from agent.cli.keys_facts import (
    SEEN_S,
    Place,
    alg_option,
    ask_first,
    facts,
    file_argument,
    find_place,
    gateway_option,
    in_use,
    kind_of,
    lasts_of,
    show_facts,
    token_option,
    yes_option,
)
from agent.cli.requests import ask
from drivers.model import UsageError

if TYPE_CHECKING:
    from agent.keys import Signer

SPARE_S = 8.0  # an agent that holds its sealing for us does so for ten seconds
Lasts = Mapping[str, int]


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
    from agent.keys import load_key, rotate_key

    place = find_place(file, gateway, config_file, state_dir, runtime_dir)
    old = load_key(place.path, any_owner=True)
    ask_first(f"Replace the key {old.kid} in {place.path} by a new one?", yes)
    _, new = rotate_key(place.path, place.gateway, int(time.time()), kind_of(alg, token), token)
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
    from agent.keys import Revocation, check_key_records, current_records, load_key, rotate_key

    if lasts and until:
        raise UsageError("--last and --until say the same thing", where="keys revoke", hint="Give one of them")
    place = find_place(file, gateway, config_file, state_dir, runtime_dir)
    old = load_key(place.path, any_owner=True)
    known = check_key_records(current_records(old, place.gateway), place.gateway).kids
    gone = _whole(kid, known)
    said = lasts_of(lasts, place.gateway)
    until_ms = _read(until, place) if until else None
    how = "what you say" if lasts else f"what is sealed up to {until}" if until else "all that this gateway has sealed"
    ask_first(f"Revoke {gone}, trusting {how}, and replace the key {old.kid} in {place.path}?", yes)
    made: list[Signer] = []

    def change(trusted: Lasts) -> None:
        now = int(time.time())
        give_up_s = time.monotonic() + SPARE_S
        name = kind_of(alg, token)
        made.append(rotate_key(place.path, place.gateway, now, name, token, [Revocation(gone, trusted)], give_up_s)[1])
        said.update(trusted)

    if lasts:
        change(said)
    else:
        ask_for_lasts(place, gone, until_ms, change, known[: known.index(gone)])
    _tell(place, old, made[0], as_json, {"kid": gone, "last": said})


def ask_for_lasts(
    place: Place, kid: str, until_ms: int | None, change: Callable[[Any], object], before: Sequence[str] = ()
) -> None:
    """Call ``change`` with the last sequences that ``kid`` signed, while the agent seals nothing.

    Args:
        before: the keys that lead to it.

    Raises:
        UsageError: the agent runs and would not see the change.
    """
    from agent.service.places import is_taken

    config = place.config
    if config is None:
        hint = "Name its configuration with -c, or say the sequences with --last"
        raise UsageError("only the gateway's database knows what the key signed", where="keys", hint=hint)
    if is_taken(config.runtime_dir) and not place.is_agents:
        raise UsageError(
            "the running agent would go on with the old key until it is restarted",
            where=str(place.path),
            hint="`systemctl stop meterhouse`, then this again, then start it",
        )

    def take(data: bytes) -> None:
        change(json.loads(data))

    body = {"kid": kid, "until_ms": until_ms, "before": list(before)}
    ask(config, "keys", body, take)


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


def _tell(place: Place, old: Signer, new: Signer, as_json: bool, revoked: Mapping[str, Any] | None = None) -> None:
    """What is now, and what is left to do."""
    found = facts(place.path, new)
    found["before"] = old.kid
    if revoked:
        found["revoked"] = revoked
    if place.config is not None and place.is_agents:
        found["in_use"] = in_use(place.config, new.kid, SEEN_S)
    show_facts(found, as_json)
    if revoked and not as_json:
        for stream, seq in sorted(revoked["last"].items()):
            click.echo(f"{'trusted':<11} {stream} up to {seq}")
    if as_json:
        return
    if not place.is_agents:
        click.echo("The agent takes it at its next start: `systemctl restart meterhouse`.", err=True)
    if revoked:
        click.echo(
            "Tell whoever verifies to pin the new thumbprint: a thief can sign records with the old key.", err=True
        )
