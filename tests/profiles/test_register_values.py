"""What registers look like to a technician without a profile: true values are found, in any order, and noise is not."""

from __future__ import annotations

import random
import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.register_values import Look, favourite, looks, value_at

D = Decimal
FLOATS = [230.1, 231.2, 229.5, 50.01]
TURNED = {"ABCD": (0, 1, 2, 3), "CDAB": (2, 3, 0, 1), "BADC": (1, 0, 3, 2), "DCBA": (3, 2, 1, 0)}


def registers(raw: bytes, start: int = 0) -> dict[int, int]:
    return {start + n: int.from_bytes(raw[2 * n : 2 * n + 2]) for n in range(len(raw) // 2)}


def wire(kind: str, order: str, *values: float) -> bytes:
    """Values as a device with this order sends them."""
    pieces = (struct.pack(f">{kind}", value) for value in values)
    return b"".join(bytes(piece[n] for n in TURNED[order]) for piece in pieces)


def brief(found: list[Look]) -> list[tuple[int, str, str, str]]:
    return [(one.address, one.type, one.order, one.quantity) for one in found]


@pytest.mark.parametrize("order", TURNED)
@pytest.mark.parametrize("start", [0, 0x101])
def test_floats_are_found_in_every_order_at_even_and_odd_addresses(order: str, start: int) -> None:
    found = looks(registers(wire("f", order, *FLOATS), start))
    quantities = ["phase voltage"] * 3 + ["frequency"]
    assert brief(found) == [(start + 2 * n, "f32", order, q) for n, q in enumerate(quantities)]
    assert [one.value for one in found] == [D(str(value)) for value in FLOATS]
    best = favourite(found)
    assert best is not None and (best.type, best.order) == ("f32", order)


def test_whole_numbers_with_a_scale_texts_and_power_factors_are_found() -> None:
    words = registers(struct.pack(">6H", 2301, 3987, 5002, 980, 7, 0) + b"SUN2000-50KTL\0" + struct.pack(">h", -985))
    found = {one.address: one for one in looks(words)}
    assert {at: (one.type, one.scale, one.value, one.quantity) for at, one in found.items()} == {
        0: ("u16", D("0.1"), D("230.1"), "phase voltage"),
        1: ("u16", D("0.1"), D("398.7"), "line voltage"),
        2: ("u16", D("0.01"), D("50.02"), "frequency"),
        3: ("u16", D("0.001"), D("0.980"), "power factor"),
        6: ("str", 1, "SUN2000-50KTL", "text"),
        13: ("i16", D("0.001"), D("-0.985"), "power factor"),
    }
    assert found[6].registers == 7


@pytest.mark.parametrize(
    ("order", "text"), [("", b"SUN2000-50KTL\0"), ("BA", b"US2N00-005TK\0L"), ("", b"SUN2000-50KT")]
)
def test_a_text_is_found_in_both_orders_of_bytes(order: str, text: bytes) -> None:
    (found,) = looks(registers(text))
    assert (found.type, found.order) == ("str", order)


# three bytes and a 0: in the order in which the 0 is the highest byte, a value of 32 bits is the same
@pytest.mark.parametrize(("order", "turned"), [("ABC-", "ABCD"), ("C-AB", "CDAB"), ("BA-C", "BADC"), ("-CBA", "DCBA")])
def test_numbers_of_24_bits_are_found_in_every_order(order: str, turned: str) -> None:
    found = looks(registers(wire("I", turned, *(value << 8 for value in (230_100, 231_200, 229_500)))))
    assert brief(found) == [(2 * n, "u24", order, "phase voltage") for n in range(3)]
    rounds = [registers(wire("I", turned, 0x18FE + 3 * n << 8)) for n in range(3)]
    (found,) = looks(rounds[-1], rounds[:-1])
    assert (found.address, found.type, found.order, found.growth) == (0, "u24", order, 6)


def test_between_floats_the_halves_of_others_are_not_taken_for_values() -> None:
    """The low words of three currents happen to be 2300, 5000 and 0.98; only what is read as all the others counts."""
    raw = wire("f", "ABCD", *FLOATS[:3])
    raw += b"".join(struct.pack(">HH", 0x4120, low) for low in (2300, 5000, 980)) + wire("f", "ABCD", 50.01)
    assert {one.type for one in looks(registers(raw))} == {"f32"}


@pytest.mark.parametrize("order", TURNED)
@pytest.mark.parametrize(("kind", "type_"), [("I", "u32"), ("f", "f32")])
def test_a_counter_is_found_by_its_growth_in_the_order_in_which_it_grows_least(
    order: str, kind: str, type_: str
) -> None:
    rounds = []
    for n in range(3):
        values = (wire(kind, order, 65_530 + 3 * n), wire("I", "ABCD", 77), struct.pack(">HH", 100 + (n & 1), 9))
        rounds.append(registers(b"".join(values)))
    (found,) = looks(rounds[-1], rounds[:-1])
    assert (found.address, found.type, found.order, found.growth) == (0, type_, order, 6)
    assert found.quantity == "growing counter"


def test_what_falls_or_jumps_is_no_counter() -> None:
    for values in ((100_000, 100_005, 100_003), (10, 100, 1100), (5, 5, 5)):
        rounds = [registers(struct.pack(">I", value)) for value in values]
        assert looks(rounds[-1], rounds[:-1]) == []


def test_zeros_ones_gaps_and_the_end_of_the_map_hold_nothing() -> None:
    assert looks({}) == []
    assert looks(dict.fromkeys(range(40), 0) | dict.fromkeys(range(50, 90), 0xFFFF)) == []
    assert value_at({65535: 0x4366}, 65535, "f32", "ABCD") is None
    assert looks({10: 0x4366, 12: 0x199A}) == [], "the register between them is missing"


def test_noise_makes_no_text_and_nearly_no_voltages() -> None:
    rng = random.Random(7)
    found = looks({n: rng.randrange(0x10000) for n in range(2000)})
    assert not [one for one in found if one.quantity == "text"]
    assert len([one for one in found if one.type in ("f32", "f64")]) < 100


WORD = st.one_of(st.sampled_from([0, 0xFFFF, 0x4366, 0x4248, 2301, 0x5355, 0x7F80, 0x8000]), st.integers(0, 0xFFFF))
WORDS = st.dictionaries(st.integers(0, 40), WORD)


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_no_registers_whatever_end_in_an_error_and_none_is_taken_twice(rounds: list[dict[int, int]]) -> None:
    found = looks(rounds[-1], rounds[:-1])
    taken = [at for one in found for at in range(one.address, one.address + one.registers)]
    assert len(taken) == len(set(taken)) and set(taken) <= set(rounds[-1])
    favourite(found)
