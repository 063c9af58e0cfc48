"""TLS with a certificate authority of the test's own: verification, and renewal without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.cli.main import outcome
from agent.uplink import Uplink
from agent.verify.live import Live, LiveError
from tests.kits.authority import Authority
from tests.kits.delivery import Mosquitto, StoreOutbox, destination, fresh, until
from tests.kits.packs import Maker

Broker = Callable[..., Mosquitto]
Outboxes = Callable[..., StoreOutbox]
Uplinks = Callable[..., Uplink]
NOW = datetime.now(UTC)


def tls(server: tuple[Path, Path], ca: Path, *more: str) -> tuple[str, ...]:
    return (f"certfile {server[0]}", f"keyfile {server[1]}", f"cafile {ca}", *more)


def test_packs_go_over_tls(broker: Broker, outbox: Outboxes, uplink: Uplinks, tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca")
    port = broker(*tls(ca.issue("server"), ca.file)).port
    at, make = outbox(), Maker(pad=20_000)
    up = uplink(at, destination(port, tls=True, ca_file=ca.file, confirm="broker"))
    at.commit(*(fresh(make) for _ in range(60)))
    until(lambda: at.pending() == 0)
    assert up.state().error is None
    days = ((up.state().broker_certificate_ends or 0) - NOW.timestamp()) / 86_400
    assert 299 < days < 301, "what the broker showed, whoever signed it"


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("another authority", "ca_file"),
        ("no authority", "ca_file"),
        ("expired", "has expired"),
        ("another address", "Is the address in url the same"),
    ],
)
def test_a_certificate_that_fails_verification_is_explained(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, tmp_path: Path, fault: str, what: str
) -> None:
    ca, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    server = ca.issue(
        "server", days=-1 if fault == "expired" else 300, address="192.0.2.1" if "address" in fault else "127.0.0.1"
    )
    port = broker(*tls(server, ca.file)).port
    trusted = {"another authority": other.file, "no authority": None}.get(fault, ca.file)
    up = uplink(outbox(), destination(port, tls=True, ca_file=trusted))
    until(lambda: up.state().error)
    shown = f"{up.state().error} {up.state().hint}"
    assert "certificate verification failed" in shown and what in shown


def test_renewed_certificates_are_used_by_the_next_connection(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a restart; the agent warns before a certificate expires. # field pain 72"""
    ca, stranger = Authority(tmp_path, "ca"), Authority(tmp_path, "stranger")
    port = broker(*tls(ca.issue("server"), ca.file, "require_certificate true")).port
    cert, key = stranger.issue("client")
    at, make = outbox(), Maker()
    to = destination(port, tls=True, ca_file=ca.file, cert_file=cert, key_file=key, confirm="broker")
    up = uplink(at, to)
    at.commit(fresh(make))
    until(lambda: up.state().error)
    assert not up.state().connected
    with caplog.at_level(logging.WARNING):
        ca.issue("client", days=3)  # the same files
        until(lambda: up.state().connected)
        until(lambda: at.pending() == 0)
    assert "expires in 3 days" in caplog.text and str(cert) in caplog.text


def test_an_expired_client_certificate_is_logged_as_expired(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log said that it "expires in -3 days". A broker that asks for no certificate accepts the connection."""
    ca = Authority(tmp_path, "ca")
    port = broker(*tls(ca.issue("server"), ca.file)).port
    cert, key = ca.issue("client", days=-3)
    with caplog.at_level(logging.WARNING):
        up = uplink(outbox(), destination(port, tls=True, ca_file=ca.file, cert_file=cert, key_file=key))
        until(lambda: up.state().connected)
        warned = f"platform: client certificate {cert} expired 3 days ago; renew it, no restart is needed"
        until(lambda: warned in caplog.messages or "expires" in caplog.text)
    assert warned in caplog.messages


def test_a_missing_client_certificate_is_named(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, tmp_path: Path
) -> None:
    ca = Authority(tmp_path, "ca")
    port = broker(*tls(ca.issue("server"), ca.file, "require_certificate true")).port
    up = uplink(outbox(), destination(port, tls=True, ca_file=ca.file))
    until(lambda: up.state().error)
    assert "client certificate" in f"{up.state().error} {up.state().hint}", up.state()


def test_a_certificate_and_a_key_that_do_not_match_are_named(outbox: Outboxes, uplink: Uplinks, tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca")
    one, two = ca.issue("one"), ca.issue("two")
    up = uplink(outbox(), destination(1, tls=True, ca_file=ca.file, cert_file=one[0], key_file=two[1]))
    until(lambda: up.state().error)
    assert "does not match" in str(up.state().error)
    text = tmp_path / "text.pem"
    text.write_text("no certificate\n")
    other = uplink(outbox(), destination(1, tls=True, ca_file=text))
    until(lambda: other.state().error)
    assert "cannot load the TLS files" in str(other.state().error)


def test_the_common_name_of_a_certificate_does_not_count(
    broker: Broker, outbox: Outboxes, uplink: Uplinks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A certificate with localhost in its common name only: for the agent, for `verify` and for `replay`."""
    ca = Authority(tmp_path, "ca")
    port = broker(*tls(ca.issue("localhost", dns=""), ca.file)).port
    up = uplink(outbox(), destination(port, host="localhost", tls=True, ca_file=ca.file))
    until(lambda: up.state().error)
    assert "certificate verification failed" in str(up.state().error) and "Is the host name in url the same" in str(
        up.state().hint
    )
    url = f"mqtts://localhost:{port}"
    with pytest.raises(LiveError, match="Hostname mismatch"):
        Live(url, ca_file=ca.file).start()
    assert outcome(["replay", "park7/gw01/inv1", "--broker", url, "--ca-file", str(ca.file)]) == 5
    assert "Hostname mismatch" in capsys.readouterr().err
    by_address = Live(f"mqtts://127.0.0.1:{port}", ca_file=ca.file)
    by_address.start()
    by_address.stop()
