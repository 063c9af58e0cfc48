"""TLS with a certificate authority of the test's own: verification, and renewal without a restart."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from agent.cli.main import outcome
from agent.uplink import Uplink
from agent.verify.live import Live, LiveError
from tests.kits.delivery import Mosquitto, StoreOutbox, destination, fresh, until
from tests.kits.packs import Maker

Broker = Callable[..., Mosquitto]
Outboxes = Callable[..., StoreOutbox]
Uplinks = Callable[..., Uplink]
NOW = datetime.now(UTC)


class Authority:
    """A certificate authority. Python 3.13 is strict: key usage and key identifiers must be there."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self._name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        cert = (
            self._builder(self._name, self._key, 365)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, SHA256())
        )
        self.file.write_bytes(cert.public_bytes(Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
        begin = NOW - timedelta(days=400)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(NOW + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority, critical=False)
        )

    def issue(
        self, name: str, days: float = 300, address: str = "127.0.0.1", *, dns: str = "localhost"
    ) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address))]
        names += [x509.DNSName(dns)] if dns else []
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = (
            self._builder(subject, key, days)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, SHA256())
        )
        files = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        files[0].write_bytes(cert.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files


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


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("another authority", "ca_file"),
        ("no authority", "ca_file"),
        ("expired", "has expired"),
        ("another address", "Does url name"),
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
    assert "do not match" in str(up.state().error)
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
    assert "certificate verification failed" in str(up.state().error) and "Does url name" in str(up.state().hint)
    url = f"mqtts://localhost:{port}"
    with pytest.raises(LiveError, match="Hostname mismatch"):
        Live(url, ca_file=ca.file).start()
    assert outcome(["replay", "park7/gw01/inv1", "--broker", url, "--ca-file", str(ca.file)]) == 5
    assert "Hostname mismatch" in capsys.readouterr().err
    by_address = Live(f"mqtts://127.0.0.1:{port}", ca_file=ca.file)
    by_address.start()
    by_address.stop()
