"""`check --certificates`: what a daily timer asks, so that nobody is surprised by the end of a certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

CONFIG = """[site]
id = "park7"
gateway = "gw01"
timezone = "Asia/Shanghai"
[[uplink]]
name = "platform"
url = "mqtts://broker.example:8883"
ca_file = "ca.pem"
cert_file = "gw.pem"
key_file = "gw.key"
"""


def certificate(days: float) -> bytes:
    key, now = Ed25519PrivateKey.generate(), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gw01")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(days=400))
    return builder.not_valid_after(now + timedelta(days=days, hours=1)).sign(key, None).public_bytes(Encoding.PEM)


@pytest.fixture
def check(mh: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "agent.toml").write_text(CONFIG)

    def run(ours: bytes | None, authority: bytes, *more: str) -> Any:
        (tmp_path / "ca.pem").write_bytes(authority)
        if ours is not None:
            (tmp_path / "gw.pem").write_bytes(ours)
        return mh("check", "--certificates", "-c", tmp_path / "agent.toml", *more)

    return run


def test_all_is_well(check: Callable[..., Any]) -> None:
    said = check(certificate(31), certificate(400))
    assert (said.code, said.err) == (0, "") and "31 days" in said.out and "400 days" in said.out


def test_thirty_days_before_it_is_said_by_name(check: Callable[..., Any]) -> None:
    """Renewed files are used from the next connection on: the warning is all that is missing."""
    # field pain 72
    said = check(certificate(29), certificate(400))
    assert said.code == 5 and "gw.pem expires in 29 days" in said.err and "no restart is needed" in said.err
    assert said.err.count("\n") == 1


def test_the_days_and_the_warnings_are_chinese(check: Callable[..., Any], tmp_path: Path) -> None:
    said = check(certificate(29), certificate(-3), "--lang", "zh")
    assert [line.rpartition("  ")[2] for line in said.out.splitlines()] == ["29 天", "-3 天"]
    assert said.err.splitlines() == [
        f"警告：上行目标 platform：客户端证书 {tmp_path}/gw.pem 将在 29 天后过期；请更换证书，无需重启",
        f"警告：上行目标 platform：CA 证书 {tmp_path}/ca.pem 已过期 3 天；请更换证书，无需重启",
    ]
    (tmp_path / "gw.pem").unlink()
    missing = check(None, certificate(400), "--lang", "zh").err
    assert missing == f"警告：上行目标 platform：客户端证书 {tmp_path}/gw.pem 无法读取：文件或目录不存在\n"


def test_one_of_several_authorities_in_a_file(check: Callable[..., Any]) -> None:
    said = check(certificate(300), certificate(400) + certificate(-3), "--json")
    facts = json.loads(said.out)
    assert said.code == 5 and not facts["ok"] and len(facts["certificates"]) == 3
    assert "ca.pem expired 3 days ago" in facts["complaints"][0]


def test_a_file_that_is_missing_or_is_none(check: Callable[..., Any]) -> None:
    said = check(None, b"no certificate")
    assert said.code == 5 and "gw.pem cannot be read: No such file" in said.err and "ca.pem cannot be read" in said.err


@pytest.mark.parametrize("key", ["certificate_file", "certificate_credential"])
def test_the_certificate_of_the_page_is_checked_too(
    mh: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A browser refuses an expired certificate, and the daily check said nothing of it."""
    config, page = tmp_path / "agent.toml", tmp_path / "page.pem"
    monkeypatch.setattr("agent.certificates.CREDENTIALS", tmp_path)
    names = (key, *(key.replace("certificate", name) for name in ("key", "password")))
    tables = "".join(f'{name} = "page.pem"\n' for name in names)
    config.write_text(CONFIG.partition("[[uplink]]")[0] + '[web]\nlisten = "0.0.0.0:8443"\n' + tables)
    page.write_bytes(certificate(300))
    page.chmod(0o600)
    said = mh("check", "--certificates", "-c", config)
    assert (said.code, said.err) == (0, "") and f"[web]  {page}  300 days" in said.out
    page.write_bytes(certificate(-3))
    said = mh("check", "--certificates", "-c", config)
    told = (
        f"warning: the page's certificate {page} expired 3 days ago; `meterhouse web --setup` makes a new certificate"
    )
    assert said.code == 5 and told in said.err
    page.unlink()
    said = mh("check", "--certificates", "-c", config, "--json")
    # a credential may come from a place that only systemd knows
    assert json.loads(said.out)["ok"] is (key == "certificate_credential")


def test_under_systemd_it_is_a_warning_of_the_journal(
    check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert check(certificate(5), certificate(400)).err.startswith("<4>destination platform")
