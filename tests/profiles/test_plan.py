"""The planner against brute force, and what devices teach it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import ConfigError, DeviceSpec, Kind, Limits, Point, ProfileError
from drivers.plan import Block, KnownHoles, LineTiming, compile_block, plan_blocks, plan_summary
from drivers.plan.holes import holes_key
from drivers.serial_setting import silence_ns

SPEC = DeviceSpec("m1", "park7/gw01/m1", "1", "modbus", "example/x", (), (0, 0, 0, 0, 0))
RTU = LineTiming.serial("9600 8N1")
TCP = LineTiming.tcp()


def points_at(*spans: tuple[int, int], function: int = 3) -> list[Point]:
    return [Point(f"x.p{i}", Kind.GAUGE, address=a, count=n, function=function) for i, (a, n) in enumerate(spans)]


def spans_of(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    return [(b.address, b.count) for b in blocks]


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """All ways to split a list into groups: the slow truth looks at every one."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            left = [i for i in rest if i not in others]
            for more in partitions(left):
                yield [[first, *others], *more]


def legal(points: Sequence[Point], group: list[int], limits: Limits, cuts: set[int]) -> int | None:
    """Registers that a group of points takes as one request, None if it may not be one. Written from the contract."""
    start = min(points[n].address for n in group)
    end = max(points[n].address + points[n].count for n in group)
    longest = limits.max_words or 125
    if end - start > longest:
        return None
    inside = [n for n in group if points[n].address == start and points[n].address + points[n].count == end]
    if any(start < c < end for c in cuts) and not inside:
        return None
    wanted = {r for n in group for r in range(points[n].address, points[n].address + points[n].count)}
    known = {r for p in points if not p.optional for r in range(p.address, p.address + p.count)}
    run = 0
    for register in range(start, end):
        run = 0 if register in known or register in wanted else run + 1
        if run and not limits.holes:
            return None
        if run and limits.max_gap is not None and run > limits.max_gap:
            return None
    return end - start


def brute_force(points: Sequence[Point], limits: Limits, timing: LineTiming, wanted: list[int]) -> int:
    cuts = {p.address for p in points if p.barrier}
    best = None
    for groups in partitions(wanted):
        sizes = [legal(points, g, limits, cuts) for g in groups]
        if None in sizes:
            continue
        cost = sum(timing.cost_ns(2 * size) for size in sizes if size is not None)
        best = cost if best is None else min(best, cost)
    assert best is not None
    return best


@st.composite
def small_maps(draw: st.DrawFn) -> tuple[list[Point], Limits, list[int]]:
    """Points that touch, overlap or lie apart, some not due, some optional or behind a barrier."""
    points: list[Point] = []
    address = draw(st.integers(0, 5))
    for i in range(draw(st.integers(1, 7))):
        count = draw(st.sampled_from([1, 1, 2, 4]))
        flag = draw(st.sampled_from(["", "", "", "optional", "barrier"]))
        point = Point(
            f"x.p{i}",
            Kind.GAUGE,
            address=address,
            count=count,
            optional=flag == "optional",
            barrier=flag == "barrier",
        )
        points.append(point)
        address = max(0, address + count + draw(st.sampled_from([-3, -1, 0, 0, 1, 3, 9, 30])))
    holes = draw(st.booleans())
    gap = draw(st.sampled_from([None, 2, 10])) if holes else None
    limits = Limits(max_words=draw(st.sampled_from([4, 8, 20, 125])), holes=holes, max_gap=gap)
    wanted = draw(st.lists(st.sampled_from(range(len(points))), min_size=1, unique=True))
    return points, limits, sorted(wanted)


@given(small_maps(), st.sampled_from([RTU, TCP, LineTiming.serial("115200 8N1"), LineTiming.tcp(2400)]))
def test_no_plan_is_cheaper(case: tuple[list[Point], Limits, list[int]], timing: LineTiming) -> None:
    points, limits, wanted = case
    blocks = plan_blocks(points, limits, timing, wanted)
    assert sum(timing.cost_ns(b.payload) for b in blocks) == brute_force(points, limits, timing, wanted)
    assert sorted(n for b in blocks for n in b.points) == wanted, "each wanted point in exactly one request"
    for block in blocks:
        for n in block.points:
            assert block.address <= points[n].address
            assert points[n].address + points[n].count <= block.address + block.count, "never torn"


@given(
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from([1, 2, 4]), st.sampled_from(["", "", "a", "b"])), min_size=1
    ),
    st.sampled_from([16, 125]),
)
def test_groups_stay_whole_and_limits_hold(described: list[tuple[int, int, str]], longest: int) -> None:
    """Overlaps (bits of one register) and groups anywhere; only what must hold is checked."""
    points = [
        Point(f"x.p{i}", Kind.GAUGE, address=a if not g else a % 12, count=n, together=g)
        for i, (a, n, g) in enumerate(described)
    ]
    blocks = plan_blocks(points, Limits(max_words=longest, holes=True), RTU)
    assert sorted(n for b in blocks for n in b.points) == list(range(len(points)))
    assert all(b.count <= longest for b in blocks)
    for group in ("a", "b"):
        assert len({i for i, b in enumerate(blocks) for n in b.points if points[n].together == group}) <= 1
    assert [(b.function, b.address) for b in blocks] == sorted((b.function, b.address) for b in blocks)


def test_a_hole_is_read_over_only_where_the_profile_allows_it() -> None:
    """A read of an undefined register corrupted the next answer."""  # field pain 26
    points = points_at((0, 2), (6, 2))
    assert spans_of(plan_blocks(points, Limits(), RTU)) == [(0, 2), (6, 2)]
    assert spans_of(plan_blocks(points, Limits(holes=True), RTU)) == [(0, 8)]
    assert spans_of(plan_blocks(points, Limits(holes=True, max_gap=3), RTU)) == [(0, 2), (6, 2)]


def test_a_hole_costs_wire_time_on_a_slow_line_only() -> None:
    points = points_at((0, 2), (60, 2))
    limits = Limits(holes=True, turnaround_s=0.005)
    assert len(plan_blocks(points, limits, LineTiming.serial("2400 8E1", limits))) == 2
    assert len(plan_blocks(points, limits, LineTiming.tcp(limits=limits))) == 1


def test_registers_of_points_that_are_not_due_may_be_read_over() -> None:
    points = points_at((0, 2), (2, 2), (4, 2))
    assert spans_of(plan_blocks(points, Limits(), RTU, wanted=[0, 2])) == [(0, 6)]


def test_a_point_longer_than_a_read_is_named() -> None:
    with pytest.raises(ProfileError, match=r"x\.p0 needs 8 registers, but one read returns at most 4"):
        plan_blocks(points_at((0, 8)), Limits(max_words=4), RTU)


def test_functions_never_mix_and_coils_count_as_bits() -> None:
    points = points_at((0, 1), (1000, 1), function=1) + points_at((0, 2))
    limits = Limits(holes=True)
    blocks = plan_blocks(points, limits, LineTiming.tcp(limits=limits))
    assert [(b.function, b.address, b.count) for b in blocks] == [(1, 0, 1001), (3, 0, 2)]
    assert blocks[0].payload == 126
    assert plan_summary(blocks, TCP).registers == 63 + 2


@pytest.mark.parametrize(
    ("baud", "ns"), [(9600, 4_010_417), (19200, 2_005_208), (2400, 16_041_667), (38400, 1_750_000)]
)
def test_quiet_time_of_the_serial_line_standard(baud: int, ns: int) -> None:
    assert silence_ns(baud) == ns


def test_the_cost_of_a_request_is_bytes_quiet_and_turnaround() -> None:
    timing = LineTiming.serial("9600 8N1", Limits(turnaround_s=0.01, quiet_s=0.02))
    assert timing.cost_ns(20) == pytest.approx((8 + 5 + 20) * 10 / 9600 * 1e9 + 30e6, rel=1e-6)
    with pytest.raises(ConfigError, match="9600 8N1"):
        LineTiming.serial("fast")


class Device:
    """Answers as a device that has only some registers."""

    def __init__(self, missing: set[int], longest: int = 125) -> None:
        self.missing, self.longest = missing, longest

    def visit(self, points: list[Point], limits: Limits, holes: KnownHoles, now_s: int = 1000) -> set[int]:
        """One round; gives the points that were read."""
        got: set[int] = set()
        for block in plan_blocks(points, limits, RTU, holes=holes):
            if block.count > self.longest:
                holes.refused(block, points, 3, now_s)
            elif self.missing & set(range(block.address, block.address + block.count)):
                holes.refused(block, points, 2, now_s)
            else:
                holes.good(block)
                got.update(block.points)
        return got


@given(st.sets(st.integers(0, 39), max_size=6), st.booleans())
def test_one_missing_register_costs_its_own_point_only(missing: set[int], holes_allowed: bool) -> None:
    """Reading over a missing register failed the whole block for ever."""  # field pains 24, 25, 30, 40
    points = points_at(*((a, 2) for a in range(0, 40, 4)), *((a, 1) for a in range(2, 40, 8)))
    holes, limits, device = KnownHoles(), Limits(holes=holes_allowed), Device(missing)
    alive = {i for i, p in enumerate(points) if not missing & set(range(p.address, p.address + p.count))}
    for _ in range(2 * 12):
        got = device.visit(points, limits, holes)
    assert got == alive
    if alive:
        assert {i for i, p in enumerate(points) if not holes.lacks(p)} == alive, "and is not asked for any more"


def settled(points: list[Point], device: Device, limits: Limits) -> tuple[set[int], KnownHoles]:
    """The points that are read in the end, and the facts learned."""
    holes = KnownHoles()
    for _ in range(2 * len(points) + 8):
        got = device.visit(points, limits, holes)
    return got, holes


def test_a_point_of_several_parts_that_is_missing_costs_no_point_inside_its_registers() -> None:
    """A power of an inverter has its low word at 616 and its high word at 690. A model without 690 lost all points from
    616 to 690 for a week.
    """
    points = points_at((616, 75), (617, 72), (620, 1), (625, 2), (688, 2), (689, 2), (700, 1))
    got, holes = settled(points, Device({690}), Limits(holes=True))
    assert got == {1, 2, 3, 4, 6}
    assert {n for n, point in enumerate(points) if holes.lacks(point)} == {0, 5}
    assert "the device refuses reads of the multi-register values at 616" in holes.summary()
    again = KnownHoles.from_json(json.loads(json.dumps(holes.to_json())), "", now_s=2000)
    assert {n for n, point in enumerate(points) if again.lacks(point)} == {0, 5}
    again.forget()
    assert not again.has_absent and not again.summary()


def test_a_missing_point_of_several_parts_costs_no_point_that_is_due_at_another_pace() -> None:
    """The refused read had only the wide point. Points of another pace inside its registers were dropped unread."""
    points = points_at((0, 10), (4, 1), (20, 1))
    holes, device, limits = KnownHoles(), Device({9}), Limits(holes=True)
    for _ in range(4):
        for wanted in ([0], [1, 2]):
            for block in plan_blocks(points, limits, RTU, wanted, holes):
                if device.missing & set(range(block.address, block.address + block.count)):
                    holes.refused(block, points, 2, 1000)
                else:
                    holes.good(block)
    assert [holes.lacks(point) for point in points] == [True, False, False]


def test_points_that_overlap_are_read_apart_if_one_is_missing() -> None:
    got, holes = settled(points_at((0, 4), (3, 5), (20, 1)), Device({1}), Limits())
    assert got == {1, 2} and not holes.absent


def test_a_missing_scale_factor_costs_only_the_points_that_need_it() -> None:
    """The register of a scale factor is read with its points. It did not count as theirs, so nothing was learned."""
    points = points_at((10, 1), (12, 1), (14, 1), (30, 1))
    points[:2] = [replace(point, scale_at=16) for point in points[:2]]
    got, holes = settled(points, Device({16}), Limits(holes=True))
    assert got == {2, 3} and {n for n, point in enumerate(points) if holes.lacks(point)} == {0, 1}


def test_facts_about_a_register_map_are_the_same_after_they_were_stored() -> None:
    stored = {"key": "", "since": 1000, "cuts": [[3, 4]], "absent": [[3, 8, 2]], "max_words": 60}
    stored |= {"unanswered": [[3, 0, 8]], "absent_points": [[3, 20, 9]]}

    holes = KnownHoles.from_json(stored, "", now_s=2000)

    assert [holes.lacks(point) for point in points_at((8, 1), (9, 4), (10, 1))] == [True, True, False]
    assert holes.to_json() == stored


def test_one_refusal_teaches_nothing() -> None:
    points = points_at((0, 2), (2, 2))
    holes = KnownHoles()
    (block,) = plan_blocks(points, Limits(), RTU)
    assert not holes.refused(block, points, 2, 0)
    holes.good(block)
    assert not holes.refused(block, points, 2, 0), "the good answer wiped the first strike"
    assert holes.refused(block, points, 2, 0)
    assert spans_of(plan_blocks(points, Limits(), RTU, holes=holes)) == [(0, 2), (2, 2)]
    assert not holes.refused(block, points, 6, 0), "busy is not an error"  # field pain 43


def test_a_device_that_refuses_everything_loses_nothing() -> None:
    """A transient fault at start was recorded as "register unsupported"."""  # field pain 65
    points = points_at((0, 2), (10, 2))
    holes = KnownHoles()
    device = Device(set(range(100)))
    for _ in range(10):
        device.visit(points, Limits(), holes)
    assert not holes.absent
    device.missing = set()
    assert device.visit(points, Limits(), holes) == {0, 1}


def test_a_meter_that_bears_less_than_it_says_is_read_in_smaller_blocks() -> None:
    """Documented for 80 registers, it failed above 50."""  # field pain 27
    points = points_at(*((a, 2) for a in range(0, 80, 2)))
    holes, device = KnownHoles(), Device(set(), longest=50)
    for _ in range(4):
        got = device.visit(points, Limits(max_words=80), holes)
    assert len(got) == 40
    assert holes.max_words == 40


@st.composite
def learned_facts(draw: st.DrawFn) -> tuple[list[Point], KnownHoles]:
    """Registers, texts, groups and wide points of coils, with any facts about them."""
    points: list[Point] = []
    for function, counts in ((3, [1, 2, 16, 125]), (1, [1, 5, 57, 58, 64])):
        address = 0
        for _ in range(draw(st.integers(0, 6))):
            count = draw(st.sampled_from(counts))
            kind = "bits" if function == 1 else "u16" if count == 1 else "u32" if count == 2 else "str"
            points.append(
                Point(
                    f"x.p{len(points)}",
                    Kind.TEXT if kind == "str" else Kind.GAUGE,
                    address=address,
                    count=count,
                    function=function,
                    type=kind,
                    order="ABCD" if count == 2 else "",
                    together=draw(st.sampled_from(["", "g"])) if address < 100 and kind in ("u16", "u32") else "",
                )
            )
            address += count + draw(st.sampled_from([0, 0, 1, 7]))
    holes = KnownHoles()
    spots = st.tuples(st.sampled_from([1, 3]), st.integers(0, 140))
    holes.cuts = draw(st.sets(spots, max_size=4))
    holes.absent = {(f, a, 1) for f, a in draw(st.sets(spots, max_size=3))}
    holes.max_words = draw(st.sampled_from([None, -1, 1, 3, 8, 60]))
    return points, holes


@given(learned_facts())
def test_no_learned_fact_makes_a_plan_impossible(case: tuple[list[Point], KnownHoles]) -> None:
    """A plan that raises at a tick ends the agent, and the stored facts end it again after each start."""
    points, holes = case
    limits = Limits(holes=True)
    for known in (None, holes):
        blocks = plan_blocks(points, limits, TCP, holes=known)
        for block in blocks:
            compile_block(block, points, SPEC)
        there = [n for n, point in enumerate(points) if known is None or not known.lacks(point)]
        assert sorted(n for block in blocks for n in block.points) == there


def test_a_point_longer_than_the_learned_limit_is_a_block_of_its_own() -> None:
    """The limit was learned from shorter points. A limit of the profile stays an error."""
    points = points_at(*((n, 1) for n in range(16)), (16, 16))
    holes = KnownHoles()
    holes.max_words = 8
    assert spans_of(plan_blocks(points, Limits(), TCP, holes=holes)) == [(0, 8), (8, 8), (16, 16)]
    with pytest.raises(ProfileError, match=r"x\.p16 needs 16 registers, but one read returns at most 12"):
        plan_blocks(points, Limits(max_words=12), TCP, holes=holes)


def test_a_wide_point_of_coils_begins_a_block() -> None:
    """The decode kernel takes at most eight bytes for a value, but 58 coils may lie in nine bytes."""
    points = points_at((0, 7), (7, 58), (65, 3), function=1)
    assert spans_of(plan_blocks(points, Limits(), TCP)) == [(0, 7), (7, 61)]


def test_a_wide_point_of_coils_inside_a_group_is_refused_with_its_place() -> None:
    """One read covers the group and the point inside it, and the point cannot be decoded from it."""
    ends = [replace(point, together="g") for point in points_at((0, 1), (100, 1), function=1)]
    points = [*ends, replace(points_at((7, 58), function=1)[0], name="x.wide")]
    with pytest.raises(
        ProfileError, match=r"x\.wide has 58 coils and begins at bit 7 of a byte, so it takes 9 bytes of the answer"
    ):
        plan_blocks(points, Limits(), TCP)
    assert spans_of(plan_blocks(points, Limits(), TCP, [2])) == [(7, 58)]


def test_what_was_learned_survives_a_restart_and_expires() -> None:
    points = points_at((0, 2), (2, 2))
    key = holes_key("hash", {"device.serial": "A1"}, "V1")
    holes = KnownHoles(key)
    for _ in range(6):
        Device({2}).visit(points, Limits(), holes, now_s=1000)
    said = json.loads(json.dumps(holes.to_json()))
    again = KnownHoles.from_json(said, key, now_s=2000)
    assert (again.cuts, again.absent) == (holes.cuts, holes.absent) != (set(), set())
    assert "the device has no registers 2" in again.summary()
    other = holes_key("hash", {"device.serial": "A1"}, "V2")
    assert not KnownHoles.from_json(said, other, now_s=2000).absent, "new firmware, new chance"  # field pain 39
    assert not KnownHoles.from_json(said, key, now_s=1000 + 8 * 86400).absent
    assert not KnownHoles.from_json(said, key, now_s=0).absent, "learned in the future: the clock was wrong"
    assert not KnownHoles.from_json({"key": key, "since": 1, "cuts": "x"}, key, now_s=2).cuts
    assert again.expire(1000 + 8 * 86400)
    assert not again.expire(1000 + 8 * 86400)


def test_plans_are_shared_and_those_of_long_ago_are_not_kept() -> None:
    """A hundred devices of one family have one plan; families and learned holes come and go for years."""
    points = tuple(points_at((0, 2), (6, 2)))
    first = plan_blocks(points, Limits(), RTU)
    assert plan_blocks(points, Limits(), RTU) is first
    for gap in range(1000):
        plan_blocks(points, Limits(holes=True, max_gap=gap), RTU)
    again = plan_blocks(points, Limits(), RTU)
    assert again == first and again is not first
