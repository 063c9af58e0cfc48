"""Cases: bytes, JSON and signatures that do not hold."""

from __future__ import annotations

import hashlib
import hmac
import json

import rfc8785
import zstandard

from tests.kits.signed import Key, Stream, b64, table
from tests.verify.corpus import Case, case, doctored, feed, refused, third


def with_header(**header: object) -> bytes:
    stream = third()
    return stream.seal(stream.fields(), **header)


@case
def altered_byte() -> Case:
    raw = doctored()
    return refused(
        "altered_byte", "one digit of a reading", "signature", "does not fit", raw.replace(b'"v":2', b'"v":3', 1)
    )


@case
def truncated() -> Case:
    return refused("truncated", "the end is missing", "json", "not JSON", doctored()[:-40])


@case
def duplicate_member() -> Case:
    raw = doctored().replace(b'"v":1}', b'"v":1,"v":1}')
    return refused("duplicate_member", "a JSON member twice", "duplicate", '"v" occurs twice', raw)


@case
def duplicate_by_escape() -> Case:
    raw = doctored().replace(b'"seq":3', b'"seq":3,"\\u0073eq":3')
    return refused("duplicate_by_escape", "a member twice, once escaped", "duplicate", '"seq" occurs twice', raw)


@case
def not_a_number() -> Case:
    raw = doctored().replace(b'"error_ms":1.2', b'"error_ms":NaN')
    return refused("not_a_number", "NaN", "number", "NaN", raw)


@case
def huge_number() -> Case:
    raw = doctored().replace(b'"error_ms":1.2', b'"error_ms":1e999')
    return refused("huge_number", "a number beyond any double", "number", "beyond the range", raw)


@case
def huge_integer() -> Case:
    raw = doctored().replace(b'"error_ms":1.2', b'"error_ms":9007199254740993')
    return refused("huge_integer", "an integer that doubles round", "number", "2^53", raw)


@case
def endless_integer() -> Case:
    raw = doctored().replace(b'"error_ms":1.2', b'"error_ms":' + b"7" * 5_000)
    return refused("endless_integer", "five thousand digits", "number", "digits", raw)


@case
def deep() -> Case:
    raw = doctored().replace(b'"error_ms":1.2', b'"error_ms":' + b"[" * 3_000 + b"]" * 3_000)
    return refused("deep", "three thousand arrays in each other", "depth", "deeper than 32", raw)


@case
def zip_bomb() -> Case:
    raw = zstandard.compress(b'{"e":"' + b" " * (12 << 20) + b'"}', 19)
    return refused("zip_bomb", "12 MiB in a few KB", "size", "decompresses to more than", raw)


@case
def damaged_zstd() -> Case:
    raw = zstandard.compress(doctored())
    return refused("damaged_zstd", "half a zstd frame", "zstd", "cut off", raw[: len(raw) // 2])


@case
def second_zstd_frame() -> Case:
    raw = zstandard.compress(doctored()) + zstandard.compress(b"   ")
    about = "something behind the zstd frame, which some readers would read on and others not"
    return refused("second_zstd_frame", about, "zstd", "2 zstd frames", raw)


@case
def no_signature() -> Case:
    fields = json.loads(doctored())
    del fields["sig"]
    return refused("no_signature", "sig left out", "signature", "no signature", rfc8785.dumps(fields))


@case
def attached_payload() -> Case:
    fields = json.loads(doctored())
    fields["sig"] = fields["sig"].replace("..", ".e30.")
    return refused("attached_payload", "a payload in the JWS", "signature", "not a detached JWS", rfc8785.dumps(fields))


@case
def alg_none() -> Case:
    return refused("alg_none", 'alg "none"', "alg", "'none'", with_header(alg="none"))


@case
def alg_hs256() -> Case:
    """The public key as an HMAC secret: the classic confusion."""
    stream = third()
    payload = rfc8785.dumps(stream.fields())
    header = b64(
        rfc8785.dumps({"alg": "HS256", "b64": False, "crit": ["b64"], "kid": stream.key.kid, "typ": "mh-pack"})
    )
    mac = hmac.new(rfc8785.dumps(stream.key.jwk), header.encode() + b"." + payload, hashlib.sha256).digest()
    raw = rfc8785.dumps({**json.loads(payload), "sig": f"{header}..{b64(mac)}"})
    return refused("alg_hs256", "HS256 with the public key as secret", "alg", "'HS256'", raw)


@case
def alg_eddsa() -> Case:
    return refused("alg_eddsa", "the older name of the algorithm", "alg", "'EdDSA'", with_header(alg="EdDSA"))


@case
def wrong_typ() -> Case:
    return refused(
        "wrong_typ", "a pack signed as a checkpoint", "typ", "'mh-checkpoint'", with_header(typ="mh-checkpoint")
    )


@case
def no_typ() -> Case:
    return refused("no_typ", "no typ in the header", "header", "alg, kid and typ", with_header(typ=None))


@case
def no_crit() -> Case:
    return refused("no_crit", "b64 not marked critical", "header", "crit", with_header(crit=None))


@case
def encoded_payload() -> Case:
    return refused("encoded_payload", "b64 true", "header", "b64", with_header(b64=True))


@case
def own_key_in_header() -> Case:
    raw = with_header(jwk=Key(9).jwk)
    return refused("own_key_in_header", "a header that brings its key", "header", "['jwk'] are not allowed", raw)


@case
def swapped_kid() -> Case:
    return refused("swapped_kid", "the key id of another key", "kid", "no key record", with_header(kid=Key(9).kid))


@case
def other_key_same_kid() -> Case:
    stream = third()
    forger = Key(9)
    raw = stream.seal(stream.fields(), key=forger, kid=stream.key.kid)
    return refused("other_key_same_kid", "signed by another key under this id", "signature", "does not fit", raw)


@case
def padded_signature() -> Case:
    fields = json.loads(doctored())
    fields["sig"] += "="
    return refused("padded_signature", "base64 padding", "signature", "not base64url", rfc8785.dumps(fields))


@case
def not_canonical() -> Case:
    """Signed by the right key over bytes that are valid JSON, but not the form that others would sign."""
    stream = Stream()
    fields = stream.fields(0, table=table(), birth=None, e=None)
    payload = rfc8785.dumps(fields).replace(b'"seq":1', b'"seq":1.0e0')
    sig = stream.key.jws(payload).encode()
    raw = payload.replace(b',"stream"', b',"sig":"' + sig + b'","stream"')
    return Case("not_canonical", "signed over other bytes than the canonical ones", feed(stream, [raw]), "failed",
                {"shape": 1}, "seq 1.0", 0)  # fmt: skip


@case
def not_canonical_number() -> Case:
    """As before, in a place where the number itself is good."""
    stream = Stream()
    fields = stream.fields(0, table=table(), birth=None, e=None)
    payload = rfc8785.dumps(fields).replace(b'"error_ms":1.2', b'"error_ms":1.20')
    sig = stream.key.jws(payload).encode()
    raw = payload.replace(b',"stream"', b',"sig":"' + sig + b'","stream"')
    about = "signed over 1.20, which others would read and sign as 1.2"
    return Case("not_canonical_number", about, feed(stream, [raw]), "failed",
                {"rule": 1}, "not in canonical form", 1)  # fmt: skip
