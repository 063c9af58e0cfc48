"""`meterhouse replay`: requests packs from a gateway again, as a platform would, and receives them."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from agent.cli.common import as_line, say, speaks_chinese
from agent.cli.options import FILE, BrokerLogin, Duration, json_option, login_options, parse_broker
from agent.verify.live import LiveError, Subscriber
from agent.verify.strict import MAX_LOOSE_ITEMS, Refused, inflate, parse_object
from agent.verify.topics import PREFIX
from drivers.model import BrokerError, UsageError, clean_text

if TYPE_CHECKING:
    from paho.mqtt.client import Client

NO_SUBSCRIBERS: Final = 0x10  # the MQTT 5 reason code that says that nobody subscribes to the topic of the message
CONNECT_S: Final = 10.0
LAST = 2**53
MAX_REPLIES: Final = 10_000  # limit of the replies to one request; more replies are an error
MAX_REPLY_BYTES: Final = 64 << 10
MAX_PACKS: Final = 2_000_000  # limit of the packs, because their hashes are kept in memory to recognise duplicates


@click.command()
@click.argument("stream", metavar="SITE/GATEWAY/NAME")
@click.option(
    "--broker",
    metavar="URL",
    callback=parse_broker,
    required=True,
    help="URL of the broker: mqtt://host:1883 or mqtts://host:8883.",
)
@click.option(
    "--first", type=click.IntRange(1, LAST), default=1, show_default=True, help="Sequence number of the first pack."
)
@click.option(
    "--last",
    type=click.IntRange(1, LAST),
    default=LAST,
    help="Sequence number of the last pack; default: that of the newest pack.",
)
@click.option("--boot", help="Request only packs of this boot (16 hex digits).")
@click.option("--out", type=FILE, help="Append the packs to this file, one per line.")
@login_options
@click.option(
    "--for",
    "silence_s",
    type=Duration(),
    default="30 s",
    show_default=True,
    help="Give up after this time without an answer.",
)
@json_option
def replay(
    stream: str,
    broker: str,
    first: int,
    last: int,
    boot: str | None,
    out: Path | None,
    login: BrokerLogin,
    silence_s: float,
    as_json: bool,
) -> None:
    """Request packs of a stream again; the gateway sends the identical bytes on the topic `backfill`.

    \b
    Example:
      meterhouse replay park7/gw01/inv1 --broker mqtt://127.0.0.1 --first 800 --last 812 --out again.jsonl

    \b
    Exit codes: 0 all packs arrived; 2 wrong usage; 5 no broker or no answer; 6 some packs are expired, lost or refused.
    """
    if stream.count("/") != 2 or not all(stream.split("/")) or set(stream) & set("+#"):
        raise UsageError(
            f"invalid stream {clean_text(stream)!r}",
            where="replay",
            hint="Give the full name of a stream, such as park7/gw01/inv1",
        )
    name = secrets.token_hex(8)
    request: dict[str, Any] = {"id": name, "stream": stream, "first": first, "last": last}
    if boot:
        request["boot"] = boot
    client = ReplayClient(broker, stream, request, login)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(out.open("ab")) if out else None
        except OSError as error:
            raise UsageError(f"cannot be written ({error.strerror})", where=str(out)) from error
        stack.callback(client.close)
        count, replies = _take(client, name, broker, silence_s, file)
    short = [reply for reply in replies if reply.get("verdict") in {"expired", "lost", "refused"}]
    if as_json:
        click.echo(as_line({"packs": count, "replies": replies}))
    else:
        for reply in short:
            click.echo(clean_text(_outcome(reply), 300))
        click.echo(say(f"{count} packs" + ("; check them with `meterhouse verify`" if count else "")))
    raise SystemExit(6 if short else 0)


def _outcome(reply: dict[str, Any]) -> str:
    """Return the verdict of a reply with the range of packs and the reason, in the language of the command."""
    to = "至" if speaks_chinese() else "to"
    span = f" {reply['first']} {to} {reply['last']}" if "first" in reply else ""
    return f"{say(str(reply['verdict']))}{span} {say(str(reply.get('reason', '')))}".rstrip()


class ReplayClient(Subscriber):
    """Sends the request after each subscription, and therefore also after a reconnect.

    If the broker refuses the request, the queue is closed, so that no thread waits for messages.
    """

    def __init__(self, broker: str, stream: str, request: dict[str, Any], login: BrokerLogin) -> None:
        base = PREFIX + stream.rpartition("/")[0]
        super().__init__(broker, f"{base}/replay/reply", f"{PREFIX}{stream}/backfill", retained=False, **asdict(login))
        self._request_topic, self._request = f"{base}/replay/request", json.dumps(request)

    def _subscribed(self, client: Client, userdata: object, mid: int, reasons: list[Any], props: object) -> None:
        super()._subscribed(client, userdata, mid, reasons, props)
        if not self.refusal:
            client.publish(self._request_topic, self._request, 1)

    def _published(self, _client: Client, _userdata: object, _mid: int, reason: Any, _props: object) -> None:
        if reason.is_failure:
            self._refuse(
                f"the broker refuses the request: {reason}",
                "The broker's access rules must allow publishing to replay/request",
            )
        elif reason.value == NO_SUBSCRIBERS:
            hint = "Check the gateway's name, and check in its topic `status` that the gateway is online"
            self._refuse("no gateway with this name is subscribed", hint)

    def _violated(self, fault: str) -> None:
        self._refuse(fault, "No gateway sends a pack this large: ask the broker's operator who sent it")

    def _refuse(self, text: str, hint: str, reason: int = 0) -> None:
        super()._refuse(text, hint, reason)
        if self.connections:
            self.queue.close()


def _take(
    client: ReplayClient, name: str, broker: str, silence_s: float, file: BinaryIO | None
) -> tuple[int, list[dict[str, Any]]]:
    """Receive messages up to the last reply. Returns (number of different packs, all replies to our request).

    Raises:
        BrokerError: nothing arrived for ``silence_s`` seconds, the broker refused the request, or too many messages
            arrived.
    """
    seen: set[bytes] = set()
    replies: list[dict[str, Any]] = []
    reply_topic, pack_topic = client.topics
    try:
        client.connect(max(silence_s, CONNECT_S))
    except LiveError as error:
        raise BrokerError(str(error), where="replay", hint=error.hint) from error
    end = time.monotonic() + silence_s
    while True:
        message = client.queue.take(max(0.0, end - time.monotonic()))
        if message is None and (refusal := client.refusal):
            raise BrokerError(str(refusal), where=broker, hint=refusal.hint)
        if message is None:
            hint = "Check that the gateway is online, and that the broker lets you publish to replay/request"
            raise BrokerError(f"no answer from the gateway for {silence_s:g} s", where=broker, hint=hint)
        payload, topic = message
        if topic == pack_topic:
            end = time.monotonic() + silence_s
            try:
                pack = inflate(payload)
            except Refused as error:
                click.echo(say(f"note: a message was left out: {clean_text(error.text, 200)}"), err=True)
                continue
            digest = hashlib.sha256(pack).digest()
            if digest not in seen:
                seen.add(digest)
                if file:
                    file.write(pack + b"\n")
        elif topic == reply_topic and (reply := _reply(payload, name)) is not None:
            replies.append(reply)
            end = time.monotonic() + silence_s
            if reply.get("verdict") in {"done", "refused"}:
                return len(seen), replies
        if len(seen) > MAX_PACKS or len(replies) > MAX_REPLIES:
            hint = f"At most {MAX_PACKS:,} packs and {MAX_REPLIES:,} replies are accepted; request a shorter range"
            raise BrokerError("the broker sent more packs than were requested", where=broker, hint=hint)


def _reply(payload: bytes, name: str) -> dict[str, Any] | None:
    """Return the reply in a message; None if the message is not a reply to our request."""
    try:
        reply = parse_object(payload, MAX_REPLY_BYTES, MAX_LOOSE_ITEMS)
    except Refused:
        return None
    return reply if reply.get("id") == name else None
