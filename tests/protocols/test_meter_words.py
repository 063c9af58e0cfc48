"""Every name that the meter protocols give is a word of the vocabulary, in a unit that the vocabulary allows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivers.cjt188 import values as cjt188_values
from drivers.dlt645.tables import ENERGY_KINDS, FIXED, FIXED_97, MOMENTARY, MOMENTARY_97
from drivers.mbus import vif
from drivers.mbus.names import name_of
from drivers.model import Reading
from drivers.profile.vocabulary import Vocabulary, vocabulary
from drivers.sunspec import models, walk
from drivers.sunspec.names import readings_of
from tests.kits.codecs import mbus
from tests.kits.codecs.dlt645 import decode


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return vocabulary()


def complaints(words: Vocabulary, found: Iterator[tuple[str, str]]) -> list[str]:
    wrong = set()
    for name, unit in found:
        if name.startswith("x."):
            continue
        entry = words.find(name)
        if entry is None:
            wrong.add(f"{name} is no word")
        elif unit and unit not in entry.units:
            wrong.add(f"{name} in {unit}, want {entry.units}")
    return sorted(wrong)


def dlt645_readings() -> Iterator[Reading]:
    for kind in ENERGY_KINDS:
        for tariff in ("00", "01"):
            yield from decode(f"00{kind:02X}{tariff}00", bytes(4))
            yield from decode(f"01{kind:02X}{tariff}00", bytes(8))
    for family, (_, _, size, *_) in MOMENTARY.items():
        yield from decode(f"02{family:02X}FF00", bytes(3 * size))
    for family in ("020A01", "020B03"):
        yield from decode(f"{family}FF", bytes(42))
    for di, field in FIXED.items():
        yield from decode(f"{di:08X}", bytes(field.size))
    for di, field in FIXED_97.items():
        yield from decode(f"{di:04X}", bytes(field.size))
    for part, (_, _, sizes, *_) in MOMENTARY_97.items():
        yield from decode(f"B6{part:X}F", bytes(4 * next(iter(sizes))))
    for di, size in (("901F", 8), ("902F", 8), ("911F", 8), ("9140", 4), ("A010", 3)):
        yield from decode(di, bytes(size))


def test_dlt645(words: Vocabulary) -> None:
    assert complaints(words, ((r.name, r.unit) for r in dlt645_readings())) == []


def test_cjt188(words: Vocabulary) -> None:
    heat = bytes.fromhex("0000000005" * 2 + "0000000017" + "0000000035" + "000000002C") + bytes(18)
    found = [
        *cjt188_values.decode(0x901F, 0x20, heat),
        *cjt188_values.decode(0x901F, 0x21, heat),
        *cjt188_values.decode(0x901F, 0x10, bytes.fromhex("000000002C" * 2) + bytes(9)),
        *cjt188_values.decode(0x901F, 0x30, bytes.fromhex("000000002C" * 2) + bytes(9)),
    ]
    assert complaints(words, ((r.name, r.unit) for r in found)) == []


def test_mbus(words: Vocabulary) -> None:
    meanings = [*vif.PRIMARY.values(), *vif.FD.values(), *vif.FB.values(), *vif.FIXED_UNITS.values()]
    names = (
        (name_of(m.key, medium, m.unit), "%RH" if m.key == "humidity" else m.unit)
        for m in meanings
        for medium in mbus.MEDIA
    )
    assert complaints(words, names) == []


def test_sunspec(words: Vocabulary) -> None:
    found = []
    for model_id in (1, 103, 113, 124, 160, 201, 203, 211, 213, 701, 713, 714, 802, 803):
        definition = models.definition(model_id)
        assert definition is not None
        body = [2] * 300
        length = 298
        device = walk.ModelChain(0, [models.decode_model(0, [model_id, length, *body])])
        found += [(r.name, r.unit) for r in readings_of(device)]
    assert complaints(words, iter(found)) == []
