"""Whose key is it? A bare thumbprint is believed for any gateway, so with several it is not enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli.verify import verify
from agent.verify import Verdict, Verifier, keyring
from agent.verify.live import Live
from tests.kits.signed import Key, Stream, key_record, keys, keys_object
from tests.verify.corpus_bounds import two_gateways
from tests.verify.test_verify_live import Publisher, wait_for

ONE, TWO = Key(1), Key(2)
BARE = ["--trust", ONE.kid, "--trust", TWO.kid]
NAMED = ["--trust", f"park7/gw01={ONE.kid}", "--trust", f"park7/gw02={TWO.kid}"]


def judge(folder: Path, *pins: str) -> Result:
    return CliRunner().invoke(verify, [str(folder), *pins])


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """An export of two gateways, each with its own key."""
    objects, _, _ = two_gateways()
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(raw for _, raw in objects))
    return tmp_path


def test_bare_thumbprints_fail_where_there_are_two_gateways(two: Path) -> None:
    """It was exit code 0, without a remark: B could sign for A."""
    done = judge(two, *BARE)
    assert done.exit_code == 6 and "park7/gw01, park7/gw02" in done.output
    assert "pin each thumbprint as SITE/GATEWAY=THUMBPRINT" in done.output and "first fault: : " not in done.output
    facts = json.loads(judge(two, *BARE, "--json").output)
    assert facts["verdict"] == "failed" and "SITE/GATEWAY=" in facts["reasons"][0]
    assert facts["first_bad"]["code"] == "pin" and facts["failed"] == 0
    assert judge(two, *NAMED).exit_code == 0


def test_one_bare_thumbprint_among_named_ones_is_bare(two: Path) -> None:
    assert judge(two, NAMED[0], NAMED[1], "--trust", TWO.kid).exit_code == 6


def test_the_files_of_one_gateway_need_no_name(tmp_path: Path) -> None:
    stream = Stream(key=ONE)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(ONE), *stream.run(3)]))
    assert judge(tmp_path, "--trust", ONE.kid).exit_code == 0
    assert judge(tmp_path, *BARE).exit_code == 0, "a pin of whom nothing is here"


def test_a_wrong_thumbprint_is_told_from_changed_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped or old thumbprint was called tampering."""
    stream = Stream(key=ONE)
    packs = stream.run(3)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(ONE), *packs]))
    for pin in (TWO.kid, f"park7/gw01={TWO.kid}"):
        done = judge(tmp_path, "--trust", pin)
        assert done.exit_code == 6 and "what to do: compare the thumbprint that you gave as --trust" in done.output, (
            done.output
        )
        assert "`meterhouse keys show`" in done.output and "find out where they were changed" not in done.output
    changed = packs[1].replace(b'"sig":"', b'"sig":"A', 1)
    assert changed != packs[1]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(ONE), packs[0], changed]))
    assert "find out where they were changed" in judge(tmp_path, "--trust", ONE.kid).output
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(ONE), *packs]))
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "请核对 --trust 给出的指纹" in judge(tmp_path, "--trust", TWO.kid).output


def test_the_advice_for_a_wrong_thumbprint_does_not_depend_on_the_words_of_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reworded(keyring.Unpinned):
        def __init__(self, code: str, text: str) -> None:
            super().__init__(code, "other words")

    monkeypatch.setattr(keyring, "Unpinned", Reworded)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(ONE), *Stream(key=ONE).run(3)]))

    done = judge(tmp_path, "--trust", TWO.kid)

    assert "other words" in done.output and "what to do: compare the thumbprint that you gave as --trust" in done.output


def test_an_owner_cannot_sign_for_anothers_gateway(two: Path) -> None:
    """B's device inside A's gateway: with names it is refused, and without it is at least no verdict."""
    forged = Stream("m9", TWO)
    chain = keys_object([key_record(TWO)], TWO, 9)
    (two / "forged.jsonl").write_bytes(b"\n".join([chain, *forged.run(3)]))
    named = judge(two, *NAMED, "--json")
    assert named.exit_code == 6 and set(json.loads(named.output)["failures"]) == {"key-chain", "kid"}
    bare = judge(two, *BARE)
    assert bare.exit_code == 6 and "SITE/GATEWAY=" in bare.output


def test_a_key_that_stands_for_a_lost_one_needs_no_name() -> None:
    """Two pins of one gateway, as docs/keys.md says."""
    from tests.verify.corpus_keys import stands_for_a_lost_key

    case = stands_for_a_lost_key()
    verifier = Verifier(case.trust)
    for topic, raw in case.objects:
        verifier.feed(raw, topic)
    assert verifier.finish().ok


@pytest.mark.broker
def test_a_second_gateway_that_comes_late_in_a_live_run(broker: Any) -> None:
    mine, other = Stream(key=ONE), Stream(key=TWO, gateway="park7/gw02")
    publisher = Publisher(broker.port)
    publisher.send("meterhouse/v1/park7/gw01/keys", keys(ONE), retain=True)
    live = Live(broker.url, [ONE.kid, TWO.kid], site="park7")
    live.start()
    for raw in mine.run(3):
        publisher.send(mine.topic(), raw)
    wait_for(live, lambda c: c[0] == 3)
    assert live.report().verdict is Verdict.VERIFIED
    publisher.send("meterhouse/v1/park7/gw02/keys", keys(TWO, gateway="park7/gw02"))
    for raw in other.run(2):
        publisher.send(other.topic(), raw)
    wait_for(live, lambda c: c[0] == 5)
    late = live.report()
    publisher.close()
    assert late.verdict is Verdict.FAILED and "SITE/GATEWAY=THUMBPRINT" in late.reasons[0]
    assert live.stop().verdict is Verdict.FAILED


@pytest.mark.broker
@pytest.mark.parametrize("version", [5, 4])
def test_a_broker_that_disobeys_is_told_in_the_verdict(version: int, unruly: Callable[..., str]) -> None:
    """Too large or at QoS 2: the connection is cut, made anew, and the verdict says what was sent."""
    for packet, said in ((b"\x30\xff\xff\xff\x7f", "268,435,455 bytes"), (b"\x34", "at QoS 2")):
        live = Live(unruly(version, packet), [ONE.kid])
        live.start()
        wait_for(live, lambda c: c[2] == 1)
        report = live.stop()
        assert report.failures == {"size": 1} and said in report.faults[0].reason
