"""Streams that were agreed: others are not asked for, and whoever holds back what was agreed is found."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.verify import verify
from agent.verify import AgreedStreams, Report, Verifier
from agent.verify.files import read_paths
from agent.verify.report_text import as_text
from tests.kits.folders import CHECKPOINTS, OLD, Files, Maker, packs_of, whole, write
from tests.kits.signed import BOOTS, Stream, checkpoint, keys
from tests.verify.corpus_pages import head

WHOLE = whole()
GATEWAY = "park7/gw01"
INV1, METER = f"{GATEWAY}/inv1", f"{GATEWAY}/gate-meter"
FEW: Files = {**WHOLE, packs_of("gate-meter"): []}  # what a platform gets that asked for inv1
Judge = Callable[..., Report]


@pytest.fixture
def verdict(tmp_path: Path) -> Judge:
    count = itertools.count()

    def judge(files: Files, *streams: str, trust: tuple[str, ...] = (OLD.kid,)) -> Report:
        verifier = Verifier(trust, streams=streams)
        read_paths(verifier, [write(files, tmp_path / str(next(count)))])
        return verifier.finish()

    return judge


def test_heads_of_other_streams_are_not_asked_for(verdict: Judge) -> None:
    assert verdict(FEW).withheld == [METER], "without a list, all of it must be there"
    for streams in (["inv1"], ["inv*"], [f"{GATEWAY}=inv1"], ["inv1", "_gateway"], ["nothing-*", "inv1"]):
        report = verdict(FEW, *streams)
        assert report.ok and not report.withheld and report.agreed == sorted(streams), (streams, report.reasons)
        assert not report.streams[METER].asked and report.streams[INV1].asked
        assert f"{GATEWAY}: streams that were not asked for: gate-meter" in as_text(report).splitlines()
        assert not any(line.startswith(METER) for line in as_text(report).splitlines()), "no row and no remark of it"
        assert not [text for text in report.shortfalls() if METER in text]
    assert verdict(FEW, "park7/gw02=inv1").withheld == [METER], "a list of another gateway"


@pytest.mark.parametrize("name", ["inv1", "gate-meter", "_gateway"])
@pytest.mark.parametrize("hide", ["", "streams.txt", "retired", "both"])
def test_an_agreed_stream_that_is_held_back_is_found(verdict: Judge, name: str, hide: str) -> None:
    """Whatever the folder or the gateway says of it: that it was not requested, or that its device is gone."""
    files = {**WHOLE, packs_of(name): []}
    if hide in ("streams.txt", "both"):
        files["streams.txt"] = [b"gate-meter" if name != "gate-meter" else b"inv1"]
    if hide in ("retired", "both"):
        heads = [h for raw in WHOLE[CHECKPOINTS] if json.loads(raw)["counter"] == 105 for h in json.loads(raw)["heads"]]
        heads = [{**h, "retired": True} if h["stream"].endswith(name) else h for h in heads]
        files[CHECKPOINTS] = [checkpoint(heads, OLD, 50, time=json.loads(WHOLE[CHECKPOINTS][-1])["time"])]
    report = verdict(files, "inv1", "gate-meter", "_gateway")
    assert report.verdict.value == "incomplete" and report.withheld == [f"{GATEWAY}/{name}"], report.reasons
    if hide:
        assert verdict(files).ok or name == "_gateway", "without a list such a claim is taken, and repeated"


@pytest.mark.parametrize("keep", [0, 3])
def test_the_end_of_an_agreed_stream_is_found_and_that_of_another_is_not_asked_for(verdict: Judge, keep: int) -> None:
    files = {**WHOLE, packs_of("gate-meter"): WHOLE[packs_of("gate-meter")][:keep]}
    assert verdict(files, "gate-meter").verdict.value == "incomplete"
    report = verdict(files, "inv1")
    stream = report.streams[METER]
    assert report.ok and not report.missing and not stream.missing and not sum(d.missing for d in stream.days.values())


def test_a_stream_that_nothing_names_is_found_if_it_was_agreed(verdict: Judge) -> None:
    """A gateway that leaves a stream out of its checkpoints as well: the verifier's list still has it."""
    report = verdict(WHOLE, "inv1", "inv2", "spare-*")
    assert report.verdict.value == "incomplete" and report.unknown == [f"{GATEWAY}/inv2"]
    assert report.reasons == [f"{GATEWAY}/inv2: this stream was agreed, but it appears in no pack or checkpoint"]
    report = verdict(WHOLE, f"{GATEWAY}=inv1", "park7/gw02=inv1")
    assert report.unknown == ["park7/gw02/inv1"] and report.verdict.value == "incomplete", "a whole gateway"


def test_a_gateway_of_which_only_checkpoints_came_is_found(verdict: Judge) -> None:
    other = Stream("inv1", OLD, gateway="park7/gw02")
    other.run(5)
    pages = [checkpoint([head(other)], OLD, 7, gateway="park7/gw02", time=other.at)]
    files = {**WHOLE, "keys2.json": [keys(OLD, gateway="park7/gw02")], "checkpoints2.jsonl": pages}
    pins = tuple(f"park7/gw0{n}={OLD.kid}" for n in (1, 2))
    assert verdict(files, trust=pins).ok, "what it should have sent is not known"
    report = verdict(files, "park7/gw02=inv1", trust=pins)
    assert report.withheld == ["park7/gw02/inv1"] and report.verdict.value == "incomplete"


def test_foreign_streams_are_stated_and_judged_like_any_other(verdict: Judge) -> None:
    report = verdict(WHOLE, "inv1")
    assert report.ok and not report.streams[METER].asked and report.streams[METER].packs == 19
    assert f"{METER}: 19 packs arrived, although this stream was not asked for" in as_text(report).splitlines()
    forged = WHOLE[packs_of("gate-meter")][2].replace(b'"seq":3', b'"seq":4')
    broken = {**WHOLE, packs_of("gate-meter"): [*WHOLE[packs_of("gate-meter")][:2], forged]}
    assert verdict(broken, "inv1").verdict.value == "failed"


def test_holes_in_a_stream_that_was_not_asked_for_all_the_time_are_no_fault(verdict: Judge) -> None:
    """The list was changed and changed back: the packs in between went elsewhere. What came still proves a rollback."""
    lines = WHOLE[packs_of("gate-meter")]
    report = verdict({**WHOLE, packs_of("gate-meter"): lines[:4] + lines[9:]}, "inv1")
    assert report.ok and report.streams[METER].packs == len(lines) - 5, report.reasons
    made = Maker()
    made.run(3)
    made.checkpoint()
    clone = deepcopy(made.streams["gate-meter"])
    made.run(2)
    clone.restart(BOOTS[2])
    made.add("gate-meter", *clone.run(2))
    assert verdict(made.files, "inv1").verdict.value == "failed"


def test_a_list_may_differ_from_gateway_to_gateway() -> None:
    agreed = AgreedStreams(["park7/gw01=inv1", "park7/gw01=meter-*", "_indicators"])
    asked = {"park7/gw01/inv1", "park7/gw01/meter-3", "park7/gw01/_indicators", "park7/gw01/_gateway"}
    others = {"park7/gw01/inv2", "park7/gw02/inv1", "park8/gw01/inv1"}
    assert {name for name in asked | others if agreed.asked(name)} == asked
    assert not AgreedStreams(["park7/gw01=inv1"]).has_list("park7/gw02")
    assert AgreedStreams().asked("a/b/c") and not AgreedStreams()
    for wrong in ("", "a/b", "park7=inv1", "park7/gw01=", "inv1,inv2", "inv[12]", "+", "#", "in v", "x" * 65, "=inv1"):
        with pytest.raises(ValueError, match="expected a name or pattern"):
            AgreedStreams([wrong])


def test_the_command(tmp_path: Path) -> None:
    folder = str(write(FEW, tmp_path / "few"))
    for streams in (
        ["--streams", "inv1,_gateway"],
        ["--streams", f"{GATEWAY}=inv1 _gateway"],
        ["--streams", "inv1"] * 2,
    ):
        done = CliRunner().invoke(verify, [folder, "--trust", OLD.kid, *streams, "--json"])
        assert done.exit_code == 0, done.output
    assert json.loads(done.output)["agreed"] == ["inv1"]
    done = CliRunner().invoke(verify, [folder, "--trust", OLD.kid, "--streams", "inv1,gate-meter"])
    assert done.exit_code == 6 and f"{METER}: no pack is present" in done.output
    done = CliRunner().invoke(verify, [folder, "--trust", OLD.kid, "--streams", "park7=inv1"])
    assert done.exit_code != 0 and "expected a name or pattern such as inv1" in str(done.exception)
