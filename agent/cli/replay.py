"""`meterhouse replay`: the platform's side of a replay: ask a gateway for packs again and take what comes."""

from __future__ import annotations

import hashlib
import json
import queue
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

import click

from agent.cli.common import as_line, json_option, parse_for, tidy
from drivers.model import BrokerError, UsageError

if TYPE_CHECKING:
    from paho.mqtt.client import Client

PREFIX = "meterhouse/v1/"
NO_SUBSCRIBERS, UNSUPPORTED = 0x10, 0x84  # reason codes of MQTT 5
PORTS = {"mqtt": 1883, "mqtts": 8883}
LAST = 2**53


@click.command()
@click.argument("stream", metavar="SITE/GATEWAY/NAME")
@click.option("--broker", metavar="URL", required=True, help="mqtt://host:1883 or mqtts://host:8883.")
@click.option("--first", type=click.IntRange(1, LAST), default=1, show_default=True, help="First sequence.")
@click.option("--last", type=click.IntRange(1, LAST), default=LAST, help="Last sequence; default: up to the newest.")
@click.option("--boot", help="Only packs of this boot (16 hex digits).")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Append the packs here, one a line.")
@click.option("--ca-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Trust this CA (mqtts).")
@click.option("--username", help="For the broker.")
@click.option("--password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its first line.")
@click.option(
    "--for", "silence_s", callback=parse_for, default="30 s", show_default=True, help="Give up after silence."
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
    """Ask a gateway for packs of a stream again; they come as the identical bytes on the topic `backfill`.

    \b
    Example:
      meterhouse replay park7/gw01/inv1 --broker mqtt://127.0.0.1 --first 800 --last 812 --out again.jsonl

    \b
    Exit codes: 0 all came, 2 wrong usage, 5 no broker or no answer, 6 some are expired, lost or refused.
    """
    url = urlsplit(broker)
    if url.scheme not in PORTS or not url.hostname:
        raise UsageError(f"{tidy(broker)!r} is no broker", where="--broker", hint="mqtt://host or mqtts://host")
    if stream.count("/") != 2 or not all(stream.split("/")) or set(stream) & set("+#"):
        raise UsageError(f"{tidy(stream)!r} is no stream", where="replay", hint="Such as park7/gw01/inv1")
    name = secrets.token_hex(8)
    request: dict[str, Any] = {"id": name, "stream": stream, "first": first, "last": last}
    if boot:
        request["boot"] = boot
    password = password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r") if password_file else None
    asking = Asking(broker, stream, request, ca_file, (username, password))
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
        click.echo(f"{count} packs" + ("; `meterhouse verify` says whether they hold" if count else ""))
    raise SystemExit(6 if short else 0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The broker's own word: it does not let us ask."""

    code: int
    text: str
    hint: str


class Asking:
    """A connection that asks once it is subscribed, again after a reconnect, and leaves in ``mail`` what comes."""

    def __init__(
        self,
        broker: str,
        stream: str,
        request: dict[str, Any],
        ca_file: Path | None,
        login: tuple[str | None, str | None],
    ) -> None:
        self.mail: queue.SimpleQueue[tuple[str, bytes] | Refusal] = queue.SimpleQueue()
        self._broker, self._url, self._ca_file, self._login = broker, urlsplit(broker), ca_file, login
        base = PREFIX + stream.rpartition("/")[0]
        self._topics = [(f"{base}/replay/reply", 1), (f"{PREFIX}{stream}/backfill", 1)]
        self._ask_topic, self._request = f"{base}/replay/request", json.dumps(request)
        self._heard = False  # something came that a broker says to a client of its version
        self._client: Client | None = None

    def dial(self, version: int) -> None:
        """Connect as MQTT 5 or 4 (3.1.1). Raises BrokerError where nobody is there."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.hang_up()
        self.mail, self._heard = queue.SimpleQueue(), False
        client = self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(version))
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_subscribe, client.on_publish, client.on_message = self._subscribed, self._published, self._came
        if self._login[0]:
            client.username_pw_set(*self._login)
        try:
            if self._url.scheme == "mqtts":
                client.tls_set(str(self._ca_file) if self._ca_file else None)
            client.connect(self._url.hostname or "", self._url.port or PORTS[self._url.scheme])
        except (OSError, ValueError) as error:
            hint = "Is it running, and the port right?"
            raise BrokerError(getattr(error, "strerror", None) or str(error), where=self._broker, hint=hint) from error
        client.loop_start()

    def hang_up(self) -> None:
        """Leave nothing running."""
        if self._client:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    # --- paho's thread

    def _connected(self, client: Client, _data: object, _flags: object, reason: Any, _props: object) -> None:
        self._heard = True
        if reason.is_failure:
            self.mail.put(Refusal(reason.value, f"the broker refuses: {reason}", "Check user name and password"))
        else:
            client.subscribe(self._topics)

    def _disconnected(self, *_rest: object) -> None:
        if not self._heard:  # some brokers of one version answer the other one this way
            self.mail.put(Refusal(UNSUPPORTED, "the broker closes the connection without an answer", "Is TLS right?"))

    def _subscribed(self, client: Client, _data: object, _mid: int, reasons: list[Any], _props: object) -> None:
        if any(reason.is_failure for reason in reasons):
            hint = "Its access rules must let us read backfill and replay/reply"
            self.mail.put(Refusal(reasons[0].value, f"the broker refuses the subscription: {reasons[0]}", hint))
        else:
            client.publish(self._ask_topic, self._request, 1)

    def _published(self, _client: Client, _data: object, _mid: int, reason: Any, _props: object) -> None:
        if reason.is_failure:
            hint = "Its access rules must let us write replay/request"
            self.mail.put(Refusal(reason.value, f"the broker refuses the request: {reason}", hint))
        elif reason.value == NO_SUBSCRIBERS:
            hint = "Is the name right, and the gateway online? Its topic status says so"
            self.mail.put(Refusal(reason.value, "no gateway of this name listens there", hint))

    def _came(self, _client: Client, _data: object, message: Any) -> None:
        self.mail.put((message.topic, bytes(message.payload)))


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
        try:
            letter = asking.mail.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            hint = "Is the gateway online, and may we write to replay/request?"
            raise BrokerError(f"no answer for {silence_s:g} s", where=broker, hint=hint) from None
        if isinstance(letter, Refusal):
            if version == 5 and letter.code in (1, UNSUPPORTED):
                version = 4
                asking.dial(version)
                end = time.monotonic() + silence_s
                continue
            raise BrokerError(letter.text, where=broker, hint=letter.hint)
        topic, payload = letter
        if topic.endswith("/backfill"):
            end = time.monotonic() + silence_s
            digest = hashlib.sha256(payload).digest()
            if digest not in seen:
                seen.add(digest)
                if file:
                    file.write(payload + b"\n")
            continue
        try:
            reply = json.loads(payload)
        except ValueError:
            continue
        if isinstance(reply, dict) and reply.get("id") == name:
            replies.append(reply)
            end = time.monotonic() + silence_s
            if reply.get("verdict") in {"done", "refused"}:
                return len(seen), replies
