"""A key that never leaves its token: SoftHSM2 stands for a TPM, a card or an HSM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey

from agent.keys import TYP_PACK, KeyFileError, check_key_records, create_key, current_records, load_key, rotate_key
from agent.keys.token import NoUsableKey, TokenError, TokenKey

if TYPE_CHECKING:
    from tests.kits.tokens import Token

GATEWAY = "park7/gw01"
Mh = Callable[..., tuple[int, str, str]]


def test_it_signs_what_a_stock_library_checks(token: Token, tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    made = create_key(path, 1_795_500_000, token=token.uri("stock"))
    assert b"PRIVATE" not in path.read_bytes() and b"4711" not in path.read_bytes()
    again = load_key(path)
    assert (again.kid, again.alg, again.not_before, again.in_token) == (made.kid, "ES256", 1_795_500_000, True)
    sig = again.sign(TYP_PACK, b'{"v":1}')
    registry = jws.JWSRegistry(algorithms=["ES256"])
    jws.deserialize_compact(sig, ECKey.import_key(dict(again.jwk)), payload=b'{"v":1}', registry=registry)
    assert check_key_records(current_records(again, GATEWAY), GATEWAY, trust=made.kid).first == made.kid


def test_an_ed25519_key_of_the_token_signs_too(token: Token) -> None:
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}
    TokenKey(token.uri("stock-2"), make=True)  # whoever is logged in already does not hinder
    session = pkcs11.lib(token.module).get_token(token_label="park7").open(rw=True)
    params = session.create_domain_parameters(pkcs11.KeyType.EC_EDWARDS, curve, local=True)
    params.generate_keypair(store=True, label="ed", mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN)
    session.close()
    key = TokenKey(token.uri("ed"))
    assert key.alg == "Ed25519"
    from agent.keys import Signer

    sig = Signer(key).sign(TYP_PACK, b"{}")
    registry = jws.JWSRegistry(algorithms=["Ed25519"])
    jws.deserialize_compact(sig, OKPKey.import_key(dict(key.jwk)), payload=b"{}", registry=registry)


def test_from_a_file_into_the_token_to_another_and_back(token: Token, tmp_path: Path, mh: Mh) -> None:
    path = tmp_path / "signing.key"
    chain = [create_key(path, 1_795_500_000).kid]
    for words in (("--pkcs11", token.uri("a")), ("--pkcs11", token.uri("b")), ("--alg", "ed25519")):
        code, out, err = mh("keys", "rotate", path, "--gateway", GATEWAY, "--yes", "--json", *words)
        assert code == 0, err
        chain.append(json.loads(out)["thumbprint"])
    code, _, err = mh("keys", "rotate", path, "--gateway", GATEWAY, "--yes", "--pkcs11", token.uri("a"))
    assert code == 3 and "recorded twice" in err, "no key comes back"
    records = current_records(load_key(path), GATEWAY)
    assert check_key_records(records, GATEWAY, trust=chain[0]).kids == tuple(chain)


def test_what_follows_a_key_in_a_token_must_be_said(token: Token, tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    create_key(path, 1, token=token.uri("c"))
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match=r"give --pkcs11 or --alg for the new key"):
        rotate_key(path, GATEWAY, 2)
    with pytest.raises(KeyFileError, match="already the signing key"):
        rotate_key(path, GATEWAY, 2, token=token.uri("c"))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["signing.key"]


def test_a_session_that_was_lost_is_opened_again(token: Token) -> None:
    key = TokenKey(token.uri("d"), make=True)
    token.reset()
    assert len(key.sign(b"x")) == 64
    key.close()
    assert len(key.sign(b"x")) == 64


def test_a_token_that_is_gone_says_so_and_comes_back(token: Token) -> None:
    key = TokenKey(token.uri("e"), make=True)
    pin = token.pin_file.read_text()
    token.hide()
    try:
        with pytest.raises(TokenError, match=r"token not found.*Available tokens: ") as caught:
            key.sign(b"x")
        assert caught.value.retry and caught.value.exit_code == 4
        with pytest.raises(TokenError):
            key.sign(b"x")
    finally:
        token.show()
    assert len(key.sign(b"x")) == 64 and token.pin_file.read_text() == pin


def test_another_key_of_the_same_name_is_not_taken(token: Token) -> None:
    import pkcs11

    key = TokenKey(token.uri("f"), make=True)
    session = pkcs11.lib(token.module).get_token(token_label="park7").open(rw=True)
    for one in list(session.get_objects({pkcs11.Attribute.LABEL: "f"})):
        one.destroy()
    session.close()
    TokenKey(token.uri("f"), make=True)
    token.reset()
    with pytest.raises(TokenError, match="another key in the token now has this name"):
        key.sign(b"x")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("token=park7", "token=park8"), r"token not found.*'park7'"),
        (("object=h", "object=nobody"), "key not found in the token"),
        (("object=h", ""), "the URI must name token and object"),
        (("module-path=", "module="), "'module' is not a known part"),
        (("libsofthsm2.so", "nothing.so"), "the token cannot be used .*nothing.so"),
        (("pin-source=", "pin-value=4711&pin-source="), "the URI must not contain the PIN"),
        (("token.pin", "none.pin"), "there is no PIN of the token"),
        (("pin-source=file:", "pin-source=credential:x"), "there is no PIN of the token"),
    ],
)
def test_what_is_wrong_with_a_token_is_named(
    token: Token, tmp_path: Path, mh: Mh, change: tuple[str, str], what: str
) -> None:
    path = tmp_path / "signing.key"
    create_key(path, 1, token=token.uri("h"))
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(KeyFileError, match=what) as caught:
        load_key(path)
    code, out, err = mh("keys", "show", path)
    assert code in {3, 4} and not out and err.startswith("error: ") and "4711" not in err
    assert "4711" not in str(caught.value)


def test_a_try_without_success_leaves_no_session_open(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token allows only a few sessions, and a running agent looks for its new key again and again."""
    held: list[TokenKey] = []
    close = TokenKey.close

    def noted(key: TokenKey) -> None:
        if key._session is not None:
            held.append(key)
        close(key)

    monkeypatch.setattr(TokenKey, "close", noted)
    with pytest.raises(NoUsableKey, match="key not found in the token") as caught:
        TokenKey(token.uri("nobody"))
    assert not caught.value.retry
    assert [key._session for key in held] == [None]


def test_a_wrong_pin_is_tried_once(token: Token, tmp_path: Path) -> None:
    """In a process of its own: the PIN counts where nobody is logged in yet."""
    pin = tmp_path / "wrong.pin"
    pin.write_text("4712")
    pin.chmod(0o600)
    uri = token.uri("i", f"file:{pin}")
    code = f"from agent.keys.token import TokenKey; TokenKey({uri!r}, make=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert "PinRejected" in done.stderr and "the PIN was rejected (PinIncorrect)" in done.stderr
    pin.chmod(0o644)
    with pytest.raises(KeyFileError, match="others may read or change the PIN of the token"):
        TokenKey(uri)


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    path.write_text("not_before: 1\npkcs11:token=park7;object=x?module-path=/usr/lib/x.so\n")
    path.chmod(0o600)
    code = (
        "import sys; sys.modules['pkcs11'] = None; from pathlib import Path; from agent.keys import load_key;"
        f"load_key(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert "python-pkcs11. Run pip install 'meterhouse[hardware]'" in done.stderr
