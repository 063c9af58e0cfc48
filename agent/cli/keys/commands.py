"""`meterhouse keys`: the commands that create and show the key, and print its public records."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.answers import Published, checked
from agent.cli.common import as_complaint, say
from agent.cli.control import ask
from agent.cli.keys.change import ask_for_lasts, check_lasts, revoke, rotate
from agent.cli.keys.key_file import (
    KeyFile,
    alg_option,
    ask_first,
    facts,
    file_argument,
    find_key_file,
    gateway_option,
    in_use,
    kind_of,
    show_facts,
    token_option,
    yes_option,
)
from agent.cli.keys.last_trusted import (
    LastSequences,
    lasts_of,
    show_lasts,
)
from agent.cli.options import ConfigOptions, config_options, json_option
from agent.service.control.protocol import PublishedKey
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from agent.cli.keys.worker import KeyFacts
    from agent.config import Config


@click.group()
def keys() -> None:
    """Create, show, replace and revoke the key that signs readings.

    Platforms pin the thumbprint of this key: hand the thumbprint over by a channel other than the broker.
    """


keys.add_command(rotate)
keys.add_command(revoke)


@keys.command()
@file_argument
@alg_option
@token_option
@click.option("--lost", metavar="KID", default="", help="Replace the lost key that has this thumbprint.")
@click.option(
    "--last",
    "lasts",
    multiple=True,
    metavar="STREAM=SEQ",
    help="With --lost: trust the lost key up to this sequence number.",
)
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
    options: ConfigOptions,
    as_json: bool,
) -> None:
    """Create a new key in FILE, or in the file named by the configuration.

    Never overwrites a file: `keys rotate` replaces a key with its successor. A lost key cannot sign its successor:
    --lost creates a new root of trust, which every verifier must pin in addition to the old one.

    \b
    Examples:
      meterhouse keys create /etc/meterhouse/signing.key
      meterhouse keys create --lost pVa0zQ3kT5n0y1rY2a7kq3m1x0cB8vQ9sKfJ6hLwE4d

    \b
    Exit codes: 0 created; 2 wrong usage, or this gateway has signed with another key; 3 the file exists or cannot be
    written; 4 the token does not respond.
    """
    from agent.cli.keys.worker import CreateKey, work_on_key

    if lasts and not lost:
        hint = "If a key is lost, add --lost KID, where KID is its thumbprint; if no key is lost, leave out --last"
        raise UsageError("has no effect without --lost", where="--last", hint=hint)
    key_file = find_key_file(file, gateway, options, needs_gateway=bool(lost))
    made: list[KeyFacts] = []

    def change(trusted: LastSequences | None) -> None:
        revokes = {} if trusted is None else {lost: dict(trusted)}
        name = kind_of(alg, token) or "Ed25519"
        work = CreateKey(str(key_file.path), int(time.time()), name, token, lost, key_file.gateway, revokes)
        made.append(work_on_key(work))

    if not lost:
        _check_new(key_file)
        change(None)
    else:
        question = say(
            f"Replace the lost key {lost} with a new root of trust? Every verifier must pin the new thumbprint."
        )
        if lasts:
            given = lasts_of(lasts, key_file.gateway)
            check_lasts(key_file, lost, given, ())
            show_lasts(lost, given)
            ask_first(question, yes)
            change(given)
        else:
            _lose(key_file, lost, change, lambda odd: ask_first(question, yes, odd))
    show_facts(facts(key_file.path, made[0]), as_json)
    if not as_json:
        what = "Give the thumbprint to everyone who verifies: `meterhouse verify --trust THUMBPRINT`."
        click.echo(say(what), err=True)
        if lost:
            click.echo(
                say(
                    "To also verify packs that the lost key signed, add a second --trust with the previous thumbprint."
                ),
                err=True,
            )


def _check_new(key_file: KeyFile) -> None:
    """Raise UsageError if the gateway has signed with another key, because verifiers would not trust a new key."""
    config = key_file.config
    if config is None or not key_file.is_agents or os.path.exists(key_file.path) or not _has_database(config):
        return
    if known := checked(ask(config, PublishedKey()), Published, "key")["kid"]:
        hint = f"Restore this key. If the key is lost, run `meterhouse keys create --lost {known}`"
        raise UsageError(
            f"this gateway has signed with {known}; verifiers would not trust another key",
            where=str(key_file.path),
            hint=hint,
        )


def _lose(
    key_file: KeyFile,
    lost: str,
    change: Callable[[LastSequences | None], None],
    confirm: Callable[[Sequence[str]], object],
) -> None:
    """Replace a lost key with a new one.

    Packs that the lost key signed stay trusted up to the last sequences in the database. Without a database, all packs
    stay trusted.
    """
    config = key_file.config
    if config is not None and _has_database(config):
        ask_for_lasts(key_file, lost, None, change, (), confirm)
        return
    what = (
        "there is no database with the last sequence numbers of the lost key, so all packs of this key stay "
        "trusted; use --last to limit which of these packs stay trusted"
    )
    click.echo(as_complaint("warning", what), err=True)
    confirm(())
    change(None)


def _has_database(config: Config) -> bool:
    try:
        return config.store_path.exists()
    except PermissionError as error:
        hint = "Only the owner of the state directory can read it: use sudo"
        raise GatewayError(
            f"cannot access the database: {error.strerror}", where=str(config.store_path), hint=hint
        ) from error


@keys.command()
@file_argument
@click.option("--qr", is_flag=True, help="Also show the value for `verify --trust` as a QR code.")
@config_options
@json_option
def show(file: Path | None, qr: bool, options: ConfigOptions, as_json: bool) -> None:
    """Show the thumbprint and the public half of the key and of its predecessors; never the secret.

    \b
    Examples:
      meterhouse keys show
      meterhouse keys show --qr

    \b
    Exit codes: 0 good; 3 the file is missing, readable by others, or not a key; 4 the token does not respond.
    """
    from agent.cli.keys.worker import ReadKey, work_on_key

    key_file = find_key_file(file, None, options, needs_gateway=False)
    key = work_on_key(ReadKey(str(key_file.path)))
    found = facts(key_file.path, key)
    if key_file.config is not None and key_file.is_agents:
        found["in_use"] = in_use(key_file.config, key.kid)
    show_facts(found, as_json)
    if qr and not as_json:
        from agent.cli.qr import terminal_qr

        text = f"{key_file.gateway}={key.kid}" if key_file.gateway else key.kid
        click.echo(f"\n{terminal_qr(text, sys.stdout.isatty())}\n")


@keys.command()
@file_argument
@gateway_option
@config_options
def record(file: Path | None, gateway: str | None, options: ConfigOptions) -> None:
    """Print the signed public key records, as they are published on the topic `keys`.

    Give this output to a verifier that has no access to the broker.

    \b
    Example:
      meterhouse keys record > park7-gw01-keys.json

    \b
    Exit codes: 0 good, 2 no gateway given, 3 no usable key or configuration, 4 the token does not respond.
    """
    from agent.cli.keys.worker import ReadKey, work_on_key

    key_file = find_key_file(file, gateway, options)
    click.echo(work_on_key(ReadKey(str(key_file.path), key_file.gateway)).published)
