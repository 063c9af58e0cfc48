"""`meterhouse replay`: the platform's side of a replay: ask a gateway for packs again and take what comes."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from agent.cli.common import as_line, json_option, parse_for, tidy
from drivers.model import BrokerError, UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

    from agent.verify.mqtt import BoundedClient

PREFIX = "meterhouse/v1/"
NO_SUBSCRIBERS, UNSUPPORTED = 0x10, 0x84  # reason codes of MQTT 5
LAST = 2**53
MAX_REPLIES: Final = 10_000  # to one request
MAX_REPLY_BYTES: Final = 64 << 10
MAX_PACKS: Final = 2_000_000  # whose hashes are kept, to recognise duplicates


@click.command()
@click.argument("stream", metavar="SITE/GATEWAY/NAME")
@click.option("--broker", metavar="URL", required=True, help="mqtt://host:1883 or mqtts://host:8883.")
@click.option("--first", type=click.IntRange(1, LAST), default=1, show_default=True, help="First sequence.")
@click.option("--last", type=click.IntRange(1, LAST), default=LAST, help="Last sequence; default: up to the newest.")
@click.option("--boot", help="Only packs of this boot (16 hex digits).")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Append the packs here, one a line.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Trust this CA (mqtts).")
@click.option("--username", help="User name for the broker.")
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Password for the broker: first line of the file.",
)
@click.option(
    "--for",
    "silence_s",
    callback=parse_for,
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
    ca_file: Path | None,
    username: str | None,
    password_file: Path | None,
    silence_s: float,
    as_json: bool,
) -> None:
    """Request packs of a stream again; the gateway sends the identical bytes on the topic `backfill`.

    \b
    Example:
      meterhouse replay park7/gw01/inv1 --broker mqtt://127.0.0.1 --first 800 --last 812 --out again.jsonl

    \b
    Exit codes: 0 all arrived, 2 wrong usage, 5 no broker or no answer, 6 some are expired, lost or refused.
    """
    from agent.verify.live import LiveError, broker_of

    try:
        place = broker_of(broker)
    except LiveError as error:
        raise UsageError(str(error), where="--broker", hint=error.hint.rstrip(".")) from None
    if stream.count("/") != 2 or not all(stream.split("/")) or set(stream) & set("+#"):
        raise UsageError(f"invalid stream {tidy(stream)!r}", where="replay", hint="Such as park7/gw01/inv1")
    name = secrets.token_hex(8)
    request: dict[str, Any] = {"id": name, "stream": stream, "first": first, "last": last}
    if boot:
        request["boot"] = boot
    password = password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r") if password_file else None
    asking = Asking(broker, place, stream, request, ca_file, (username, password))
    with ExitStack() as stack:
        try:
            file = stack.enter_context(out.open("ab")) if out else None
        except OSError as error:
            raise UsageError(f"cannot be written ({error.strerror})", where=str(out)) from error
        stack.callback(asking.hang_up)
        count, replies = _take(asking, name, broker, silence_s, file)
    short = [reply for reply in replies if reply.get("verdict") in {"expired", "lost", "refused"}]
    if as_json:
        click.echo(as_line({"packs": count, "replies": replies}))
    else:
        for reply in short:
            span = f" {reply['first']} to {reply['last']}" if "first" in reply else ""
            click.echo(tidy(f"{reply['verdict']}{span} {reply.get('reason', '')}".rstrip(), 300))
        click.echo(f"{count} packs" + ("; check them with `meterhouse verify`" if count else ""))
    raise SystemExit(6 if short else 0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The broker's own word: it does not let us ask."""

    code: int
    text: str
    hint: str


class Asking:
    """A connection that asks once it is subscribed, again after a reconnect, and leaves in ``mail`` what comes.

    ``mail`` has room for some messages; while it is full, the broker waits.
    """

    def __init__(
        self,
        broker: str,
        place: tuple[str, str, int],
        stream: str,
        request: dict[str, Any],
        ca_file: Path | None,
        login: tuple[str | None, str | None],
    ) -> None:
        from agent.verify.live import Mail

        self.mail = Mail()
        self.refusal: Refusal | None = None
        self._broker, self._place, self._ca_file, self._login = broker, place, ca_file, login
        base = PREFIX + stream.rpartition("/")[0]
        self._topics = (f"{base}/replay/reply", f"{PREFIX}{stream}/backfill")
        self._ask_topic, self._request = f"{base}/replay/request", json.dumps(request)
        self._heard = False  # the broker answered to this protocol version
        self._client: BoundedClient | None = None

    def dial(self, version: int) -> None:
        """Connect as MQTT 5 or 4 (3.1.1). Raises BrokerError if there is no broker."""
        from paho.mqtt.enums import MQTTProtocolVersion

        from agent.verify.live import KEEPALIVE_S, MAX_PACKET, Mail
        from agent.verify.mqtt import BoundedClient
        from agent.verify.tls import tls_context

        self.hang_up()
        self.mail, self.refusal, self._heard = Mail(), None, False
        client = self._client = BoundedClient(MQTTProtocolVersion(version), MAX_PACKET)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_subscribe, client.on_publish, client.on_message = self._subscribed, self._published, self._came
        if self._login[0]:
            client.username_pw_set(*self._login)
        scheme, host, port = self._place
        try:
            if scheme == "mqtts":
                client.tls_set_context(tls_context(self._ca_file))
            client.reach(host, port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            hint = "Is it running, and the port right?"
            raise BrokerError(getattr(error, "strerror", None) or str(error), where=self._broker, hint=hint) from error
        client.loop_start()

    def hang_up(self) -> None:
        """Leave nothing running."""
        self.mail.close()  # release the waiting producer
        if self._client:
            from agent.verify.mqtt import hang_up

            hang_up(self._client)
            self._client = None

    # --- paho's thread

    def _refused(self, code: int, text: str, hint: str) -> None:
        self.refusal = Refusal(code, text, hint)
        self.mail.close()

    def _connected(self, _client: Client, _data: object, _flags: object, reason: Any, _props: object) -> None:
        self._heard = True
        if reason.is_failure:
            self._refused(reason.value, f"the broker refuses: {reason}", "Check user name and password")
        elif self._client:
            self._client.follow(*self._topics, retained=False)

    def _disconnected(self, *_rest: object) -> None:
        if self._client and self._client.fault:
            text = f"the broker sent {self._client.fault}; the connection was closed"
            self._refused(0, text, "No pack is so large. Ask its operator")
        elif not self._heard:  # some brokers of one version answer the other one this way
            self._refused(UNSUPPORTED, "the broker closes the connection without an answer", "Is TLS right?")

    def _subscribed(self, client: Client, _data: object, _mid: int, reasons: list[Any], _props: object) -> None:
        if any(reason.is_failure for reason in reasons):
            hint = "Its access rules must allow reading backfill and replay/reply"
            self._refused(reasons[0].value, f"the broker refuses the subscription: {reasons[0]}", hint)
        else:
            client.publish(self._ask_topic, self._request, 1)

    def _published(self, _client: Client, _data: object, _mid: int, reason: Any, _props: object) -> None:
        if reason.is_failure:
            hint = "Its access rules must allow writing replay/request"
            self._refused(reason.value, f"the broker refuses the request: {reason}", hint)
        elif reason.value == NO_SUBSCRIBERS:
            hint = "Check the name, and in its topic status that the gateway is online"
            self._refused(reason.value, "no gateway of this name listens there", hint)

    def _came(self, _client: Client, _data: object, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of ours
        if topic in self._topics and not message.retain:
            self.mail.put(bytes(message.payload), topic)


def _take(
    asking: Asking, name: str, broker: str, silence_s: float, file: BinaryIO | None
) -> tuple[int, list[dict[str, Any]]]:
    """How many different packs came, and our replies, up to the last word. Raises BrokerError on silence."""
    seen: set[bytes] = set()
    replies: list[dict[str, Any]] = []
    version = 5
    asking.dial(version)
    end = time.monotonic() + silence_s
    while True:
        letter = asking.mail.take(max(0.0, end - time.monotonic()))
        if letter is None and (refusal := asking.refusal):
            if version == 5 and refusal.code in (1, UNSUPPORTED):
                version = 4
                asking.dial(version)
                end = time.monotonic() + silence_s
                continue
            raise BrokerError(refusal.text, where=broker, hint=refusal.hint)
        if letter is None:
            hint = "Check that the gateway is online, and that writing to replay/request is allowed"
            raise BrokerError(f"no answer for {silence_s:g} s", where=broker, hint=hint)
        payload, topic = letter
        if topic.endswith("/backfill"):
            end = time.monotonic() + silence_s
            digest = hashlib.sha256(payload).digest()
            if digest not in seen:
                seen.add(digest)
                if file:
                    file.write(payload + b"\n")
        elif (reply := _reply(payload, name)) is not None:
            replies.append(reply)
            end = time.monotonic() + silence_s
            if reply.get("verdict") in {"done", "refused"}:
                return len(seen), replies
        if len(seen) > MAX_PACKS or len(replies) > MAX_REPLIES:
            hint = f"At most {MAX_PACKS:,} packs and {MAX_REPLIES:,} replies are accepted; request a shorter range"
            raise BrokerError("more packs than requested", where=broker, hint=hint)


def _reply(payload: bytes, name: str) -> dict[str, Any] | None:
    """A reply to our request; None for any other message."""
    from agent.verify.strict import MAX_LOOSE_ITEMS, Refused, parse_object

    try:
        reply = parse_object(payload, MAX_REPLY_BYTES, MAX_LOOSE_ITEMS)
    except Refused:
        return None
    return reply if reply.get("id") == name else None
