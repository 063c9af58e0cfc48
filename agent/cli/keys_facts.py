"""What the commands about keys share: where the key lies, whose it is, and what is shown of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli.common import as_line, is_alive, read_config, read_snapshot, tidy
from drivers.model import ConfigError, GatewayError, UsageError

if TYPE_CHECKING:
    from agent.cli.keys_child import PublicKey
    from agent.config import Config

F = TypeVar("F", bound=Callable[..., Any])
ALGORITHMS = {"ed25519": "Ed25519", "es256": "ES256"}
Lasts = Mapping[str, int]
DAY_S = 86_400  # by which clocks may differ
LONG_S = 100 * 366 * DAY_S  # for a clock that is behind the key's own time, and says nothing
_STREAM = re.compile(r"[a-z0-9_][a-z0-9_-]{0,99}")
SEEN_S = 12.0  # the agent looks at its key every two seconds and says so every two

file_argument = click.argument("file", type=click.Path(path_type=Path), required=False)
gateway_option = click.option("--gateway", help="SITE/GATEWAY, such as park7/gw01; default: the configuration's.")
alg_option = click.option(
    "--alg", type=click.Choice(sorted(ALGORITHMS)), help="Ed25519, or ECDSA on P-256 for sites that must use it."
)
token_option = click.option(
    "--pkcs11", "token", metavar="URI", default="", help="The key lies in a token; it is made there if it is missing."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key lies, and the configuration if there is one."""

    path: Path
    config: Config | None
    gateway: str

    @property
    def is_agents(self) -> bool:
        """The agent itself reads this very file, so it sees a change of it."""
        config = self.config
        return bool(config and config.key.file and config.key.file.resolve() == self.path.resolve())


def find_place(
    file: Path | None,
    gateway: str | None,
    config_file: Path,
    state_dir: Path | None,
    runtime_dir: Path | None,
    needs_gateway: bool = True,
) -> Place:
    """The file named, else the one that the configuration names; the gateway likewise.

    Raises:
        UsageError: nothing says which file or gateway; ConfigError: the configuration is wrong.
    """
    config, needed = None, file is None or (needs_gateway and gateway is None)
    if needed or config_file.exists():
        try:
            config = read_config(config_file, state_dir, runtime_dir)
        except ConfigError:
            if needed:
                raise
    if file is None:
        assert config is not None
        if config.key.credential and not _has_credential(config.key.credential):
            hint = f"Such as `meterhouse keys ... /etc/meterhouse/{config.key.credential}`; see docs/keys.md"
            what = f"the key is the systemd credential {config.key.credential}: name the file that it comes from"
            raise UsageError(what, where="keys", hint=hint)
        file = config.key.path(os.environ)
    if gateway is None:
        gateway = config.base if config else ""
    if needs_gateway and (gateway.count("/") != 1 or not all(gateway.split("/"))):
        raise UsageError(f"{tidy(gateway)!r} is no SITE/GATEWAY", where="--gateway", hint="Such as park7/gw01")
    return Place(file, config, gateway)


def _has_credential(name: str) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(folder) and (Path(folder) / name).is_file()


_SHOWN = ("kid", "alg", "not_before", "prev", "revokes", "instead_of")


def facts(path: Path, key: PublicKey) -> dict[str, Any]:
    """All that may be known of a key."""
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
    """As JSON, or a line each for people."""
    if as_json:
        click.echo(as_line(found))
        return
    alg = found["alg"] + (", in a token" if found["in_token"] else "")
    rows = [("file", found["file"]), ("algorithm", alg), ("made", _when(found["not_before"]))]
    rows.append(("thumbprint", found["thumbprint"]))
    records = found.get("records", ())
    if records:
        rows.append(("pinned", f"{records[0]['kid']} (the first, or any other of these)"))
    for n, record in enumerate(records, 1):
        rows.append((f"key {n}", f"{record['kid']} {record['alg']}, since {_when(record['not_before'])}"))
        rows += [("", f"revokes {gone['kid']}") for gone in record.get("revokes", ())]
        if "instead_of" in record:
            rows.append(("", f"stands for {record['instead_of']}, which is lost"))
    if "in_use" in found:
        rows.append(("agent", _USE[found["in_use"]]))
    for name, text in rows:
        click.echo(f"{name:<11} {tidy(text, 500)}")


_USE = {
    True: "signs with it",
    False: "does not sign with it; its log says why",
    None: "no agent is running here; it takes the key at its start",
}


def _when(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else "not known"


def in_use(config: Config, kid: str, wait_s: float = 0.0) -> bool | None:
    """Does the running agent sign with this key? None where none runs. Waits for it, if it is to take it up."""
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
    """What changes anything asks. Raises UsageError where nobody can answer.

    Args:
        odd: what a person has to look at: then ``yes`` was said too early.
    """
    for text in odd:
        click.echo(f"warning: {text}", err=True)
    if yes and odd:
        hint = "Run it without --yes and look, or say the sequences with --last"
        raise UsageError("nothing was changed: what was found is not what --yes is for", where="keys", hint=hint)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to say yes", where="keys", hint="Say it with --yes")
    click.confirm(question, abort=True, err=True)


def kind_of(alg: str | None, token: str) -> str:
    """The name of an algorithm, "" where nobody said one. Raises UsageError."""
    if alg and token:
        hint = "A key that is made there is on P-256 (es256)"
        raise UsageError("a key in a token has the kind that the token gives it", where="--alg", hint=hint)
    return ALGORITHMS.get(alg or "", "")


def lasts_of(texts: Sequence[str], gateway: str) -> dict[str, int]:
    """``inv1=812`` or ``park7/gw01/inv1=812`` to sequences by full stream name. Raises UsageError."""
    found: dict[str, int] = {}
    for text in texts:
        stream, _, seq = text.rpartition("=")
        if not stream or not seq.isascii() or not seq.isdigit():
            hint = "Write STREAM=SEQUENCE, such as inv1=812; may be given again"
            raise UsageError(f"{tidy(text)!r} says no last sequence", where="--last", hint=hint)
        found[stream if "/" in stream else f"{gateway}/{stream}"] = int(seq)
    return found


# --- up to where a key is trusted

MAX_STREAMS = 5000  # in one revocation: some 200 kB in each key file from then on
USUAL, USUAL_S = 4, 3600  # packs of a stream each time that is sealed, splitting included; and a clock that is off
MOST_SAID = 20
RATE = 1000  # packs of one stream in a second, at most: splitting included, far more than any gateway seals


def most_signed(place: Place) -> int:
    """No key of this gateway can have signed a later sequence in any stream: its first key is not old enough."""
    made = made_at(place)
    age = time.time() - made
    return int(RATE * (age + DAY_S if age > 0 else LONG_S))


def made_at(place: Place) -> int:
    """When the first key of this gateway was made, UTC seconds; 0 where it is lost or nobody knows."""
    from agent.cli.keys_child import Look, work_on_key

    with contextlib.suppress(GatewayError):  # lost, or in a token that is not there
        key = work_on_key(Look(str(place.path), place.gateway))
        return int(json.loads(key.published)["records"][0]["not_before"])
    return 0


def oddities(lasts: Lasts, place: Place) -> list[str]:
    """What may be right and is for a person to say: the agent, which gave the numbers, may be in other hands."""
    if not lasts:
        return ["nothing that the key signed would count, as if it had signed nothing"]
    config = place.config
    if config is None:
        return []
    known = {f"{config.base}/{name}" for name in ("_gateway", "_indicators", *(one.name for one in config.devices))}
    odd = [f"{tidy(stream)} is no stream of this configuration" for stream in sorted(lasts.keys() - known)]
    made = made_at(place)
    if made:  # of a key that was made elsewhere nobody knows how old it is
        usual = USUAL * int((max(time.time() - made, 0) + USUAL_S) * 1000 / config.pack.every_ms)
        odd += [
            f"{tidy(stream)} up to {seq} is more than some {usual} packs, the most that is usual since the first key"
            for stream, seq in sorted(lasts.items())
            if seq > usual
        ]
    if len(odd) > MOST_SAID:
        odd[MOST_SAID:] = [f"and {len(odd) - MOST_SAID} more such streams"]
    return odd


def read_lasts(data: bytes, place: Place, most: int) -> dict[str, int]:
    """The last sequences in an answer, by stream of this gateway. Raises GatewayError where they cannot be right.

    Args:
        most: as ``most_signed`` says.
    """
    import msgspec

    try:
        found = msgspec.json.decode(data, type=dict[str, int])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError("the answer names no sequences", where="keys", hint=tidy(str(error))) from None
    if len(found) > MAX_STREAMS:
        what = f"the answer names {len(found)} streams"
        raise GatewayError(what, where="keys", hint=f"At most {MAX_STREAMS} fit in a key file. Nothing was changed")
    for stream, seq in found.items():
        if not _STREAM.fullmatch(stream.removeprefix(f"{place.gateway}/")) or not stream.startswith(
            f"{place.gateway}/"
        ):
            raise GatewayError(
                f"the answer names {tidy(stream)!r}", where="keys", hint="That is no stream of this gateway"
            )
        if not 0 < seq <= most:
            hint = (
                f"A key as old as this one cannot have signed more than {most} packs of a stream. Nothing was changed"
            )
            raise GatewayError(f"the answer says {tidy(stream)} up to {seq}", where="keys", hint=hint)
    return found


def check_growth(shown: Lasts, found: Lasts, seconds: float) -> None:
    """What came after somebody said yes to ``shown``: the same, and what was sealed in so many seconds.

    Raises GatewayError.
    """
    grown = int(RATE * seconds)
    for stream in shown.keys() | found.keys():
        if not 0 <= found.get(stream, 0) - shown.get(stream, 0) <= grown:
            what = f"{tidy(stream)} was up to {shown.get(stream, 0)} and is up to {found.get(stream, 0)}"
            raise GatewayError(what, where="keys", hint="Nothing was changed. Try again")


def show_lasts(kid: str, lasts: Lasts) -> None:
    """On stderr, before somebody says yes to them."""
    click.echo(f"{kid} is trusted up to, and not beyond:" if lasts else f"{kid} is trusted in nothing.", err=True)
    for text in lasts_rows(lasts):
        click.echo(text, err=True)


def lasts_rows(lasts: Lasts) -> list[str]:
    """A line a stream."""
    return [f"{'trusted':<11} {tidy(stream, 200)} up to {seq}" for stream, seq in sorted(lasts.items())]
