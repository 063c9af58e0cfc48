"""Cases: order, restarts, completeness."""

from __future__ import annotations

from tests.kits.signed import BOOTS, START, Stream, b64, checkpoint
from tests.verify.corpus import Case, case, counted, doctored, feed, in_parts, refused, third


@case
def missing() -> Case:
    stream = Stream()
    packs = stream.run(6)
    return Case(
        "missing", "a pack that never came", feed(stream, packs[:3] + packs[4:]), "incomplete", {}, "1 packs missing", 5
    )


@case
def broken_chain() -> Case:
    stream = third()
    raw = stream.seal(stream.fields(prev=b64(b"x" * 32)))
    return counted("broken_chain", "prev of another pack", "chain", "not the hash of sequence 2", raw)


@case
def fork() -> Case:
    stream = Stream()
    packs = stream.run(2)
    twin = third().pack(clock={"synced": False})
    return Case("fork", "two packs with one identity", feed(stream, [*packs, stream.pack(), twin]), "failed",
                {"fork": 1}, "other bytes", 3)  # fmt: skip


@case
def rollback() -> Case:
    """A database restored from yesterday: another boot goes on from an older head."""
    stream, restored = Stream(), Stream()
    packs = stream.run(6)
    restored.run(3)
    restored.restart(BOOTS[1])
    return Case("rollback", "a second boot after the same head", feed(stream, packs + restored.run(3)), "failed", {},
                "rollback or clone: sequence 4", 9)  # fmt: skip


@case
def lost_history() -> Case:
    stream, fresh = Stream(), Stream(boot=BOOTS[1], start=START + 600)
    return Case("lost_history", "sequence 1 again: the store was lost", feed(stream, stream.run(3) + fresh.run(3)),
                "incomplete", {}, "begins anew", 6)  # fmt: skip


@case
def overlap() -> Case:
    stream = third()
    stream.at -= 5
    return counted(
        "overlap",
        "[from, to) reaches into the pack before",
        "chain",
        "5 s before the previous pack ends",
        stream.pack(),
    )


@case
def hole_in_time() -> Case:
    stream = third()
    stream.at += 5
    return counted(
        "hole_in_time",
        "five seconds that nobody accounts for",
        "chain",
        "5 s after the previous pack ends",
        stream.pack(),
    )


@case
def wrong_clock_step() -> Case:
    stream = third()
    stream.at -= 60
    event = {"event": "clock_step", "new": stream.at, "old": stream.at + 30, "t": stream.at}
    raw = stream.pack(events=[event])
    return counted(
        "wrong_clock_step", "a clock_step that names another seam", "chain", "no clock_step explains it", raw
    )


@case
def new_boot_without_name() -> Case:
    stream = third()
    stream.boot, stream.birth = BOOTS[1], None
    raw = stream.make_birth()
    return counted("new_boot_without_name", "a boot whose first pack has no prev_boot", "chain", "prev_boot", raw)


@case
def boot_without_birth() -> Case:
    stream = third()
    fields = stream.fields(prev_boot=BOOTS[0], boot=BOOTS[1])
    return counted(
        "boot_without_birth", "a boot that begins without a birth", "rule", "is not a birth", stream.seal(fields)
    )


@case
def part_missing() -> Case:
    stream = Stream()
    packs = stream.run(2)
    first, second, last = in_parts(stream)
    packs += [first, second, last, stream.pack(5)]
    del packs[3]
    return Case(
        "part_missing", "the second of three parts", feed(stream, packs), "incomplete", {}, "1 packs missing", 5
    )


@case
def part_left_out() -> Case:
    """The chain holds, but part 2 was never made."""
    stream = Stream()
    packs = stream.run(2)
    packs += [stream.pack(5, part=[1, 2]), stream.pack(5)]
    return Case("part_left_out", "part 1 of 2, then something else", feed(stream, packs), "failed", {"chain": 1},
                "part 2 of 2 is missing", 4)  # fmt: skip


@case
def birth_missing() -> Case:
    stream = Stream()
    return Case("birth_missing", "the birth never came", feed(stream, stream.run(3)[1:]), "incomplete", {},
                "the completeness of 2 packs is unknown", 2)  # fmt: skip


@case
def other_birth() -> Case:
    return counted(
        "other_birth",
        "the hash of a birth that is not in force",
        "chain",
        "names birth",
        doctored(birth=b64(b"b" * 32)),
    )


@case
def checkpoint_ahead() -> Case:
    stream = Stream()
    packs = stream.run(5)
    head = {"boot": stream.boot, "hash": stream.prev, "seq": 5, "stream": stream.stream, "to": stream.at}
    page = checkpoint([head], stream.key)
    objects = (*feed(stream, packs[:3]), ("meterhouse/v1/park7/gw01/checkpoint/1", page))
    return Case("checkpoint_ahead", "the tail is cut off, a checkpoint knows it", objects, "incomplete", {},
                "2 packs missing", 3)  # fmt: skip


@case
def checkpoint_differs() -> Case:
    stream = Stream()
    packs = stream.run(3)
    head = {"boot": stream.boot, "hash": b64(b"y" * 32), "seq": 3, "stream": stream.stream, "to": stream.at}
    objects = (*feed(stream, packs), ("meterhouse/v1/park7/gw01/checkpoint/1", checkpoint([head], stream.key)))
    return Case("checkpoint_differs", "a checkpoint with another hash", objects, "failed", {}, "a different hash", 3)


@case
def wrong_loss_hash() -> Case:
    stream = Stream()
    packs = stream.run(6)
    loss = {
        "boot": stream.boot, "event": "loss", "first": 4, "from": START + 20, "hash": b64(b"z" * 32), "last": 5,
        "reason": "disk", "t": stream.at, "to": START + 40,
    }  # fmt: skip
    packs = packs[:3] + packs[5:] + [stream.pack(events=[loss])]
    return Case("wrong_loss_hash", "a loss event that does not fit the pack after", feed(stream, packs), "failed", {},
                "the hash in the loss event", 5)  # fmt: skip


@case
def unaccounted() -> Case:
    raw = doctored(e=third().fields()["e"][:-1])
    return counted("unaccounted", "a due reading that is neither read nor in a gap", "due", "1 unaccounted for", raw)


@case
def beyond_due() -> Case:
    e = third().fields()["e"]
    raw = doctored(e=[*e, {"n": "ac.power.generation", "u": "kW", "v": 1}])
    return counted("beyond_due", "a record more than there are ticks", "due", "1 too many", raw)


@case
def reading_and_gap() -> Case:
    at = third().at
    gap = {"from": at, "points": ["ac.voltage.l1"], "reason": "crc", "to": at + 5}
    return counted("reading_and_gap", "read, and in a gap as well", "due", "1 too many", doctored(gaps=[gap]))


@case
def two_gaps() -> Case:
    at = third().at
    e = third().readings(at, at + 5)
    names = ["ac.power.generation", "ac.voltage.l1"]
    gaps = [{"from": at + 5, "points": names, "reason": "crc", "to": at + 10}] * 2
    return counted("two_gaps", "one tick in two gaps", "due", "lies in two gaps", doctored(e=e, gaps=gaps))


@case
def unknown_point() -> Case:
    e = third().fields()["e"]
    return counted("unknown_point", "a point that the birth does not know", "due", "does not know",
                   doctored(e=[*e, {"n": "x.secret", "v": 1}]))  # fmt: skip


@case
def foreign_records() -> Case:
    e = third().fields()["e"]
    e[0]["bn"] = "park7/gw01/inv2/"
    return refused(
        "foreign_records", "records of another device", "shape", "records of 'park7/gw01/inv2/'", doctored(e=e)
    )


@case
def must_understand() -> Case:
    e = third().fields()["e"]
    e[0]["new_"] = 1
    return refused("must_understand", "a SenML label that ends in _", "shape", "must be understood", doctored(e=e))


@case
def gap_outside() -> Case:
    at = third().at
    gap = {"from": at - 10, "points": "*", "reason": "crc", "to": at}
    return refused("gap_outside", "a gap that is not in its pack", "shape", "not inside the pack", doctored(gaps=[gap]))


@case
def fourth_decimal() -> Case:
    return refused(
        "fourth_decimal", "times finer than a millisecond", "shape", "three decimals", doctored(to=third().at + 1e-4)
    )


@case
def wrong_format() -> Case:
    return refused("wrong_format", "format 2", "shape", "format 2", doctored(v=2))


@case
def wrong_unit() -> Case:
    e = third().fields()["e"]
    e[0]["u"] = "W"
    reason = "ac.power.generation comes in unit W, its birth says kW"
    stream = Stream()
    objects = feed(
        stream, [stream.make_birth(), stream.pack(e=[{**e[0], "bt": START + 0.25}, *stream.fields()["e"][1:]])]
    )
    return Case("wrong_unit", "watts where the birth says kilowatts", objects, "failed", {"rule": 1}, reason, 2)


@case
def wrong_unit_later() -> Case:
    stream = Stream()
    packs = stream.run(3)
    packs.append(stream.pack(e=[{**record, "u": "MW"} if "kW" in record.values() else record
                                for record in stream.fields()["e"]]))  # fmt: skip
    reason = "ac.power.generation comes in unit MW, its birth says kW"
    about = "another unit than the birth's, some packs after it"
    return Case("wrong_unit_later", about, feed(stream, packs), "failed", {"rule": 1}, reason, 4)


@case
def wrong_unit_before_its_birth() -> Case:
    stream = Stream()
    birth = stream.make_birth()
    e = [{**record, "u": "MW"} if "kW" in record.values() else record for record in stream.fields()["e"]]
    packs = [stream.pack(e=e), birth, stream.pack()]
    reason = "ac.power.generation comes in unit MW, its birth says kW"
    about = "another unit than the birth's, in a pack that comes before it"
    return Case("wrong_unit_before_its_birth", about, feed(stream, packs), "failed", {"rule": 1}, reason, 3)


@case
def base_value() -> Case:
    e = third().fields()["e"]
    e[0]["bv"] = 1000
    return refused("base_value", "a SenML base value, which changes readings", "shape", "'bv'", doctored(e=e))


@case
def no_clock() -> Case:
    return counted("no_clock", "a pack that says nothing of its clock", "rule", "no clock", doctored(clock={}))
