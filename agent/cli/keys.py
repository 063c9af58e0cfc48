"""`meterhouse keys`: the key that signs readings."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import as_line, config_options, json_option, read_config
from drivers.model import UsageError

if TYPE_CHECKING:
    from agent.keys import Signer


@click.group()
def keys() -> None:
    """Create, show and publish the key that signs readings.

    Its thumbprint is what a platform pins: hand it over by another way than the broker.
    """


def _key_path(file: Path | None, config_file: Path, state_dir: Path | None, runtime_dir: Path | None) -> Path:
    """The file named, else the one that the configuration names."""
    if file is not None:
        return file
    return read_config(config_file, state_dir, runtime_dir).key.path(os.environ)


def _facts(path: Path, signer: Signer) -> dict[str, Any]:
    return {
        "file": str(path),
        "alg": signer.alg,
        "thumbprint": signer.kid,
        "not_before": signer.not_before,
        "jwk": signer.jwk,
    }


def _show(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(as_line(facts))
        return
    since = facts["not_before"]
    made = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if since else "not known"
    for name, text in (
        ("file", facts["file"]),
        ("algorithm", facts["alg"]),
        ("made", made),
        ("thumbprint", facts["thumbprint"]),
    ):
        click.echo(f"{name:<11} {text}")


@keys.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@config_options
@json_option
def create(
    file: Path | None, config_file: Path, state_dir: Path | None, runtime_dir: Path | None, as_json: bool
) -> None:
    """Make a new Ed25519 key in FILE, or where the configuration says.

    Never overwrites: packs signed with a key can only be checked as long as it is known.

    \b
    Example:
      meterhouse keys create /etc/meterhouse/signing.key

    \b
    Exit codes: 0 made, 3 there is one already or it cannot be written.
    """
    from agent.keys import create_key

    path = _key_path(file, config_file, state_dir, runtime_dir)
    signer = create_key(path, int(time.time()))
    _show(_facts(path, signer), as_json)
    if not as_json:
        click.echo("Give the thumbprint to whoever verifies: `meterhouse verify --trust THUMBPRINT`.", err=True)


@keys.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@config_options
@json_option
def show(file: Path | None, config_file: Path, state_dir: Path | None, runtime_dir: Path | None, as_json: bool) -> None:
    """Show the thumbprint and public half of the key; never the secret.

    \b
    Example:
      meterhouse keys show

    \b
    Exit codes: 0 good, 3 missing, readable by others, or no key.
    """
    from agent.keys import load_key

    path = _key_path(file, config_file, state_dir, runtime_dir)
    _show(_facts(path, load_key(path)), as_json)


@keys.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--gateway", help="SITE/GATEWAY, such as park7/gw01; default: the configuration's.")
@config_options
def record(
    file: Path | None, gateway: str | None, config_file: Path, state_dir: Path | None, runtime_dir: Path | None
) -> None:
    """Print the signed public key record, as it is published on the topic `keys`.

    A verifier without access to the broker takes it as a file.

    \b
    Example:
      meterhouse keys record > park7-gw01-keys.json

    \b
    Exit codes: 0 good, 2 no gateway named, 3 no usable key or configuration.
    """
    from agent.keys import key_records, load_key

    if gateway is None:
        config = read_config(config_file, state_dir, runtime_dir)
        gateway, file = config.base, file or config.key.path(os.environ)
    if gateway.count("/") != 1 or not all(gateway.split("/")):
        raise UsageError(f"{gateway!r} is no SITE/GATEWAY", where="--gateway", hint="Such as park7/gw01")
    path = _key_path(file, config_file, state_dir, runtime_dir)
    click.echo(key_records(load_key(path), gateway).decode())
