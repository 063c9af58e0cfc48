"""Reading strictly, writing canonically, and the two roads to a signature: against rfc8785 and joserfc."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agent.verify import Verifier
from agent.verify.canonical import canonical, number_text
from agent.verify.jws import check_signature, public_key, read_header, thumbprint
from agent.verify.readings import read_records
from agent.verify.signed import check_signed, cut_signature
from agent.verify.strict import Refused, inflate, parse_columns, parse_object
from tests.kits.signed import Key, Stream, checkpoint, key_record, keys, keys_object, sign
from tests.verify.corpus import feed

DOUBLES = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**64 - 1).map(
    lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]
).filter(math.isfinite)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | DOUBLES | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=6), max_leaves=25
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=6)


@given(VALUES)
def test_the_canonical_form_is_that_of_rfc8785(value: Any) -> None:
    try:
        want = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        with pytest.raises(ValueError):
            canonical(value)
        return
    assert canonical(value) == want


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785 appendix B
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_of_the_rfc(bits: str, text: str) -> None:
    assert number_text(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


@given(OBJECTS)
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    try:
        raw = canonical(value)
    except (ValueError, UnicodeEncodeError):
        return
    again = parse_object(raw)
    assert canonical(again) == raw
    loose = json.dumps(value, indent=1).encode()
    assert canonical(parse_object(loose)) == raw


@given(OBJECTS, st.text(), SCALARS, SCALARS, st.sampled_from([b":", b" :", b":  ", b"\t:"]), st.booleans())
def test_a_name_twice_is_never_overlooked(
    value: dict[str, Any], name: str, one: Any, two: Any, colon: bytes, escaped: bool
) -> None:
    """The fast path counts names in the bytes; whatever the text around it, a second equal name is found."""
    try:
        quoted = canonical(name)
        inner = b",".join([canonical(one), canonical(two)]).split(b",", 1)
        raw = canonical({"o": value, "z": None})
    except (ValueError, UnicodeEncodeError):
        return
    second = json.dumps(name).encode() if escaped else quoted
    twice = b"{" + quoted + b":" + inner[0] + b"," + second + colon + canonical(two) + b"}"
    if inner[0] != canonical(one):
        return
    assert parse_object(raw)
    with pytest.raises(Refused) as refusal:
        parse_object(raw.replace(b'"z":null', b'"z":' + twice))
    assert refusal.value.code == "duplicate"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"a":1', "json"),
        (b"[1]", "json"),
        (b"3", "json"),
        (b"", "json"),
        (b'{"a":1}{"b":2}', "json"),
        (b"\xef\xbb\xbf{}", "json"),
        ('{"a":1}'.encode("utf-16"), "json"),
        (b'{"a":"\xff"}', "json"),
        (b'{"a":"\xed\xa0\x80"}', "json"),  # half a surrogate pair in UTF-8
        (b'{"a":"\\ud800"}', "json"),
        (b'{"\\udfff":1}', "json"),
        (b'{"e":[' + b",".join([b'{"n":"\\ud800"}'] * 20) + b"]}", "json"),
        (b'{"a":"\n"}', "json"),
        (b'{"a":01}', "json"),
        (b'{"a":-Infinity}', "number"),
        (b'{"e":[' + b",".join([b'{"v":1e400}'] * 20) + b"]}", "number"),
        (b'{"a":-9007199254740993}', "number"),
        (b'{"a":' + b"1" * 400 + b"}", "number"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "depth"),
        (b'{"a":' * 32 + b"1" + b"}" * 32, "depth"),
        (b"[" * 200_000, "depth"),
    ],
)
def test_refused(raw: bytes, code: str) -> None:
    with pytest.raises(Refused) as refusal:
        parse_object(raw)
    assert refusal.value.code == code


def test_the_cap_holds() -> None:
    assert parse_object(b'{"a":1}', cap=7) == {"a": 1}
    with pytest.raises(Refused, match="at most 6"):
        parse_object(b'{"a":1}', cap=6)


def test_a_zstd_frame_cannot_grow_beyond_the_cap() -> None:
    import zstandard

    assert inflate(zstandard.compress(b"x" * 100), cap=100) == b"x" * 100
    with pytest.raises(Refused, match="more than 99"):
        inflate(zstandard.compress(b"x" * 100), cap=99)
    with pytest.raises(Refused, match="compressed bytes"):
        inflate(zstandard.ZSTD_MAGIC if hasattr(zstandard, "ZSTD_MAGIC") else b"\x28\xb5\x2f\xfd" + bytes(2 << 20))


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for attempt in (raw, b"\x28\xb5\x2f\xfd" + raw, b"{" + raw + b"}"):
        try:
            parse_object(inflate(attempt))
        except Refused:
            continue


def test_the_usual_pack_is_verified_on_the_received_bytes() -> None:
    key = Key()
    raw = Stream(key=key).make_birth()
    keys = {key.kid: public_key(key.alg, key.jwk)}
    signed = check_signed(raw, parse_object(raw), "mh-pack", keys)
    assert not signed.rewritten
    assert signed.payload == rfc8785.dumps({n: v for n, v in json.loads(raw).items() if n != "sig"})


def test_a_signature_that_stands_there_twice_is_cut_out_of_the_right_place() -> None:
    """A nested member with the very same text must not be taken for the signature."""
    key = Key()
    fields = {"aa": {"n": 1, "sig": ""}, "seq": 1}
    sig = key.jws(rfc8785.dumps(fields))
    raw = sign({"aa": {"n": 1, "sig": sig}, "seq": 1}, key)
    outer = json.loads(raw)["sig"]
    assert cut_signature(raw.replace(outer.encode(), sig.encode()), sig) is None
    keys = {key.kid: public_key(key.alg, key.jwk)}
    assert not check_signed(raw, parse_object(raw), "mh-pack", keys).rewritten


@pytest.mark.parametrize("alg", ["Ed25519", "ES256"])
def test_joserfc_agrees_on_thumbprint_and_signature(alg: str) -> None:
    from joserfc import jwk, jws

    key = Key(3, alg)
    other = jwk.import_key({**key.jwk})
    assert other.thumbprint() == key.kid == thumbprint(key.jwk)
    payload = b'{"a":1}'
    compact = key.jws(payload)
    jws.deserialize_compact(compact.encode(), other, payload=payload, algorithms=[alg])
    assert check_signature(compact, payload, "mh-pack", {key.kid: public_key(alg, key.jwk)}).alg == alg


@pytest.mark.parametrize(
    ("alg", "jwk", "text"),
    [
        ("EdDSA", Key().jwk, "EdDSA"),
        ("ES256", Key().jwk, "ES256"),
        ("Ed25519", Key(1, "ES256").jwk, "Ed25519"),
        ("Ed25519", {**Key().jwk, "x": "AAAA"}, "3 bytes, expected 32"),
        ("ES256", {**Key(1, "ES256").jwk, "x": Key().jwk["x"]}, "not a valid"),
        ("Ed25519", {**Key().jwk, "d": "AAAA"}, "private key"),
        ("HS256", {"kty": "oct", "k": "AAAA"}, "OKP"),
        ("Ed25519", None, "no JWK"),
        ("Ed25519", {**Key().jwk, "x": 3}, "OKP"),
    ],
)
def test_keys_that_are_none(alg: str, jwk: Any, text: str) -> None:
    with pytest.raises(Refused, match=text):
        public_key(alg, jwk)


@given(st.text(max_size=60))
def test_any_text_is_a_header_or_refused(text: str) -> None:
    with pytest.raises(Refused):
        read_header(text)
    with pytest.raises(Refused):
        check_signature(text, b"{}", "mh-pack", {})


def test_the_signature_has_one_spelling() -> None:
    """Loose bits at the end of base64 would give one pack two faces."""
    key = Key()
    good = key.jws(b"{}")
    keys = {key.kid: public_key(key.alg, key.jwk)}
    check_signature(good, b"{}", "mh-pack", keys)
    last = good[-1]
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if other != last:
            with pytest.raises(Refused) as refusal:
                check_signature(good[:-1] + other, b"{}", "mh-pack", keys)
            assert refusal.value.code == "signature"


@pytest.mark.parametrize("member", ["v", "seq"])
def test_a_whole_number_that_a_bridge_wrote_with_a_fraction_is_refused(member: str) -> None:
    """Its canonical form is the same, so the signature holds. docs/pack-format.md says that it is refused."""
    stream = Stream()
    good = stream.run(2)
    value = json.loads(good[1])
    text = good[1].decode().replace(f'"{member}":{value[member]}', f'"{member}":{value[member]}.0', 1)
    assert text.encode() != good[1] and json.loads(text) == value
    verifier = Verifier([stream.key.kid])
    for topic, raw in feed(stream, [good[0], text.encode()]):
        verifier.feed(raw, topic)
    assert verifier.finish().failures == {"shape": 1}


@pytest.mark.parametrize("what", ["keys", "checkpoint"])
def test_keys_and_checkpoints_of_more_than_a_mebibyte_are_not_read(what: str) -> None:
    """By a known key, and with a signature that holds."""
    key = Key()

    def made(pad: int) -> bytes:
        if what == "keys":
            return keys_object([key_record(key)], key, 2, x="x" * pad)
        return checkpoint([], key, x="x" * pad)

    room = (1 << 20) - len(made(0))
    for pad, failures in ((room, {}), (room + 1, {"size": 1})):
        verifier = Verifier([key.kid])
        verifier.feed(keys(key))
        verifier.feed(made(pad), f"meterhouse/v1/park7/gw01/{'keys' if what == 'keys' else 'checkpoint/1'}")
        assert len(made(pad)) == (1 << 20) + pad - room and verifier.finish().failures == failures


ALIKE = ['{"n":"a","u":"kW","v":1.5}', '{"n":"b","u":"V","v":-2}', '{"n":"c","u":"kW","v":0}']
OTHERS = [
    *ALIKE, '{"bn":"s/","bt":7,"n":"a","u":"kW","v":1}', '{"n":"a","q":"suspect","u":"kW","v":1}', '{"n":"a","v":1}',
    '{"bt":1,"n":"a","u":"kW","v":1}', '{"du":"kW","n":"a","v":1}', '{"du":"kW","n":"a","u":"","v":1}', '{}', '[1,2,3]',
    '7', '"abc"', "null", '{"n":"a","u":"kW","v":9007199254740993}', '{"n":"a","u":"kW","v":1e999}', '{"u":"kW","v":1}',
    '{"n":"a","u":"kW","v":9007199254740992}', '{"n":"a","n":"b","v":1}', '{"n":"a","u":"kW","v":true}',
    '{"n":7,"v":1}',
    '{"n":"a","u":"kW","v":"1"}', '{"n":"a","u":"kW","vs":"on"}', '{"n":"a","u":7,"v":1}', '{"n":"a","u":[1],"v":1}',
    '{"n":"a","u":"kW","v":[{"n":1}]}', '{"n":"a","u":"kW","zz_":1}', '{"v":1,"n":"a","u":"kW"}', '{"n":"a","v_":1}',
    '{"n" :"a","u":"kW","v":1}', '{"\\u006e":"a","n":"b","v":1}', '{"bs":1,"n":"a","v":1}', '{"n":"a","u":"kW","v":-0}',
    '{"n":"a","t":-9,"u":"kW","v":1}', '{"n":"a","u":"kW","v":' + "[" * 40 + "]" * 40 + "}",
]  # fmt: skip


@given(st.lists(st.sampled_from(ALIKE), min_size=5, max_size=90), st.data())
def test_records_read_by_column_are_read_as_one_by_one(texts: list[str], data: st.DataObject) -> None:
    for text in data.draw(st.lists(st.sampled_from(OTHERS), max_size=4)):
        texts.insert(data.draw(st.integers(0, len(texts))), text)
    if data.draw(st.booleans()):
        texts.insert(0, OTHERS[3])
    if data.draw(st.booleans()):  # all of them are the others
        texts = [texts[data.draw(st.integers(0, len(texts) - 1))]] * len(texts)
    raw = f'{{"a":{{"e":[]}},"e":[{",".join(texts)}],"z":"e"}}'.encode()
    read = {"by column": outcome(raw, "e"), "one by one": outcome(raw, "")}
    assert read["by column"] == read["one by one"]


def outcome(raw: bytes, records: str) -> object:
    try:
        value, columns = parse_columns(raw, records=records)
        found = read_records(value["e"], columns, "s", 5000)
    except Refused as error:
        return error.code
    return value, sorted(found.pairs, key=repr), found.early
