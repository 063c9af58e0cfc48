"""[web]: where the page listens; `check` finds mistakes, and one elsewhere does not keep the page from starting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.config import WebConfig, load_config, load_page_config
from agent.settings import Secret
from drivers.model import ConfigError

SITE = '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n'
SECRETS = 'certificate_file = "c.pem"\nkey_file = "k.pem"\npassword_credential = "page"\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(SITE + text)
    return path


def complaints(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    with pytest.raises(ConfigError) as page:
        load_page_config(path)
    assert str(page.value) == str(caught.value)
    return [str(one).removeprefix(f"{path}:") for one in caught.value.complaints]


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("127.0.0.1:9000", "127.0.0.1", 9000), ("localhost:80", "127.0.0.1", 80), ("[::1]:1", "::1", 1),
     ("0.0.0.0:8443", "0.0.0.0", 8443), ("[2001:DB8::1]:65535", "2001:db8::1", 65535)],
)  # fmt: skip
def test_addresses(tmp_path: Path, listen: str, host: str, port: int) -> None:
    config = load_config(written(tmp_path, f'[web]\nlisten = "{listen}"\n{SECRETS}'))
    secrets = (Secret(file=tmp_path / "c.pem"), Secret(file=tmp_path / "k.pem"), Secret(credential="page"))
    assert config.web == WebConfig(host, port, *secrets) and load_page_config(config.path).web == config.web
    assert config.web.address.rpartition(":")[0].strip("[]") == host


@pytest.mark.parametrize(
    "listen",
    ["8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "[127.0.0.1]:80", "gw01:80", ":80",
     "*:80", "http://127.0.0.1:80", "127.0.0.1:8_0", "127.0.0.1:٨٠", "[fe80::1%eth0", "127.0.0.1:-1"],
)  # fmt: skip
def test_what_is_no_address_with_a_port(tmp_path: Path, listen: str) -> None:
    (text,) = complaints(written(tmp_path, f'[web]\nlisten = "{listen}"\n'))
    assert text.startswith("6: web.listen: ") and "is not an address with a port" in text and "127.0.0.1:8080" in text


def test_other_machines_need_tls_and_a_password(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")).web == WebConfig("127.0.0.1", 8080)
    for missing in SECRETS.splitlines():
        secrets = SECRETS.replace(missing, "")
        (text,) = complaints(written(tmp_path, f'[web]\nlisten = "0.0.0.0:8443"\n{secrets}'))
        assert "meterhouse web --setup" in text or "TLS needs a certificate and its key" in text
    (text,) = complaints(written(tmp_path, '[web]\nkey_file = "k"\n'))
    assert "the certificate is missing" in text
    (text,) = complaints(written(tmp_path, '[web]\npassword = "secret-in-clear"\n'))
    assert "Do not write secrets here" in text and "secret-in-clear" not in text


def test_secrets_that_others_may_read_are_told(tmp_path: Path) -> None:
    """The page starts with them: it worked before."""
    secrets = SECRETS.replace("password_credential", "password_file")
    path = written(tmp_path, f'[web]\nlisten = "0.0.0.0:8443"\n{secrets}')
    for name, mode in (("c.pem", 0o644), ("k.pem", 0o640), ("page", 0o604)):
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).chmod(mode)
    told = [str(note).removeprefix(f"{path}:") for note in load_config(path).notes if "others may read" in str(note)]
    root = os.getuid() == 0  # a group of root's choice may read: packages install secrets so
    assert len(told) == (1 if root else 2) and told[-1].startswith("9: web.password_file: others may read or change")
    assert "owned by the user that runs `meterhouse web`" in told[-1] and "`meterhouse web --setup`" in told[-1]
    assert root or ("web.key_file" in told[0] and "(mode 0640)" in told[0])
    for name in ("k.pem", "page"):
        (tmp_path / name).chmod(0o600)
    assert not [note for note in load_config(path).notes if "others may read" in str(note)]
    assert load_page_config(path).web.port == 8443


def test_the_page_starts_with_mistakes_elsewhere(tmp_path: Path) -> None:
    path = written(
        tmp_path, '[web]\nlisten = "[::1]:1"\n[[device]]\nname = "inv1"\nlabel = "Roof"\nprofile = 7\n[stroe]\n'
    )
    with pytest.raises(ConfigError):
        load_config(path)
    page = load_page_config(path, environ={"RUNTIME_DIRECTORY": "/run/x"})
    assert (page.web.port, page.timezone, page.runtime_dir, page.labels) == (
        1,
        "Asia/Shanghai",
        Path("/run/x"),
        {"inv1": "Roof"},
    )
    assert load_page_config(path, runtime_dir=tmp_path).runtime_dir == tmp_path


def test_the_page_is_no_part_of_the_configurations_hash(tmp_path: Path) -> None:
    before = load_config(written(tmp_path, "")).hash()
    assert load_config(written(tmp_path, f'[web]\nlisten = "[::]:1"\n{SECRETS}')).hash() == before
