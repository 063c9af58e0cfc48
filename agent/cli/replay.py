"""`meterhouse replay`: the platform's side of a replay: ask a gateway for packs again and take what comes."""

from __future__ import annotations

import json
import queue
import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from agent.cli.common import as_line, json_option, parse_for, tidy
from drivers.model import BrokerError, UsageError

PREFIX = "meterhouse/v1/"
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
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    base = PREFIX + stream.rpartition("/")[0]
    mail: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2)
    if ca_file or url.scheme == "mqtts":
        client.tls_set(str(ca_file) if ca_file else None)
    if username:
        password = password_file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r") if password_file else None
        client.username_pw_set(username, password)
    topics = [(f"{base}/replay/reply", 1), (f"{PREFIX}{stream}/backfill", 1)]
    name = secrets.token_hex(8)
    request: dict[str, Any] = {"id": name, "stream": stream, "first": first, "last": last}
    if boot:
        request["boot"] = boot
    client.on_connect = lambda c, *_: c.subscribe(topics)
    client.on_subscribe = lambda c, *_: c.publish(f"{base}/replay/request", json.dumps(request), 1)
    client.on_message = lambda _c, _u, message: mail.put((message.topic, bytes(message.payload)))
    try:
        client.connect(url.hostname, url.port or PORTS[url.scheme])
    except OSError as error:
        raise BrokerError(
            error.strerror or str(error), where=broker, hint="Is it running, and the port right?"
        ) from error
    client.loop_start()
    try:
        packs, replies = _take(mail, name, broker, silence_s)
    finally:
        client.disconnect()
        client.loop_stop()
    if out:
        with out.open("ab") as file:
            file.writelines(pack + b"\n" for pack in packs)
    short = [reply for reply in replies if reply.get("verdict") in {"expired", "lost", "refused"}]
    if as_json:
        click.echo(as_line({"packs": len(packs), "replies": replies}))
    else:
        for reply in short:
            span = f" {reply['first']} to {reply['last']}" if "first" in reply else ""
            click.echo(tidy(f"{reply['verdict']}{span} {reply.get('reason', '')}".rstrip(), 300))
        click.echo(f"{len(packs)} packs")
    raise SystemExit(6 if short else 0)


def _take(
    mail: queue.SimpleQueue[tuple[str, bytes]], name: str, broker: str, silence_s: float
) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Packs and our replies, up to the last word. Raises BrokerError when nothing comes for ``silence_s``."""
    packs: dict[bytes, None] = {}
    replies: list[dict[str, Any]] = []
    end = time.monotonic() + silence_s
    while True:
        try:
            topic, payload = mail.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            hint = "Is the gateway online, and may we write to replay/request?"
            raise BrokerError(f"no answer for {silence_s:g} s", where=broker, hint=hint) from None
        if topic.endswith("/backfill"):
            packs[payload] = None
            end = time.monotonic() + silence_s
            continue
        try:
            reply = json.loads(payload)
        except ValueError:
            continue
        if isinstance(reply, dict) and reply.get("id") == name:
            replies.append(reply)
            end = time.monotonic() + silence_s
            if reply.get("verdict") in {"done", "refused"}:
                return list(packs), replies
