"""`meterhouse keys` as a technician uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli.main import outcome
from agent.keys import check_key_records, load_key


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = outcome(["keys", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_create_show_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "signing.key"
    code, out, err = run(capsys, "create", str(path))
    signer = load_key(path)
    assert code == 0 and signer.kid in out and "--trust" in err
    secret = path.read_text().splitlines()[-2]
    code, out, _ = run(capsys, "show", str(path), "--json")
    facts = json.loads(out)
    assert (code, facts["thumbprint"], facts["alg"], facts["file"]) == (0, signer.kid, "Ed25519", str(path))
    assert secret not in out and "d" not in facts["jwk"]
    code, out, _ = run(capsys, "record", str(path), "--gateway", "park7/gw01")
    assert code == 0 and check_key_records(out.strip().encode(), "park7/gw01", trust=signer.kid).newest == signer.kid
    code, out, err = run(capsys, "create", str(path))
    assert (code, out) == (3, "") and "never overwritten" in err and load_key(path).kid == signer.kid


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "signing.key"
    assert run(capsys, "show", str(path))[0] == 3
    run(capsys, "create", str(path))
    code, _, err = run(capsys, "record", str(path), "--gateway", "park7")
    assert code == 2 and "SITE/GATEWAY" in err
    path.chmod(0o644)
    code, _, err = run(capsys, "show", str(path))
    assert code == 3 and "chmod 600" in err
    code, _, err = run(capsys, "show", "-c", str(tmp_path / "none.toml"))
    assert code == 3 and "none.toml" in err


def test_last_without_lost_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key was created and --last was ignored, so the user believed that a lost key was limited."""
    path = tmp_path / "signing.key"
    code, out, err = run(capsys, "create", str(path), "--last", "park7/gw01/inv1=5")
    assert (code, out) == (2, "") and not path.exists()
    assert "--last: has no effect without --lost" in err and "add --lost KID" in err
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    code, _, err = run(capsys, "create", str(path), "--last", "park7/gw01/inv1=5")
    assert code == 2 and "没有 --lost 时不起作用" in err and not path.exists()
    assert "请加 --lost KID（KID 为该密钥的指纹）" in err


def test_a_file_that_is_named_needs_no_sound_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("[sight]\n")
    path = tmp_path / "signing.key"
    assert run(capsys, "create", str(path), "-c", str(config))[0] == 0
    assert run(capsys, "rotate", str(path), "--gateway", "park7/gw01", "--yes", "-c", str(config))[0] == 0
    assert run(capsys, "show", str(path), "-c", str(config))[0] == 0
    code, _, err = run(capsys, "rotate", str(path), "--yes", "-c", str(config))
    assert code == 3 and "sight" in err


def test_the_key_that_the_configuration_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n[key]\nfile = "signing.key"\n'
    )
    code, out, _ = run(capsys, "create", "-c", str(config))
    assert code == 0 and str(tmp_path / "signing.key") in out
    code, out, _ = run(capsys, "record", "-c", str(config))
    assert code == 0 and json.loads(out)["gateway"] == "park7/gw01"
