"""The first start of a gateway makes its signing key: an image for many gateways holds none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.cli.run import make_key
from agent.config import Config, load_config
from agent.keys import KeyFileError, load_key, load_own_key

TEXT = '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "UTC"\n[key]\nfile = "state/signing.key"\n'


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "agent.toml").write_text(TEXT)
    return load_config(tmp_path / "agent.toml", state_dir=tmp_path / "state", runtime_dir=tmp_path / "run")


def test_the_first_start_makes_the_key_and_logs_whose_it_is(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    make_key(config)
    path = config.state_dir / "signing.key"
    assert path.stat().st_mode & 0o777 == 0o600 and config.state_dir.stat().st_mode & 0o777 == 0o700
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"created the signing key {path}" in warning and load_key(path).kid in warning
    before = path.read_bytes()
    make_key(config)
    assert path.read_bytes() == before


def test_a_gateway_with_a_database_gets_no_other_key(config: Config) -> None:
    """Its key was lost; another one would not be believed, and the start fails instead."""
    config.state_dir.mkdir(mode=0o700)
    config.store_path.write_bytes(b"")
    make_key(config)
    path = config.state_dir / "signing.key"
    assert not path.exists()
    with pytest.raises(KeyFileError, match=r"this gateway has signed with it.*Restore the file.*new thumbprint"):
        load_own_key(path, config.store_path)
