"""Options, path and output for the commands of `meterhouse keys`, which all work on one key file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli.common import as_complaint, as_line, is_alive, pad, read_snapshot, say, speaks_chinese
from agent.cli.options import ConfigOptions
from agent.cli.questions import confirmed
from drivers.model import ConfigError, GatewayError, UsageError, clean_text

if TYPE_CHECKING:
    from agent.cli.keys.worker import KeyFacts
    from agent.config import Config

F = TypeVar("F", bound=Callable[..., Any])
ALGORITHMS = {"ed25519": "Ed25519", "es256": "ES256"}
# Longest wait until the snapshot names a new key. The agent checks the key file every two seconds, and writes a
# snapshot at least every ten seconds.
SEEN_S = 12.0

file_argument = click.argument("file", type=click.Path(path_type=Path), required=False)
gateway_option = click.option("--gateway", help="SITE/GATEWAY, such as park7/gw01; default: from the configuration.")
alg_option = click.option(
    "--alg", type=click.Choice(sorted(ALGORITHMS)), help="Ed25519, or ECDSA on P-256 for sites that require it."
)
token_option = click.option(
    "--pkcs11",
    "token",
    metavar="URI",
    default="",
    help="Use the key in this token; create the key there if it is missing.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file. ``config`` is None without a valid configuration.

    ``gateway`` is SITE/GATEWAY; "" if it is not known.
    """

    path: Path
    config: Config | None
    gateway: str

    @property
    def is_agents(self) -> bool:
        """True if this is the key file of the agent, so that a running agent notices a change."""
        config = self.config
        return bool(config and config.key.file and config.key.file.resolve() == self.path.resolve())


def find_key_file(
    file: Path | None,
    gateway: str | None,
    options: ConfigOptions,
    needs_gateway: bool = True,
) -> KeyFile:
    """Return the key file and the gateway from the command line or, if they are not given, from the configuration.

    Raises:
        UsageError: the file or the gateway is not known, or the gateway is invalid.
        ConfigError: the configuration is needed and invalid.
    """
    config, needed = None, file is None or (needs_gateway and gateway is None)
    if needed or os.path.exists(options.config_file):  # ``Path.exists`` would raise PermissionError
        try:
            config = options.load()
        except ConfigError:
            if needed:
                raise
    if file is None:
        assert config is not None
        if config.key.credential and not _has_credential(config.key.credential):
            hint = f"Run for example `meterhouse keys ... /etc/meterhouse/{config.key.credential}`; see docs/keys.md"
            what = f"the key is the systemd credential {config.key.credential}: give the file that it is loaded from"
            raise UsageError(what, where="keys", hint=hint)
        file = config.key.path(os.environ)
    if gateway is None:
        gateway = config.base if config else ""
    if needs_gateway and (gateway.count("/") != 1 or not all(gateway.split("/"))):
        raise UsageError(
            f"invalid gateway {clean_text(gateway)!r}", where="--gateway", hint="Write SITE/GATEWAY, such as park7/gw01"
        )
    return KeyFile(file, config, gateway)


def _has_credential(name: str) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(folder) and (Path(folder) / name).is_file()


_SHOWN = ("kid", "alg", "not_before", "prev", "revokes", "instead_of")


def facts(path: Path, key: KeyFacts) -> dict[str, Any]:
    """Return the public facts of a key, for JSON."""
    found: dict[str, Any] = {
        "file": str(path),
        "alg": key.alg,
        "thumbprint": key.kid,
        "not_before": key.not_before,
        "jwk": key.jwk,
        "in_token": key.in_token,
    }
    if key.records:
        records = json.loads(key.records)["records"]
        found["records"] = [{name: record[name] for name in _SHOWN if name in record} for record in records]
    return found


def show_facts(found: Mapping[str, Any], as_json: bool) -> None:
    """Print the facts as JSON, or one fact per line."""
    if as_json:
        click.echo(as_line(found))
        return
    alg = found["alg"] + (", in a token" if found["in_token"] else "")
    rows = [("file", found["file"]), ("algorithm", alg), ("created", _when(found["not_before"]))]
    rows.append(("thumbprint", found["thumbprint"]))
    records = found.get("records", ())
    if records:
        rows.append(("pinned", f"{records[0]['kid']} (key 1; a verifier can pin any of the keys below)"))
    for n, record in enumerate(records, 1):
        rows.append((f"key {n}", f"{record['kid']} {record['alg']}, since {_when(record['not_before'])}"))
        rows += [("", f"revokes {gone['kid']}") for gone in record.get("revokes", ())]
        if "instead_of" in record:
            rows.append(("", f"replaces the lost key {record['instead_of']}"))
    if "in_use" in found:
        rows.append(("agent", _USE[found["in_use"]]))
    for name, text in rows:
        click.echo(f"{pad(say(name), 11)} {clean_text(say(text), 500)}")


_USE = {
    True: "signs with this key",
    False: "does not sign with this key; see the log of the agent",
    None: "no agent is running here; the agent will use the key when it starts",
}


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else "unknown"


def in_use(config: Config, kid: str, wait_s: float = 0.0) -> bool | None:
    """True if the running agent signs with this key now or within ``wait_s``. False if not; None if no agent runs."""
    give_up = time.monotonic() + wait_s
    while True:
        try:
            snapshot = read_snapshot(config.runtime_dir)
        except GatewayError:
            return None
        if not is_alive(snapshot.get("pid")):
            return None
        if snapshot.get("key", {}).get("thumbprint") == kid:
            return True
        if time.monotonic() >= give_up:
            return False
        time.sleep(0.1)


def ask_first(question: str, yes: bool, odd: Sequence[str] = ()) -> None:
    """If ``yes`` is False, ask for confirmation.

    Raises UsageError if stdin is not a terminal, Abort if the answer is no.

    Args:
        odd: warnings that a person must judge; if there are any and ``yes`` is True, raises UsageError.
    """
    for text in odd:
        click.echo(as_complaint("warning", text), err=True)
    if yes and odd:
        hint = (
            "Run the command without --yes, read the warnings and answer the question, or give the last sequence "
            "numbers with --last"
        )
        raise UsageError("nothing was changed: --yes does not cover these warnings", where="keys", hint=hint)
    confirmed(yes, "keys", "zh" if speaks_chinese() else "en", question)


def kind_of(alg: str | None, token: str) -> str:
    """Return the name of a key's algorithm; "" if ``alg`` is None.

    Raises UsageError if both ``alg`` and ``token`` are given.
    """
    if alg and token:
        hint = "A new key in a token is always a P-256 key (es256)"
        raise UsageError("--alg cannot be combined with --pkcs11", where="--alg", hint=hint)
    return ALGORITHMS.get(alg or "", "")
