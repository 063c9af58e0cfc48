"""Keys: files nobody else can read, signatures that stock libraries check, records that chain."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey

from agent.keys import (
    TYP_KEYS,
    TYP_PACK,
    KeyFileError,
    Signer,
    check_key_records,
    create_key,
    key_records,
    load_key,
    thumbprint,
)

GATEWAY = "park7/gw01"
PEM = (Encoding.PEM, PrivateFormat.PKCS8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signing.key"


def test_a_new_key_is_a_private_file_and_loads_again(path: Path) -> None:
    made = create_key(path, 1_795_500_000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name], "no draft is left"
    again = load_key(path)
    assert (again.kid, again.jwk, again.not_before) == (made.kid, made.jwk, 1_795_500_000)
    assert again.sign(TYP_PACK, b"{}") == made.sign(TYP_PACK, b"{}")


def test_a_key_is_never_overwritten(path: Path) -> None:
    create_key(path, 1)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="never overwritten"):
        create_key(path, 2)
    assert path.read_bytes() == before


def test_two_who_create_at_once_agree_on_one_key(path: Path) -> None:
    code = f"from pathlib import Path; from agent.keys import create_key; create_key(Path({str(path)!r}), 1)"
    both = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert sorted(p.wait(timeout=300) for p in both) == [0, 1]
    assert load_key(path).kid


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o666, 0o660])
def test_a_key_that_others_can_reach_is_refused(path: Path, mode: int) -> None:
    create_key(path, 1)
    path.chmod(mode)
    if mode == 0o640 and os.geteuid() != 0 and path.stat().st_uid == 0:
        pytest.skip("a file of root that one group may read is allowed")
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}.*chmod 600"):
        load_key(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away (run as root)")
def test_the_key_of_another_user_is_refused(path: Path) -> None:
    create_key(path, 1)
    os.chown(path, 4242, 4242)
    with pytest.raises(KeyFileError, match="belongs to user 4242, not to user 0"):
        load_key(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else (run as root)")
def test_a_credential_of_root_with_an_acl_mask_is_good(tmp_path: Path) -> None:
    """systemd leaves credentials as root's with mode 0440 where the service has a user of its own."""
    path = tmp_path / "signing-key"
    create_key(path, 1)
    os.chown(path, 0, 4242)
    path.chmod(0o440)
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder) not in {"/", "/tmp"}:
            folder.chmod(0o755)
    text = path.read_bytes()
    code = (
        "import os, sys; sys.path.insert(0, os.getcwd()); import agent.keys as k; from pathlib import Path;"
        "os.setgroups([]); os.setgid(4242); os.setuid(4242);"
        f"print(k.load_key(Path({str(path)!r})).kid)"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert got.stdout.strip() and text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "not a private key in PEM form"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key in PEM form"),
        (rsa.generate_private_key(65537, 2048).private_bytes(*PEM, NoEncryption()), "RSAPrivateKey cannot sign packs"),
        (ec.generate_private_key(ec.SECP384R1()).private_bytes(*PEM, NoEncryption()), "cannot sign packs"),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(*PEM, BestAvailableEncryption(b"x")),
            "has a passphrase",
        ),
    ],
)
def test_what_is_no_key_of_ours_is_named(path: Path, text: bytes, what: str) -> None:
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=what) as caught:
        load_key(path)
    assert str(path) in str(caught.value) and caught.value.exit_code == 3


def test_missing_files_and_folders_are_named(path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no signing key.*keys create"):
        load_key(path)
    with pytest.raises(KeyFileError, match="not a file"):
        load_key(path.parent)
    with pytest.raises(KeyFileError, match="cannot be written"):
        create_key(path.parent / "none" / "signing.key", 1)


def p256(path: Path) -> Signer:
    path.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*PEM, NoEncryption()))
    path.chmod(0o600)
    return load_key(path)


@pytest.mark.parametrize("make", [lambda p: create_key(p, 1), p256], ids=["Ed25519", "ES256"])
def test_a_stock_library_checks_our_signature(path: Path, make: object) -> None:
    signer: Signer = make(path)  # type: ignore[operator]
    payload = rfc8785.dumps({"stream": "park7/gw01/inv1", "v": 1, "e": [{"v": 230.1}]})
    sig = signer.sign(TYP_PACK, payload)
    head, middle, tail = sig.split(".")
    assert middle == "" and "=" not in sig
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    assert header == {"alg": signer.alg, "b64": False, "crit": ["b64"], "kid": signer.kid, "typ": "mh-pack"}
    assert base64.urlsafe_b64decode(head + "==") == rfc8785.dumps(header)
    key = (OKPKey if signer.alg == "Ed25519" else ECKey).import_key(dict(signer.jwk))
    assert key.thumbprint() == signer.kid == thumbprint(signer.jwk)
    registry = jws.JWSRegistry(algorithms=[signer.alg])
    jws.deserialize_compact(sig, key, payload=payload, registry=registry)
    with pytest.raises(Exception, match=r".*"):
        jws.deserialize_compact(sig, key, payload=payload + b" ", registry=registry)
    assert len(base64.urlsafe_b64decode(tail + "==")) == 64


def test_rfc_7638_example_of_ed25519() -> None:
    """RFC 8037, appendix A.3."""
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert thumbprint(jwk) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_the_key_record_is_stable_canonical_and_checked(path: Path) -> None:
    signer = create_key(path, 1_795_500_000)
    data = key_records(signer, GATEWAY)
    assert data == key_records(load_key(path), GATEWAY), "the same key never makes two objects of one counter"
    value = json.loads(data)
    assert rfc8785.dumps(value) == data
    assert (value["v"], value["counter"], value["gateway"]) == (1, 1, GATEWAY)
    (record,) = value["records"]
    assert record["prev"] is None and record["kid"] == signer.kid and record["not_before"] == 1_795_500_000
    unsigned = {k: v for k, v in record.items() if k != "sig"}
    assert record["sig"] == signer.sign(TYP_KEYS, rfc8785.dumps(unsigned))
    found = check_key_records(data, GATEWAY, trust=signer.kid)
    assert (found.counter, found.first, found.newest) == (1, signer.kid, signer.kid)
    assert key_records(signer, GATEWAY, before=data) == data


def test_a_rotation_is_signed_by_the_key_before(tmp_path: Path) -> None:
    old, new, stranger = (create_key(tmp_path / name, at) for name, at in (("a", 10), ("b", 20), ("c", 30)))
    first = key_records(old, GATEWAY)
    second = key_records(new, GATEWAY, before=first, old=old)
    found = check_key_records(second, GATEWAY, trust=old.kid)
    assert (found.counter, found.first, found.newest) == (2, old.kid, new.kid)
    assert json.loads(second)["records"][0] == json.loads(first)["records"][0]
    for wrong in (None, stranger):
        with pytest.raises(
            KeyFileError, match="A new key is valid only with a record that the previous key has signed"
        ):
            key_records(new, GATEWAY, before=first, old=wrong)
    assert check_key_records(second, GATEWAY, trust=new.kid).first == old.kid, "any key of a chain may be pinned"
    with pytest.raises(KeyFileError, match="none of its keys is pinned"):
        check_key_records(second, GATEWAY, trust=stranger.kid)
    with pytest.raises(KeyFileError):
        check_key_records(second.replace(b'"counter":2', b'"counter":3'), GATEWAY)
    with pytest.raises(KeyFileError):
        check_key_records(second, "park8/gw01")


def test_a_key_of_another_kind_fits_the_slot() -> None:
    """A token signs and shows its public half; nothing else of it is needed."""

    class Token:
        alg = "ES256"

        def __init__(self) -> None:
            self._inside = ec.generate_private_key(ec.SECP256R1())
            n = self._inside.public_key().public_numbers()
            x, y = (base64.urlsafe_b64encode(v.to_bytes(32, "big")).rstrip(b"=").decode() for v in (n.x, n.y))
            self.jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}

        def sign(self, message: bytes) -> bytes:
            from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
            from cryptography.hazmat.primitives.hashes import SHA256

            r, s = decode_dss_signature(self._inside.sign(message, ec.ECDSA(SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    signer = Signer(Token(), not_before=7)
    assert check_key_records(key_records(signer, GATEWAY), GATEWAY).first == signer.kid


def test_no_error_shows_the_key(path: Path) -> None:
    create_key(path, 1)
    secret = path.read_text().splitlines()[-2]
    path.chmod(0o644)
    with pytest.raises(KeyFileError) as caught:
        load_key(path)
    assert secret not in str(caught.value) and secret not in repr(caught.value)
