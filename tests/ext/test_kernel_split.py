"""Splitting a pack and joining the parts again gives the identical bytes, for any content."""

from __future__ import annotations

import hashlib
import json
import random
from itertools import pairwise

import pytest

from agent.store.codec import Codec
from drivers.encoding import base64url_decode
from ext.canon import split_pack
from tests.kits.packs import Maker, Pack


@pytest.fixture
def packs() -> list[Pack]:
    make = Maker()
    return [make(birth=True), *(make() for _ in range(20))]


def test_the_three_random_values_are_taken_out(packs: list[Pack]) -> None:
    birth = packs[0].hash
    for before, pack in pairwise(packs):
        body = json.loads(pack.data)
        found = split_pack(pack.data, birth)
        assert found is not None
        left_out, sig, prev, rest = found
        assert left_out and sig == base64url_decode(body["sig"].rpartition(".")[2]) and prev == before.hash
        assert len(rest) == len(pack.data) - len('{"birth":"') - 43 - 43 - 86
        assert body["prev"].encode() not in rest and body["birth"].encode() not in rest


@pytest.mark.parametrize("birth", [None, b"", bytes(31), bytes(32), bytes(33)])
def test_another_birth_is_not_left_out(packs: list[Pack], birth: bytes | None) -> None:
    found = split_pack(packs[1].data, birth)
    assert found is not None and not found[0] and found[3].startswith(b'{"birth":"')
    first = split_pack(packs[0].data, packs[0].hash)
    assert first is None, "the first pack of a stream has no hash in prev"


@pytest.mark.parametrize(
    "data",
    [b"", b"..", b'"prev":"', b'"prev":"..', b'"prev":"' + b"A" * 43 + b"..", b'{"birth":"' + b"A" * 43, b"." * 300],
)
def test_what_is_not_a_pack_is_not_split(data: bytes) -> None:
    assert split_pack(data, bytes(32)) is None


def test_spare_bits_and_other_letters_are_not_lost(packs: list[Pack]) -> None:
    """Several texts decode to the same bytes, and only one of them would be restored."""
    data = packs[1].data
    at = data.rfind(b"..") + 2
    for place, letter in ((at + 85, b"B"), (at, b"+"), (at, b"="), (at, b"\xc3")):
        assert split_pack(data[:place] + letter + data[place + 1 :], None) is None


def test_every_change_of_a_pack_is_restored(packs: list[Pack]) -> None:
    rng, codec = random.Random(13), Codec()
    pieces = (b"..", b'"prev":"', b'"', b".", b'"prev":"' + b"A" * 43, b".." + b"B" * 86, b"\x00", b"\xff")
    split = 0
    for _ in range(3000):
        pack = rng.choice(packs)
        data = bytearray(pack.data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = min(
                rng.choice((rng.randrange(60), len(data) - rng.randrange(1, 420), rng.randrange(len(data)))), len(data)
            )
            if rng.random() < 0.5:
                data[at : at + rng.randrange(90)] = b""
            else:
                data[at : at + rng.randrange(2)] = rng.choice(pieces)
            data = data or bytearray(b"x")
        birth = rng.choice((packs[0].hash, None, bytes(32)))
        number, left_out, body = codec.pack(bytes(data), hashlib.sha256(data).digest(), birth)
        assert codec.unpack(number, body, birth if left_out else None) == data
        split += body[0] != 0
    assert 300 < split < 2900, "both forms were met"
