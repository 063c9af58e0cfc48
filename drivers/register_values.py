"""Guesses what registers contain. Tries every type and order, and looks for a voltage, a frequency or a counter.

The guesses help a person with an unknown register map. Readings never depend on guesses: only a profile defines what a
register contains.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise

from drivers.model import FIRST_REASON
from drivers.plan.compiled import in_text_order
from drivers.plan.image import plain
from drivers.profile.register_layout import REGISTERS
from ext.decode import ORDERS_24, Plan

Words = Mapping[int, int]  # address -> word
# (type, order, scale, address modulo the number of registers, kind). The kind is "voltage" for voltages in one
# register, else "".
Habit = tuple[str, str, Decimal, int, str]
TYPES = ("u16", "i16", "u24", "i24", "u32", "i32", "f32", "u64", "i64", "f64")
ORDERS: Mapping[str, tuple[str, ...]] = {  # type -> the orders that are shown
    **dict.fromkeys(("u16", "i16"), ("AB",)),
    **dict.fromkeys(("u24", "i24"), ORDERS_24),
    **dict.fromkeys(("u32", "i32", "f32"), ("ABCD", "CDAB", "BADC", "DCBA")),
    **dict.fromkeys(("u64", "i64", "f64"), ("ABCDEFGH", "GHEFCDAB", "BADCFEHG", "HGFEDCBA")),
}
FLOATS = ("f32", "f64")
MOST_ACCIDENTS = 3  # if this many plausible values have the same type, order and alignment, this is not a coincidence
TEXT_RUN = 8  # if this many printable characters follow each other, they are a text and not a coincidence
GUESSED = (
    "f64",
    "f32",
    "u32",
    "u24",
    "u16",
    "i16",
)  # tried in this order: a match of a wide type explains several registers
_TENTH, _THOUSANDTH = Decimal("0.1"), Decimal("0.001")
_LOOKS: tuple[tuple[str, str, str], ...] = (  # (quantity, lowest value, highest value)
    ("phase voltage", "200", "250"),
    ("line voltage", "365", "430"),
    ("frequency", "49.8", "50.2"),
    ("frequency", "59.8", "60.2"),
)
_UNPRINTABLE = re.compile(r"[^ -~].*", re.DOTALL)  # from the first unprintable character on
UNITS: Mapping[str, str] = {"phase voltage": "V", "line voltage": "V", "frequency": "Hz"}


@dataclass(frozen=True, slots=True)
class Look:
    """A guess: the registers from ``address`` on look like ``quantity`` if they are read as this type. ``value`` is
    scaled.
    """

    address: int
    type: str
    order: str
    scale: Decimal
    value: Decimal | str
    quantity: str
    growth: Decimal = Decimal(0)  # growth of a counter since the first reading

    @property
    def registers(self) -> int:
        """The number of registers."""
        return len(str(self.value)) + 1 >> 1 if self.type == "str" else REGISTERS[self.type]


@lru_cache(maxsize=64)
def _plan(type_: str, order: str) -> Plan:
    plan = Plan(2 * REGISTERS[type_])
    plan.add(0, 0, type_, "" if order == "AB" else order, sentinels=())
    return plan


def value_at(words: Words, address: int, type_: str, order: str) -> Decimal | None:
    """The unscaled number at ``address``, as a profile would read it. None if a register is missing, or if the number
    is NaN.
    """
    found = [words.get(address + n) for n in range(REGISTERS[type_])]
    if any(word is None for word in found):
        return None
    raw = b"".join((word or 0).to_bytes(2) for word in found)
    ((_, mantissa, exponent, quality),) = _plan(type_, order).values(raw)
    return None if quality >= FIRST_REASON else Decimal(plain(mantissa, exponent))


def text_of_word(word: int) -> str:
    """The two characters in a register. An unprintable character is shown as a dot."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in word.to_bytes(2))


def looks(words: Words, history: Sequence[Words] = ()) -> list[Look]:
    """The guesses for these registers, sorted by address.

    ``history``: earlier readings of the same registers, oldest first. With it, growing counters are found, too.
    """
    guesses = [g for type_ in GUESSED for address in sorted(words) if (g := _guess(words, address, type_))]
    # neighbouring values mostly share type, order and alignment, so a guess that shares them with no other is a
    # coincidence
    alike = Counter(map(_habit, guesses))
    guesses = [one for one in guesses if _is_telling(one) or alike[_habit(one)] > 1]
    guesses.sort(key=lambda one: (GUESSED.index(one.type), -alike[_habit(one)], one.address))
    taken: set[int] = set()
    guesses = _without_accidents(guesses, alike)
    wide = [one for one in guesses if REGISTERS[one.type] > 1]
    found = [*_free(wide, taken), *_free(_texts(words), taken)]
    if history:
        found += _free(_counters([*history, words]), taken)
    found += _free(guesses, taken)
    return sorted(found, key=lambda one: one.address)


def _without_accidents(guesses: Sequence[Look], alike: Counter[Habit]) -> list[Look]:
    """Find the most common type, order and alignment of guesses with two or more registers.

    Drop all other guesses that lie between values of this kind, because they are probably parts of such values.
    """
    wide = [one for one in guesses if REGISTERS[one.type] > 1]
    best = max(map(_habit, wide), key=lambda habit: alike[habit], default=None)
    if best is None or alike[best] < MOST_ACCIDENTS:
        return list(guesses)
    places = [one.address for one in guesses if _habit(one) == best]
    return [one for one in guesses if _habit(one) == best or not min(places) <= one.address <= max(places) + 1]


def _free(guesses: Sequence[Look], taken: set[int]) -> list[Look]:
    """The guesses that share no register with an earlier guess. The registers of these guesses are added to
    ``taken``.
    """
    out = []
    for one in guesses:
        mine = range(one.address, one.address + one.registers)
        if not taken.intersection(mine):
            taken.update(mine)
            out.append(one)
    return out


def _is_telling(one: Look) -> bool:
    """Whether a guess counts even if no second guess is of the same kind.

    For most voltages this is False, because many integers look like a voltage.
    """
    return one.type in FLOATS or one.scale == _TENTH or not one.quantity.endswith("voltage")


def _habit(one: Look) -> Habit:
    wide = REGISTERS[one.type]
    is_voltage = one.quantity.endswith("voltage")
    return one.type, one.order, one.scale, one.address % wide, "voltage" if is_voltage and wide == 1 else ""


def favourite(found: Sequence[Look]) -> Look | None:
    """A guess with the type, order, scale and alignment that most guesses share. None if no two guesses share them."""
    wide = [one for one in found if REGISTERS.get(one.type, 0) > 1]
    alike = Counter(map(_habit, wide))
    best = max(wide, key=lambda one: alike[_habit(one)], default=None)
    return best if best is not None and alike[_habit(best)] > 1 else None


def _guess(words: Words, address: int, type_: str) -> Look | None:
    for order in ORDERS[type_]:
        value = value_at(words, address, type_, order)
        if not value or _is_padded(words, address, type_) or (type_ == "u24" and not _is_u24(words, address, order)):
            continue
        for scale in (Decimal(1),) if type_ in FLOATS else (_TENTH, Decimal("0.01"), _THOUSANDTH):
            if quantity := _quantity(value * scale, type_, scale):
                return Look(address, type_, order, scale, value * scale, quantity)
    return None


def _is_padded(words: Words, address: int, type_: str) -> bool:
    """Whether the first or last register of an integer is only padding (0 or FFFF). Then a narrower type gives the same
    value.
    """
    wide = REGISTERS[type_]
    return wide > 1 and type_ not in FLOATS and bool({words[address], words[address + wide - 1]} & {0, 0xFFFF})


def _is_u24(words: Words, address: int, order: str) -> bool:
    """Whether the unused byte of a value of 24 bits is 0 and the lowest byte. If it is the highest, a value of 32 bits
    is the same.
    """
    raw = words[address].to_bytes(2) + words[address + 1].to_bytes(2)
    return order in ("ABC-", "C-AB", "BA-C", "-CBA") and raw[order.index("-")] == 0


def _quantity(value: Decimal, type_: str, scale: Decimal) -> str:
    for quantity, low, high in _LOOKS:
        if Decimal(low) <= value <= Decimal(high):
            return quantity
    # as a power factor, an integer must be close to 1 in thousandths, because a number such as 95 could mean anything
    least = Decimal("0.8") if type_ in FLOATS else Decimal("0.9")
    may_be = type_ in FLOATS or (REGISTERS[type_] == 1 and scale == _THOUSANDTH)
    return "power factor" if may_be and least <= abs(value) <= 1 else ""


def _texts(words: Words) -> list[Look]:
    """Find runs of printable characters in neighbouring registers. A text may end in the first byte of its last
    register.

    Only a text with such an end shows whether the bytes of the registers are swapped. Without it, they are not.
    """
    found = [look for order in ("AB", "BA") for look in _runs(words, order)]
    return sorted(found, key=lambda one: -len(str(one.value)))


def _runs(words: Words, order: str) -> list[Look]:
    out: list[Look] = []
    run, begin, is_open = "", 0, False
    for address in [*sorted(words), -1]:
        pair = in_text_order(words.get(address, 0).to_bytes(2), order).decode("latin-1")
        if not is_open or address != begin + len(run) // 2:
            out += _text(run, begin, order)
            run, begin, is_open = "", address, True
        printable = _UNPRINTABLE.sub("", pair)
        if printable:
            run += printable
        is_open = len(printable) == 2
    return out


def _text(run: str, begin: int, order: str) -> list[Look]:
    is_word = len(run) >= TEXT_RUN and sum(c.isalnum() or c == " " for c in run) >= 0.8 * len(run)
    return [Look(begin, "str", "" if order == "AB" else order, Decimal(1), run, "text")] if is_word else []


def _counters(rounds: Sequence[Words]) -> list[Look]:
    """Find values that only grow, and only by little compared with their size. The best guess comes first.

    Of two guesses, the one with less growth is better. The reason is that a counter seems to jump if it is read in a
    wrong order, or from one register too early. One kind of guess comes before all others: a float of which more than
    one register changed. Integers do not look like a growing float by chance.
    """
    last = rounds[-1]
    changed = {at for at in last if any(one.get(at) != last[at] for one in rounds)}
    found: list[Look] = []
    for type_ in ("f64", "f32", "u64", "u32", "u24", *(("u16",) if len(rounds) > 2 else ())):
        wide = REGISTERS[type_]
        for address in sorted(last):
            if changed.intersection(range(address, address + wide)):
                found += [look for order in ORDERS[type_] if (look := _growing(rounds, address, type_, order))]

    def rank(one: Look) -> tuple[bool, Decimal, int]:
        mine = changed.intersection(range(one.address, one.address + one.registers))
        return not (one.type in FLOATS and len(mine) > 1), one.growth, abs(one.registers - 2)

    return sorted(found, key=rank)


def _growing(rounds: Sequence[Words], address: int, type_: str, order: str) -> Look | None:
    values = [value_at(one, address, type_, order) for one in rounds]
    known = [value for value in values if value is not None]
    if len(known) < len(rounds) or any(b < a for a, b in pairwise(known)):
        return None
    if type_ == "u24" and not all(_is_u24(one, address, order) for one in rounds):
        return None
    last, growth = known[-1], known[-1] - known[0]
    sensible = Decimal(1) <= last < Decimal("1e10") if type_ in FLOATS else last < 1 << 48
    if not growth or growth * 50 > last or not sensible:
        return None
    return Look(address, type_, order, Decimal(1), last, "growing counter", growth)
