"""`meterhouse keys`: the key that signs readings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.answers import check_published
from agent.cli.common import config_options, json_option
from agent.cli.control import ask
from agent.cli.keys_change import ask_for_lasts, check_said, revoke, rotate
from agent.cli.keys_facts import (
    Lasts,
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
    show_lasts,
    token_option,
    yes_option,
)
from agent.service.control.protocol import PublishedKey
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from agent.cli.keys_child import PublicKey
    from agent.config import Config


@click.group()
def keys() -> None:
    """Create, show, replace and revoke the key that signs readings.

    Its thumbprint is what a platform pins: hand it over by another way than the broker.
    """


keys.add_command(rotate)
keys.add_command(revoke)


@keys.command()
@file_argument
@alg_option
@token_option
@click.option("--lost", metavar="KID", default="", help="It stands for this key, which nobody has any more.")
@click.option("--last", "lasts", multiple=True, metavar="STREAM=SEQ", help="With --lost: how far that one is trusted.")
@gateway_option
@yes_option
@config_options
@json_option
def create(
    file: Path | None,
    alg: str | None,
    token: str,
    lost: str,
    lasts: tuple[str, ...],
    gateway: str | None,
    yes: bool,
    config_file: Path,
    state_dir: Path | None,
    runtime_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a new key in FILE, or where the configuration says.

    Never overwrites: `keys rotate` replaces a key by one that follows it. Where a key is lost, nobody can sign its
    successor; --lost makes a new root of trust, which every verifier must pin beside the old one.

    \b
    Examples:
      meterhouse keys create /etc/meterhouse/signing.key
      meterhouse keys create --lost pVa0zQ3kT5n0y1rY2a7kq3m1x0cB8vQ9sKfJ6hLwE4d

    \b
    Exit codes: 0 made, 2 this gateway has signed with another, 3 there is one already or it cannot be written, 4 the
    token does not answer.
    """
    from agent.cli.keys_child import Create, work_on_key

    place = find_place(file, gateway, config_file, state_dir, runtime_dir, needs_gateway=bool(lost))
    made: list[PublicKey] = []

    def change(trusted: Lasts | None) -> None:
        revokes = {} if trusted is None else {lost: dict(trusted)}
        name = kind_of(alg, token) or "Ed25519"
        work = Create(str(place.path), int(time.time()), name, token, lost, place.gateway, revokes)
        made.append(work_on_key(work))

    if not lost:
        _check_new(place)
        change(None)
    else:
        question = f"Begin anew without {lost}? Every verifier must pin the new thumbprint."
        if lasts:
            said = lasts_of(lasts, place.gateway)
            check_said(place, lost, said, ())
            show_lasts(lost, said)
            ask_first(question, yes)
            change(said)
        else:
            _lose(place, lost, change, lambda odd: ask_first(question, yes, odd))
    show_facts(facts(place.path, made[0]), as_json)
    if not as_json:
        click.echo("Give the thumbprint to whoever verifies: `meterhouse verify --trust THUMBPRINT`.", err=True)
        if lost:
            click.echo("For what the lost key signed, --trust is given again with the thumbprint of before.", err=True)


def _check_new(place: Place) -> None:
    """Raises UsageError where the gateway has signed before: nobody would believe another key of it."""
    config = place.config
    if config is None or not place.is_agents or place.path.exists() or not _has_database(config):
        return
    if known := check_published(ask(config, PublishedKey())):
        hint = f"Put that key back. Is it lost? `meterhouse keys create --lost {known}`"
        raise UsageError(
            f"this gateway has signed with {known}, and nobody would believe another", where=str(place.path), hint=hint
        )


def _lose(
    place: Place, lost: str, change: Callable[[Lasts | None], None], confirm: Callable[[Sequence[str]], object]
) -> None:
    """Trust the lost key as far as the database knows that it signed; without one, in all that it ever signed."""
    config = place.config
    if config is not None and _has_database(config):
        ask_for_lasts(place, lost, None, change, (), confirm)
        return
    click.echo("warning: no database says how far the lost key signed: it is not cut off. --last says it", err=True)
    confirm(())
    change(None)


def _has_database(config: Config) -> bool:
    try:
        return config.store_path.exists()
    except PermissionError as error:
        hint = "The state directory is its owner's alone: use sudo"
        raise GatewayError(f"cannot be looked at: {error.strerror}", where=str(config.store_path), hint=hint) from error


@keys.command()
@file_argument
@config_options
@json_option
def show(file: Path | None, config_file: Path, state_dir: Path | None, runtime_dir: Path | None, as_json: bool) -> None:
    """Show the thumbprint and public half of the key, and those before it; never the secret.

    \b
    Example:
      meterhouse keys show

    \b
    Exit codes: 0 good, 3 missing, readable by others, or no key, 4 the token does not answer.
    """
    from agent.cli.keys_child import Look, work_on_key

    place = find_place(file, None, config_file, state_dir, runtime_dir, needs_gateway=False)
    key = work_on_key(Look(str(place.path)))
    found = facts(place.path, key)
    if place.config is not None and place.is_agents:
        found["in_use"] = in_use(place.config, key.kid)
    show_facts(found, as_json)


@keys.command()
@file_argument
@gateway_option
@config_options
def record(
    file: Path | None, gateway: str | None, config_file: Path, state_dir: Path | None, runtime_dir: Path | None
) -> None:
    """Print the signed public key records, as they are published on the topic `keys`.

    A verifier without access to the broker takes them as a file.

    \b
    Example:
      meterhouse keys record > park7-gw01-keys.json

    \b
    Exit codes: 0 good, 2 no gateway named, 3 no usable key or configuration, 4 the token does not answer.
    """
    from agent.cli.keys_child import Look, work_on_key

    place = find_place(file, gateway, config_file, state_dir, runtime_dir)
    click.echo(work_on_key(Look(str(place.path), place.gateway)).published)
