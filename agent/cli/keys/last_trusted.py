"""Reads and checks the last trusted sequences, up to which a revoked key is trusted in each stream."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence

import click

from agent.cli.common import pad, say, speaks_chinese
from agent.cli.keys.key_file import KeyFile
from drivers.model import GatewayError, UsageError, clean_text

LastSequences = Mapping[str, int]  # full stream name -> last trusted sequence
DAY_S = 86_400  # the clock may have been wrong by this many seconds when the key was created
# age of a key, in seconds, that is assumed if the clock shows a time before the creation of the key
LONG_S = 100 * 366 * DAY_S
_STREAM = re.compile(r"[a-z0-9_][a-z0-9_-]{0,99}")
MAX_STREAMS = 5000  # limit of the streams in one revocation; they take about 200 kB in the key file
# a stream usually has at most USUAL packs per pack interval, parts included; the clock may be wrong by USUAL_S
USUAL, USUAL_S = 4, 3600
MOST_SAID = 20  # limit of the warnings that are printed
RATE = 1000  # limit of the packs of a stream per second, parts included; a gateway cannot seal nearly as many


def lasts_of(texts: Sequence[str], gateway: str) -> dict[str, int]:
    """Parse ``inv1=812`` or ``park7/gw01/inv1=812``. Returns full stream name -> sequence. Raises UsageError."""
    found: dict[str, int] = {}
    for text in texts:
        stream, _, seq = text.rpartition("=")
        if not stream or not seq.isascii() or not seq.isdigit():
            hint = "Write STREAM=SEQUENCE, such as inv1=812; repeat the option for more streams"
            raise UsageError(f"{clean_text(text)!r} does not have the form STREAM=SEQUENCE", where="--last", hint=hint)
        found[stream if "/" in stream else f"{gateway}/{stream}"] = int(seq)
    return found


def most_signed(key_file: KeyFile) -> int:
    """Return the highest sequence that a stream can have reached since the gateway's first key was created."""
    made = made_at(key_file)
    age = time.time() - made
    return int(RATE * (age + DAY_S if age > 0 else LONG_S))


def made_at(key_file: KeyFile) -> int:
    """Return the time at which the first key of this gateway was created, in UTC seconds; 0 if unknown."""
    from agent.cli.keys.worker import ReadKey, work_on_key

    with contextlib.suppress(GatewayError):  # the age stays unknown if the key is lost, or if its token is missing
        key = work_on_key(ReadKey(str(key_file.path), key_file.gateway))
        return int(json.loads(key.published)["records"][0]["not_before"])
    return 0


def oddities(lasts: LastSequences, key_file: KeyFile) -> list[str]:
    """Return warnings about implausible sequences. A person must judge them, as the agent may be compromised."""
    if not lasts:
        return ["no pack that the key signed would be trusted"]
    config = key_file.config
    if config is None:
        return []
    known = {f"{config.base}/{name}" for name in ("_gateway", "_indicators", *(one.name for one in config.devices))}
    odd = [f"{clean_text(stream)} is not a stream of this configuration" for stream in sorted(lasts.keys() - known)]
    made = made_at(key_file)
    if made:  # if the age is unknown, no usual maximum is known
        usual = USUAL * int((max(time.time() - made, 0) + USUAL_S) * 1000 / config.pack.every_ms)
        odd += [
            f"{clean_text(stream)}: sequence number {seq} is higher than {usual}, the usual maximum for the time "
            "since the first key was created"
            for stream, seq in sorted(lasts.items())
            if seq > usual
        ]
    if len(odd) > MOST_SAID:
        odd[MOST_SAID:] = [f"number of other streams with such warnings: {len(odd) - MOST_SAID}"]
    return odd


def read_lasts(data: bytes, key_file: KeyFile, most: int) -> dict[str, int]:
    """Return full stream name -> last sequence, from an answer. Raises GatewayError if they are implausible.

    Args:
        most: the highest plausible sequence, from ``most_signed``.
    """
    import msgspec

    try:
        found = msgspec.json.decode(data, type=dict[str, int])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError(
            "the answer contains no valid sequence numbers", where="keys", hint=clean_text(str(error))
        ) from None
    if len(found) > MAX_STREAMS:
        what = f"the answer has {len(found)} streams"
        raise GatewayError(
            what, where="keys", hint=f"A key file has room for at most {MAX_STREAMS} streams. Nothing was changed"
        )
    for stream, seq in found.items():
        if not _STREAM.fullmatch(stream.removeprefix(f"{key_file.gateway}/")) or not stream.startswith(
            f"{key_file.gateway}/"
        ):
            raise GatewayError(
                f"the answer contains the unknown stream {clean_text(stream)!r}",
                where="keys",
                hint="This is not a stream of this gateway",
            )
        if not 0 < seq <= most:
            hint = (
                f"In the time since its first key was created, this gateway cannot have sealed more than {most} packs "
                "of any one stream. Nothing was changed"
            )
            what = f"the answer contains the implausible sequence number {seq} of the stream {clean_text(stream)}"
            raise GatewayError(what, where="keys", hint=hint)
    return found


def check_growth(shown: LastSequences, found: LastSequences, seconds: float) -> None:
    """Raise GatewayError if a sequence decreased from ``shown`` to ``found``, or grew faster than ``RATE``."""
    grown = int(RATE * seconds)
    for stream in shown.keys() | found.keys():
        if not 0 <= found.get(stream, 0) - shown.get(stream, 0) <= grown:
            what = (
                f"the last sequence number of {clean_text(stream)} changed from {shown.get(stream, 0)} to "
                f"{found.get(stream, 0)}, which is implausible"
            )
            raise GatewayError(what, where="keys", hint="Nothing was changed. Try again")


def show_lasts(kid: str, lasts: LastSequences) -> None:
    """Print the last trusted sequences on stderr, before the confirmation."""
    click.echo(
        say(
            f"the key {kid} is trusted up to these sequence numbers:"
            if lasts
            else f"the key {kid} is not trusted at all."
        ),
        err=True,
    )
    for text in lasts_rows(lasts):
        click.echo(text, err=True)


def lasts_rows(lasts: LastSequences) -> list[str]:
    """Return one line of text for each stream."""
    label, up_to = pad(say("trusted"), 11), "到序号" if speaks_chinese() else "up to"
    return [f"{label} {clean_text(stream, 200)} {up_to} {seq}" for stream, seq in sorted(lasts.items())]
