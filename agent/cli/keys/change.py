"""`meterhouse keys rotate` and `revoke`: both replace the key that signs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent.cli.common import as_complaint, say
from agent.cli.control import AnswerBuffer, ask
from agent.cli.keys.key_file import (
    SEEN_S,
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
    check_growth,
    lasts_of,
    lasts_rows,
    most_signed,
    oddities,
    read_lasts,
    show_lasts,
)
from agent.cli.options import ConfigOptions, config_options, json_option, parse_time
from agent.cli.stopped_agent import AgentRunning, ask_database
from agent.service.control.protocol import Keys
from drivers.model import GatewayError, UsageError, clean_text

if TYPE_CHECKING:
    from agent.cli.keys.worker import KeyFacts

SPARE_S = 8.0  # time limit for the replacement, in seconds; the agent pauses sealing for two seconds more
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
    options: ConfigOptions,
    as_json: bool,
) -> None:
    """Replace the key in FILE, or in the file named by the configuration, with a new one.

    The old key signs the record of the new key and is then deleted. Within seconds, a running agent changes to the new
    key, at the same pack boundary in all streams. Signatures of the old key stay valid, and verifiers need no change.
    A systemd credential is read-only: rotate the file that it is loaded from, then restart the agent.

    \b
    Examples:
      meterhouse keys rotate
      meterhouse keys rotate /etc/meterhouse/signing.key --alg es256 --yes

    \b
    Exit codes: 0 replaced, 2 wrong usage, 3 no usable key or configuration, 4 the token does not respond.
    """
    from agent.cli.keys.worker import ReadKey, ReplaceKey, work_on_key

    key_file = find_key_file(file, gateway, options)
    old = work_on_key(ReadKey(str(key_file.path)))
    ask_first(say(f"Replace the key {old.kid} in {key_file.path} with a new one?"), yes)
    new = work_on_key(ReplaceKey(str(key_file.path), key_file.gateway, int(time.time()), kind_of(alg, token), token))
    _show_result(key_file, old, new, as_json)


@click.command()
@click.argument("kid")
@file_argument
@click.option(
    "--last",
    "lasts",
    multiple=True,
    metavar="STREAM=SEQ",
    help="Trust packs of STREAM up to the sequence number SEQ. With this option, packs of all other streams are not "
    "trusted. May be repeated.",
)
@click.option(
    "--until",
    metavar="TIME",
    help="Trust only packs that ended by this time. The gateway's database shows when each pack ended.",
)
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
    options: ConfigOptions,
    as_json: bool,
) -> None:
    """Revoke the key KID, which may have been stolen, and replace the current signing key with a new one.

    KID is a thumbprint or its beginning; `keys show` lists the thumbprints. For each stream, packs that KID signed stay
    trusted up to and including a certain sequence number. By default, this is the number of the last pack of the stream
    that this gateway itself sealed with KID.

    \b
    Examples:
      meterhouse keys revoke pVa0zQ3k
      meterhouse keys revoke pVa0zQ3k --until 2026-11-20T08:00
      meterhouse keys revoke pVa0zQ3k --last inv1=812 --last _gateway=97 --yes

    \b
    Exit codes: 0 revoked, 1 no answer from the agent or its database, 2 wrong usage, 3 no usable key or configuration.
    """
    from agent.cli.keys.worker import ReadKey, ReplaceKey, work_on_key
    from agent.keys import check_key_records

    if lasts and until:
        raise UsageError(
            "--last and --until cannot be combined", where="keys revoke", hint="Give only one of these options"
        )
    key_file = find_key_file(file, gateway, options)
    old = work_on_key(ReadKey(str(key_file.path), key_file.gateway))
    known = check_key_records(old.published.encode(), key_file.gateway).kids
    gone = _whole(kid, known)
    given = lasts_of(lasts, key_file.gateway)
    zone = key_file.config.timezone if key_file.config else "UTC"
    until_ms = parse_time(until, "--until", zone) if until else None
    question = say(f"Revoke the key {gone}, and replace the current key {old.kid} in {key_file.path} with a new one?")
    made: list[KeyFacts] = []

    def change(trusted: LastSequences) -> None:
        now, give_up_s = int(time.time()), time.monotonic() + SPARE_S
        name, revokes = kind_of(alg, token), {gone: dict(trusted)}
        made.append(work_on_key(ReplaceKey(str(key_file.path), key_file.gateway, now, name, token, revokes, give_up_s)))
        given.update(trusted)

    before = known[: known.index(gone)]
    if lasts:
        check_lasts(key_file, gone, given, before)
        show_lasts(gone, given)
        ask_first(question, yes)
        change(given)
    else:
        ask_for_lasts(key_file, gone, until_ms, change, before, lambda odd: ask_first(question, yes, odd))
    _show_result(key_file, old, made[0], as_json, {"kid": gone, "last": given})


def ask_for_lasts(
    key_file: KeyFile,
    kid: str,
    until_ms: int | None,
    change: Callable[[LastSequences], object],
    before: Sequence[str],
    confirm: Callable[[Sequence[str]], object],
) -> None:
    """Show the last sequences that ``kid`` signed, call ``confirm``, then call ``change`` while sealing is paused.

    Args:
        until_ms: only packs up to this UTC time are included; None means all packs.
        change: called with the last sequences; replaces the key.
        before: the thumbprints of the keys that precede ``kid`` in the chain.
        confirm: called with warnings about the sequences; asks the user.

    Raises:
        UsageError: the agent runs, but would not notice the change.
        GatewayError: the sequences are implausible.
    """
    config = key_file.config
    if config is None:
        hint = "Give the gateway's configuration with -c, or the last sequence numbers with --last"
        raise UsageError("only the gateway's database contains the last sequence numbers", where="keys", hint=hint)

    def asked(request: Keys, take: Callable[[bytes], object]) -> None:
        if key_file.is_agents:
            ask(config, request, take)
            return
        try:
            ask_database(config, request, take)
        except AgentRunning as error:
            raise UsageError(
                "the running agent would keep the old key until it is restarted",
                where=str(key_file.path),
                hint="Run `systemctl stop meterhouse`, then this command again, then `systemctl start meterhouse`",
            ) from error

    most = most_signed(key_file)
    request, kept = Keys(kid=kid, until_ms=until_ms, before=list(before)), AnswerBuffer(MAX_LASTS)
    asked(request, kept.take)
    shown = read_lasts(kept.whole, key_file, most)
    show_lasts(kid, shown)
    confirm(oddities(shown, key_file))
    since = time.monotonic()

    def take(data: bytes) -> None:
        found = read_lasts(data, key_file, most)
        check_growth(shown, found, time.monotonic() - since + 1)
        change(found)

    asked(msgspec.structs.replace(request, hold=True), take)


def check_lasts(key_file: KeyFile, kid: str, given: LastSequences, before: Sequence[str]) -> None:
    """Compare the sequences given on the command line with the database, if it can be read.

    Raises UsageError for a sequence above the last one that the key signed here. Verifiers would then trust packs that
    only a thief can have signed.
    """
    most = most_signed(key_file)
    if wrong := [stream for stream, seq in given.items() if not 0 < seq <= most]:
        what = f"the sequence number {given[wrong[0]]} of the stream {clean_text(wrong[0])} is implausible"
        raise UsageError(what, where="--last")
    if key_file.config is None:
        what = "no configuration, so the sequence numbers were not compared with a database"
        click.echo(as_complaint("warning", what), err=True)
        return
    try:
        kept = AnswerBuffer(MAX_LASTS)
        ask(key_file.config, Keys(kid=kid, before=list(before)), kept.take)
        known = read_lasts(kept.whole, key_file, most)
    except GatewayError as error:
        what = f"the sequence numbers were not compared with the database: {error}"
        click.echo(as_complaint("warning", what), err=True)
        return
    for stream, seq in given.items():
        if seq > known.get(stream, 0):
            signed = known.get(stream)
            how_many = "no packs of this stream" if signed is None else f"only packs up to sequence number {signed}"
            do = "Leave out this stream" if signed is None else f"Give at most {signed}"
            what = f"the key {kid[:8]}... has signed {how_many}"
            hint = f"{do}. If other packs with the signature of this key exist, the key was stolen"
            raise UsageError(what, where=f"--last {clean_text(stream)}={seq}", hint=hint)


def _whole(kid: str, known: tuple[str, ...]) -> str:
    """Return the only known thumbprint that begins with ``kid``.

    Raises UsageError if no thumbprint or several begin with ``kid``, or if ``kid`` has less than four characters.
    """
    found = [one for one in known if one.startswith(kid)]
    if len(found) == 1 and len(kid) >= 4:
        return found[0]
    hint = f"Known keys: {', '.join(known)}"
    given = repr(kid[:50])
    if len(found) > 1:
        what = f"{given} is the beginning of several thumbprints"
    elif found:
        what = f"{given} is too short: give at least four characters of the thumbprint"
    else:
        what = f"{given} is not a known key"
    raise UsageError(what, where="KID", hint=hint)


def _show_result(
    key_file: KeyFile, old: KeyFacts, new: KeyFacts, as_json: bool, revoked: Mapping[str, Any] | None = None
) -> None:
    """Print the result and the remaining steps."""
    found = facts(key_file.path, new)
    found["before"] = old.kid
    if revoked:
        found["revoked"] = revoked
    if key_file.config is not None and key_file.is_agents:
        found["in_use"] = in_use(key_file.config, new.kid, SEEN_S)
    show_facts(found, as_json)
    if revoked and not as_json:
        for text in lasts_rows(revoked["last"]):
            click.echo(text)
    if as_json:
        return
    if not key_file.is_agents:
        click.echo(say("The agent uses the new key after a restart: `systemctl restart meterhouse`."), err=True)
    if revoked:
        what = "Everyone who verifies must pin the new thumbprint: a thief can sign records with the old key."
        click.echo(say(what), err=True)
