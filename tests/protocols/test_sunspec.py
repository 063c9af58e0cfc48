"""SunSpec: worked example, recorded images, sentinels per type, groups, torn values, an oracle of the Alliance."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.model import FrameError
from drivers.sunspec import models, walk
from drivers.sunspec.names import readings_of
from tests.kits.meter_cases import decode, flat_memory
from tests.kits.recorded import recorded

COMMON = [1, 66, *([0x4142] * 64), 7, 0x8000]


def image(*models: list[int], end: bool = True) -> list[int]:
    return [*walk.MARKER, *(r for m in models for r in m), *((0xFFFF, 0) if end else ())]


def model_of(model_id: int, points: dict[int, int], length: int) -> list[int]:
    """A model whose registers are 0 except those given by their offset from the id register."""
    registers = [model_id, length, *([0] * length)]
    for offset, value in points.items():
        registers[offset] = value & 0xFFFF
    return registers


def run(tmp_path: Path, registers: Sequence[int], base: int = 40000, **more: Any) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "image.json"
    file.write_text(json.dumps({"base_address": base, "registers": list(registers), **more}))
    return decode("sunspec", str(file))


def test_worked_example(tmp_path: Path) -> None:
    inverter = model_of(103, {14: 0x04D2, 15: 1, 16: 0x1386, 17: -2}, 50)
    _, found = run(tmp_path, image(inverter))
    points = found["models"][0]["points"]
    assert (found["models"][0]["id"], found["models"][0]["length"]) == (103, 50)
    assert (points["W"], points["Hz"]) == (12_340, 49.98)


@pytest.mark.parametrize("case", recorded("sunspec", "sunspec-image"))
def test_recorded_images_come_out_as_their_manifest_says(case: dict[str, Any], tmp_path: Path) -> None:
    expected, given_ = case["expected"], dict(case["input"])
    base = expected.get("place_image_at", given_["base_address"])
    code, found = run(tmp_path, given_["registers"], base)
    assert code == 0
    assert [m["id"] for m in found["models"]] == expected["models"]
    for mine, theirs in zip(found["models"], expected.get("decoded", ()), strict=False):
        assert (mine["address"], mine["length"]) == (theirs["address"], theirs.get("length", 0))
        wanted = {name: v.get("scaled", v["raw"]) for name, v in theirs.get("points", {}).items()}
        assert mine["points"] == wanted


@pytest.mark.parametrize("base", [40000, 0, 50000, 1234])
def test_the_marker_is_found_wherever_the_image_begins(tmp_path: Path, base: int) -> None:
    _, found = run(tmp_path, image(COMMON), base)
    assert [(m["id"], m["address"]) for m in found["models"]] == [(1, base + 2), (0xFFFF, base + 70)]


def test_the_marker_inside_a_larger_image(tmp_path: Path) -> None:
    _, found = run(tmp_path, [0] * 40000 + image(COMMON), 0)
    assert found["frame"]["base_address"] == 40000
    _, found = run(tmp_path, [9] * 7 + image(COMMON), 100)
    assert found["frame"]["base_address"] == 107


def test_an_unknown_model_is_listed_and_not_fatal(tmp_path: Path) -> None:
    _, found = run(tmp_path, image([64999, 3, 1, 2, 3], COMMON))
    assert found["models"][0] == {"id": 64999, "address": 40002, "length": 3, "points": {}, "unknown": True}
    assert found["models"][1]["points"]["DA"] == 7


def test_a_missing_end_a_short_and_a_cut_model(tmp_path: Path) -> None:
    _, found = run(tmp_path, image(COMMON, end=False))
    assert found["warnings"] == ["the chain of models has no end model: address 40070 does not answer"]
    _, found = run(tmp_path, image(COMMON, [0, 0], end=False))
    assert found["warnings"] == ["the chain of models has no end model: address 40070 has model id 0"]
    short = model_of(103, {2: 5}, 10)  # an old variant that ends before its power
    _, found = run(tmp_path, image(short, COMMON))
    assert [m["id"] for m in found["models"]] == [103, 1, 0xFFFF]
    assert "W" not in found["models"][0]["points"]
    _, found = run(tmp_path, image(COMMON[:20], end=False))
    assert found["models"][0]["truncated"] is True
    assert found["models"][0]["points"]["Mn"] == "AB" * 16


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", 'expected {"base_address"'),
        ("{", "Expecting property name"),
        ('{"registers": [1, 2]}', "no SunSpec marker at 40000"),
        ('{"registers": []}', "no SunSpec marker"),
        ('{"registers": [70000]}', "registers at 40000 is 70000; allowed: 0 to 65535"),
        ('{"registers": ["1"]}', "registers at 40000 is '1'; allowed: 0 to 65535"),
        ('{"registers": 5}', "registers must be a list"),
        ('{"base_address": -1, "registers": []}', "base_address must be"),
    ],
)
def test_broken_images_say_what_is_wrong(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "image.json"
    file.write_text(content)
    code, found = decode("sunspec", str(file))
    assert code == 4
    assert words in found["error"]


def test_a_dump_serves_as_an_image(tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    file.write_text(json.dumps({"holding": {str(40000 + n): r for n, r in enumerate(image(COMMON))}}))
    assert decode("sunspec", str(file))[1]["models"][0]["points"]["DA"] == 7


SENTINELS = [  # type, bytes that mean "not implemented", bytes that are a value, the value
    ("int16", "8000", "FFFE", -2),
    ("sunssf", "8000", "FFFE", -2),
    ("uint16", "FFFF", "8000", 0x8000),
    ("enum16", "FFFF", "0004", 4),
    ("count", "FFFF", "0004", 4),
    ("bitfield16", "FFFF", "0005", 5),
    ("acc16", "0000", "FFFF", 0xFFFF),
    ("int32", "80000000", "FFFFFFFE", -2),
    ("uint32", "FFFFFFFF", "80000000", 0x80000000),
    ("enum32", "FFFFFFFF", "00000001", 1),
    ("bitfield32", "FFFFFFFF", "00000001", 1),
    ("acc32", "00000000", "FFFFFFFF", 0xFFFFFFFF),
    ("int64", "8000000000000000", "FFFFFFFFFFFFFFFE", -2),
    ("uint64", "FFFFFFFFFFFFFFFF", "0000000000000001", 1),
    ("acc64", "0000000000000000", "0000000000000001", 1),
    ("float32", "7FC00000", "43668000", Decimal("230.5")),
    ("float32", "FFC00001", "3DCCCCCD", Decimal("0.1")),
    ("float64", "7FF8000000000000", "3FB999999999999A", Decimal("0.1")),
    ("string", "00000000", "41420000", "AB"),
    ("ipaddr", "00000000", "C0A80001", 0xC0A80001),
    ("ipv6addr", "00" * 16, "20010DB8" + "00" * 8 + "00000001", "20010DB8:00000000:00000000:00000001"),
    ("eui48", "0000FFFFFFFFFFFF", "0000001122334455", "00:11:22:33:44:55"),
]


@pytest.mark.parametrize(("kind", "absent", "present", "value"), SENTINELS)
def test_not_implemented_is_told_per_type(kind: str, absent: str, present: str, value: Any) -> None:
    """# field pains 31, 34, 36: an accumulator of 0 is no reading either."""
    read = models.reader_of(kind, len(absent) // 4)
    assert read(bytes.fromhex(absent)) is None
    assert read(bytes.fromhex(present)) == value


def test_a_scale_factor_that_is_not_there_leaves_no_value() -> None:
    for factor in (0x8000, 11):
        model = models.decode_model(0, model_of(103, {14: 5, 15: factor}, 50))
        assert (model.points["W"].raw, model.points["W"].value) == (5, None)


def test_repeating_groups_by_count_and_to_the_end() -> None:
    mppt = model_of(160, {2: -1, 3: -1, 4: 0, 5: 0, 8: 2, 10: 1, 19: 83, 30: 2, 39: 91}, 48)
    points = models.decode_model(0, mppt).points
    assert points["module[0].DCA"].value == Decimal("8.3")
    assert points["module[1].DCA"].value == Decimal("9.1")
    assert "module[2].DCA" not in points
    one_too_many = model_of(160, {2: -1, 8: 3}, 48)
    assert "module[2].DCA" not in models.decode_model(0, one_too_many).points, "the length rules, not the count"


def test_groups_within_groups() -> None:
    """Model 705 with two curves (offset 6) of two points each (offset 5): as many instances as it says, and no more."""
    length = 13 + 2 * (10 + 2 * 2)
    curves = model_of(705, {5: 2, 6: 2, length + 1: 77}, length)
    found = models.decode_model(0, curves).points
    assert {name.rpartition(".")[0] for name in found if "[" in name} == {
        "Crv[0]", "Crv[0].Pt[0]", "Crv[0].Pt[1]", "Crv[1]", "Crv[1].Pt[0]", "Crv[1].Pt[1]"
    }  # fmt: skip
    assert found["Crv[1].Pt[1].Var"].raw == 77, "the last register"
    once = models.decode_model(0, model_of(704, {}, 65)).points
    assert any(n.startswith("PFWInj.") for n in once)


@pytest.mark.parametrize("model_id", [1, 101, 102, 103, 111, 112, 113, *range(120, 125), 160, *range(201, 205)])
def test_the_models_that_parks_have_are_known(model_id: int) -> None:
    assert models.definition(model_id) is not None


@pytest.mark.parametrize("model_id", [*range(211, 215), *range(701, 716), 802, 803, 804])
def test_the_newer_models_are_known_too(model_id: int) -> None:
    assert models.definition(model_id) is not None


# ------------------------------------------------------------------ names of the vocabulary


def plain(value: Decimal | int | str | None) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def test_a_hybrid_gets_uniform_names() -> None:
    inverter = model_of(103, {14: 0x04D2, 15: 0, 21: 1, 22: 950, 23: 0xFFFF, 24: 0, 25: 500, 26: 0}, 50)
    meter = model_of(203, {18: 0xFFF6, 22: 0, 47: 7, 54: 0}, 105)
    trackers = model_of(160, {2: -1, 8: 2, 19: 83, 39: 91}, 48)
    device = walk.decode_image(40000, image(COMMON, inverter, meter, trackers))
    found = {r.name: (plain(r.value), r.unit) for r in readings_of(device)}
    assert found["device.address"] == (7, "")
    assert found["ac.power.generation"] == (1234, "W")
    assert found["ac.energy.generation"] == (500, "Wh")
    assert found["ac.power.factor"] == (0.95, "")
    assert found["meter.ac.power.active"] == (-10, "W")
    assert found["meter.ac.energy.import"] == (7, "Wh")
    assert found["meter.ac.energy.export"] == (None, "Wh")
    assert found["dc.mppt.2.current"] == (9.1, "A")
    assert "device.temperature.cabinet" in found


def test_several_meters_are_told_apart_and_one_alone_is_plain() -> None:
    meter = model_of(201, {18: 5, 22: 0}, 105)
    two = walk.decode_image(0, image(COMMON, meter, meter))
    assert {"meter.1.ac.power.active", "meter.2.ac.power.active"} <= {r.name for r in readings_of(two)}
    one = walk.decode_image(0, image(COMMON, meter))
    assert "ac.power.active" in {r.name for r in readings_of(one)}


# ------------------------------------------------------------------ against the Alliance's own reader


def oracle(model_id: int, registers: list[int]) -> dict[str, Any]:
    """Raw values as pysunspec2 reads them, by our names."""
    from sunspec2 import device

    data = struct.pack(f">{len(registers)}H", *registers)
    model = device.Model(model_id, data=data)

    def walk(group: Any, prefix: str) -> dict[str, Any]:
        found = {prefix + n: p.value for n, p in group.points.items() if p.pdef["type"] != "pad"}
        for name, inner in group.groups.items():
            if isinstance(inner, list):
                for n, each in enumerate(inner):
                    found |= walk(each, f"{prefix}{name}[{n}].")
            else:
                found |= walk(inner, f"{prefix}{name}.")
        return found

    return walk(model, "")


FLAT = [1, 101, 103, 111, 120, 121, 122, 124, 201, 203, 211, 213, 701, 702, 713, 802]


def cell(rng: random.Random, texts: bool) -> int:
    if texts:  # the oracle reads UTF-8 and nothing else
        return rng.choice((0x4142, 0x4142, 0x4100, 0x0000))
    return rng.choice((0, 0xFFFF, 0x8000, 0x7FC0, rng.randrange(0x10000)))


@pytest.mark.parametrize("model_id", FLAT)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=8)
def test_pysunspec2_reads_the_same(model_id: int, seed: int) -> None:
    definition, rng = models.definition(model_id), random.Random(seed)
    assert definition is not None
    length = sum(p.size for p in definition.points) - 2
    texts = any(p.type == "string" for p in definition.points)
    registers = [model_id, length, *(cell(rng, texts) for _ in range(length))]
    mine = models.decode_model(0, registers).points
    for name, theirs in oracle(model_id, registers).items():
        raw = mine[name].raw
        if isinstance(theirs, float):
            same = raw is not None and struct.pack(">f", float(raw)) == struct.pack(">f", theirs)
            assert same or (raw is None and not math.isfinite(theirs)), name
        elif isinstance(theirs, str):
            assert str(raw or "") == theirs.split("\0")[0], name
        else:
            assert raw == theirs, name


# ------------------------------------------------------------------ asking a device


class Box:
    """A device that answers reads of holding registers and counts them."""

    def __init__(self, base: int, registers: list[int], most: int = 125) -> None:
        self.cells = {base + n: r for n, r in enumerate(registers)}
        self.most = most
        self.asked: list[tuple[int, int]] = []

    def read(self, address: int, count: int) -> list[int] | None:
        assert 1 <= count <= self.most
        self.asked.append((address, count))
        wanted = range(address, address + count)
        return [self.cells[a] for a in wanted] if all(a in self.cells for a in wanted) else None


def discover(box: Box, most: int = 125) -> walk.ModelChain:
    steps = walk.discover(most=most)
    ask = next(steps)
    while True:
        try:
            ask = steps.send(box.read(*ask))
        except StopIteration as done:
            found: walk.ModelChain = done.value
            return found


@pytest.mark.parametrize("base", [40000, 0, 50000])
def test_discovery_tries_the_three_bases_in_order(base: int) -> None:
    box = Box(base, image(COMMON, model_of(103, {14: 7, 15: 0}, 50)))
    device = discover(box)
    assert (device.base, [m.id for m in device.models]) == (base, [1, 103, 0xFFFF])
    assert [a for a, _ in box.asked[:3]][: [40000, 0, 50000].index(base) + 1] == [40000, 0, 50000][
        : [40000, 0, 50000].index(base) + 1
    ]


def test_a_device_without_the_marker_is_an_error() -> None:
    with pytest.raises(FrameError, match="no SunSpec marker"):
        discover(Box(40000, [1, 2, 3]))


@pytest.mark.parametrize("most", [2, 5, 50, 125])
def test_no_value_of_several_registers_comes_in_two_reads(most: int) -> None:
    """# field pains 28, 38: never more than the device allows, never half a value."""
    meter = model_of(203, {}, 105)
    box = Box(40000, image(meter), most)
    device = discover(box, most)
    assert device.models[0].truncated is False
    definition, at, inner = models.definition(203), 40002, set()
    assert definition is not None
    for point in definition.points:
        if point.size <= most:
            inner |= {at + n for n in range(1, point.size)}
        at += point.size
    begins = {a for a, _ in box.asked[3:]}
    assert not begins & inner


@given(st.lists(st.integers(0, 0xFFFF), max_size=60), st.integers(0, 0xFFFF))
def test_any_image_decodes_or_complains(registers: list[int], base: int) -> None:
    for content in (registers, [*walk.MARKER, *registers]):
        try:
            device = walk.decode_image(base, content)
        except FrameError:
            continue
        assert len(device.models) <= 200


@given(st.sampled_from([1, 103, 160, 202, 213, 701, 704, 705, 707, 714, 803, 804, 63001]), st.data())
def test_any_registers_of_a_known_model_decode(model_id: int, data: st.DataObject) -> None:
    body = data.draw(st.lists(st.sampled_from([0, 1, 2, 0xFFFF, 0x8000, 0x4142]), max_size=200))
    length = data.draw(st.sampled_from([len(body), 0, 10, 0xFFFF]))
    model = models.decode_model(40002, [model_id, length, *body])
    assert 0 <= models.whole_registers([model_id, length, *body]) <= 2 + len(body)
    assert all(v.raw is not None or v.value is None for v in model.points.values())


def shake(count: int, seed: int) -> None:
    """Random and mutated images: nothing raises but the parser's own error."""
    rng = random.Random(seed)
    ids = [1, 103, 120, 124, 160, 213, 704, 713, 714, 803, 64999]
    for _ in range(count):
        body = [rng.choice((0, 1, 2, 0x8000, 0xFFFF, rng.randrange(0x10000))) for _ in range(rng.randrange(16))]
        length = len(body) if rng.random() < 0.8 else rng.randrange(0x10000)
        registers = image([rng.choice(ids), length, *body], end=rng.random() < 0.5)
        if rng.random() < 0.3:
            registers[rng.randrange(len(registers))] = rng.randrange(0x10000)
        try:
            device = walk.decode_image(40000, registers)
        except FrameError:
            continue
        for r in readings_of(device):
            assert (r.value is None) == (r.quality >= 128)


def test_mutated_images_never_raise() -> None:
    shake(1_000, seed=101)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_mutated_images_never_raise() -> None:
    shake(1_000, seed=1)
    with flat_memory():
        shake(1_000_000, seed=713)
