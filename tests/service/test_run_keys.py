"""Keys that change while the agent runs, the platform is away or the agent is down; a stolen one; a lost one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.keys import create_key, load_key, signed_by
from agent.verify import Verdict, Verifier
from tests.kits import tokens as token_kit
from tests.kits.books import report_of, settle
from tests.kits.house import ROOT, SITE, Agent, Heard, House, Listener, come_home, one_meter, until

KEYS = f"meterhouse/v1/{SITE}/keys"


def keys(agent: Agent, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """`meterhouse keys` as a process: (what it prints as JSON, what it complains of)."""
    line = [sys.executable, "-m", "agent.cli.main", "keys", *words, "-c", str(agent.config), "--json"]
    env = {name: value for name, value in os.environ.items() if not name.endswith("_DIRECTORY")} | agent.env
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def signers(listener: Listener, device: str) -> list[str]:
    """Who signed the packs of a stream, by sequence; each key once where it signed in a row."""
    found = {pack["seq"]: signed_by(json.dumps(pack).encode()) for pack in listener.packs(device)}
    kids = [kid for _, kid in sorted(found.items())]
    return [kid for n, kid in enumerate(kids) if n == 0 or kids[n - 1] != kid]


def signs(listener: Listener, *devices: str) -> set[str]:
    """All keys that signed packs of all these streams."""
    return set.intersection(*(set(signers(listener, device)) for device in devices))


def announced(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """Every keys object that came, in order."""
    return [json.loads(message.payload) for message in heard if message.topic == KEYS]


# --- rotations: while it runs, while the broker is away, while the agent is down; Ed25519 and ES256


def play_keys_change_hands(folder: Path, house: House) -> dict[str, Any]:
    broker, listener, meter, agent = one_meter(folder, house)
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 20, lambda: agent.said)
    chain, use = [agent.kid], []

    def rotate(*words: str) -> str:
        found, _ = keys(agent, "rotate", "--yes", *words)
        assert found["before"] == chain[-1]
        use.append((found["alg"], found.get("in_use")))
        chain.append(found["thumbprint"])
        return chain[-1]

    second = rotate("--alg", "es256")
    until(lambda: second in signs(listener, "m1", "_gateway"), 20, lambda: agent.said)
    broker.stop()
    until(lambda: not agent.snapshot()["uplinks"]["platform"]["connected"], 20)
    third = rotate()
    offline = meter.count
    until(lambda: meter.count >= offline + 3, 20)
    fourth = rotate("--alg", "ed25519")
    offline = meter.count
    until(lambda: meter.count >= offline + 3, 20)
    broker.start()
    until(lambda: fourth in signs(listener, "m1"), 40, lambda: agent.said)
    until(lambda: third in signs(listener, "m1"), 40, "the backlog")
    agent.kill()
    rotate()
    agent.kid, last = chain[0], rotate("--alg", "es256")
    agent.start()
    until(lambda: last in signs(listener, "m1", "_gateway"), 20, lambda: agent.said)
    said = agent.said
    code = come_home(agent, listener)
    report = settle(listener.heard, chain[0], {"m1": meter})
    return {
        "chain": chain, "use": use, "code": code, "report": report, "heard": list(listener.heard), "said": said,
        "signers": signers(listener, "m1"), "events": listener.events("_gateway"),
        "gateway": signers(listener, "_gateway"),
    }  # fmt: skip


def test_keys_change_hands(played: dict[str, Any]) -> None:
    """Old data stays good, the chains go on, and nobody who verifies has to do anything."""
    # field pain: the key life cycle of a site
    chain, report = played["chain"], played["report"]
    assert played["code"] == 0 and report.verdict is Verdict.VERIFIED
    assert played["use"] == [("ES256", True), ("ES256", True), ("Ed25519", True), ("Ed25519", None), ("ES256", None)]
    # the one before last was replaced before the agent ever saw it: it signed records and no pack
    assert played["signers"] == [*chain[:4], chain[5]]
    changes = dict.fromkeys((e["old"], e["new"]) for e in played["events"] if e["event"] == "key")
    assert list(changes) == [(chain[0], chain[1]), (chain[1], chain[2]), (chain[2], chain[3])]
    objects = announced(played["heard"])
    assert [record["kid"] for record in objects[-1]["records"]] == chain
    assert [o["counter"] for o in objects] == sorted(o["counter"] for o in objects), "never an old one again"
    # on a busy machine a device's stream may be some packs behind the others when the key changes
    assert played["gateway"] == [kid for kid in chain if kid in played["gateway"]], "one border, no way back"
    assert set(chain[:2]) <= set(played["gateway"])
    for pin in (chain[2], chain[-1]):
        assert report_of(played["heard"], pin).verdict is Verdict.VERIFIED, "any key of the chain may be pinned"
    assert report_of(played["heard"], "A" * 43).verdict is Verdict.FAILED


# --- the wrong key in the place of the right one


def play_a_wrong_key(folder: Path, house: House) -> dict[str, Any]:
    _, listener, meter, agent = one_meter(folder, house)
    path = folder / agent.state / "signing.key"
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 2, 20, lambda: agent.said)
    right = path.read_bytes()
    path.unlink()
    until(lambda: "the key file is missing" in agent.said, 20, lambda: agent.said)
    _, advice = keys(agent, "create", code=2)
    other = create_key(folder / "other.key", 1_795_500_000)
    (folder / "other.key").rename(path)
    assert load_key(path).kid == other.kid
    until(lambda: "the newest recorded key is" in agent.said, 20, lambda: agent.said)
    seen = len(listener.numbers("m1"))
    until(lambda: len(listener.numbers("m1")) > seen + 3, 20, lambda: agent.said)
    shown, _ = keys(agent, "show")
    warned = agent.said
    agent.kill()  # with readings in its ring
    agent.start(serving=False)
    refused = agent.wait()
    refusal = agent.said
    path.unlink()
    path.write_bytes(right)
    path.chmod(0o600)
    agent.start()
    seen = len(listener.numbers("m1"))
    until(lambda: len(listener.numbers("m1")) > seen, 20, lambda: agent.said)
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, {"m1": meter})
    return {"warned": warned, "refused": refused, "refusal": refusal, "code": code, "report": report,
            "shown": shown, "advice": advice, "kid": agent.kid, "signers": signers(listener, "m1")}  # fmt: skip


def test_a_wrong_key(played: dict[str, Any]) -> None:
    """A running agent keeps the key that it has, a starting one refuses; neither signs a single pack with it."""
    # field pain: nothing is lost by bad input
    assert played["signers"] == [played["kid"]] and played["shown"]["in_use"] is False
    assert played["warned"].count("keeping the current signing key") == 2
    assert f"create --lost {played['kid']}" in played["advice"]
    assert (played["refused"], played["code"]) == (3, 0)
    assert f"the newest recorded key is {played['kid']}" in played["refusal"] and "--lost" in played["refusal"]


# --- a stolen key


def play_a_stolen_key(folder: Path, house: House) -> dict[str, Any]:
    """The agent goes on all the while; the thief signs on too."""
    _, listener, meter, agent = one_meter(folder, house)
    thief = load_key(folder / agent.state / "signing.key")
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 20, lambda: agent.said)
    found, _ = keys(agent, "revoke", thief.kid[:8], "--yes")
    until(lambda: found["thumbprint"] in signs(listener, "m1", "_gateway"), 20, lambda: agent.said)
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, {"m1": meter})
    last = max((p for p in listener.packs("m1")), key=lambda pack: pack["seq"])
    forged = {name: value for name, value in last.items() if name != "sig"} | {"seq": last["seq"] + 1}
    return {"found": found, "code": code, "report": report, "heard": list(listener.heard), "packs": listener.packs(),
            "thief": thief, "forged": thief.sign_object("mh-pack", forged)}  # fmt: skip


def test_a_stolen_key(played: dict[str, Any]) -> None:
    """All that the gateway itself sealed with it stays good to the last pack; what a thief signs is refused."""
    thief, found = played["thief"], played["found"]
    assert played["code"] == 0 and played["report"].verdict is Verdict.VERIFIED and found["in_use"] is True
    by_thiefs_key: dict[str, int] = {}
    for pack in played["packs"]:
        if signed_by(json.dumps(pack).encode()) == thief.kid:
            by_thiefs_key[pack["stream"]] = max(by_thiefs_key.get(pack["stream"], 0), pack["seq"])
    assert found["revoked"] == {"kid": thief.kid, "last": by_thiefs_key}
    verifier = Verifier([found["thumbprint"]])
    for message in played["heard"]:
        verifier.feed(message.payload, message.topic)
    verifier.feed(played["forged"], f"meterhouse/v1/{SITE}/m1/readings")
    report = verifier.finish()
    assert report.verdict is Verdict.FAILED and report.failures == {"revoked": 1}
    assert "trusted up to sequence" in report.faults[0].reason


# --- a lost key


def play_a_lost_key(folder: Path, house: House) -> dict[str, Any]:
    _, listener, _, agent = one_meter(folder, house)
    path = folder / agent.state / "signing.key"
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 20, lambda: agent.said)
    assert agent.stop() == 0
    path.unlink()
    found, _ = keys(agent, "create", "--lost", agent.kid, "--yes")
    agent.start()
    until(lambda: found["thumbprint"] in signs(listener, "m1", "_gateway"), 20, lambda: agent.said)
    code = come_home(agent, listener)
    out = folder / "out"
    line = [sys.executable, "-m", "agent.cli.main", "export", str(out), "-c", str(agent.config)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=200)
    pins = [arg for kid in (agent.kid, found["thumbprint"]) for arg in ("--trust", kid)]
    line = [sys.executable, "-m", "agent.cli.main", "verify", str(out), "--json"]
    verdicts = [
        subprocess.run([*line, *p], cwd=ROOT, capture_output=True, timeout=200, check=False).returncode
        for p in (pins, pins[:2])
    ]
    return {"code": code, "heard": list(listener.heard), "old": agent.kid, "new": found["thumbprint"], "found": found,
            "verdicts": verdicts}  # fmt: skip


def test_a_lost_key(played: dict[str, Any]) -> None:
    """Nobody can sign its successor: the new root is trusted where it is pinned by itself, and only there."""
    old, new = played["old"], played["new"]
    assert played["code"] == 0
    assert report_of(played["heard"], old).verdict is Verdict.FAILED
    both = Verifier([old, new])
    for message in played["heard"]:
        both.feed(message.payload, message.topic)
    report = both.finish()
    assert report.verdict is Verdict.VERIFIED, report.reasons
    (record,) = played["found"]["records"]
    assert record["instead_of"] == old and record["revokes"][0]["kid"] == old
    assert played["verdicts"] == [0, 6], "an export holds the records of both roots"


# --- a lost database


def play_a_lost_database(folder: Path, house: House) -> dict[str, Any]:
    """The key is kept, all else is gone. ES256: its records are signed in other bytes each time."""
    _, listener, _, agent = one_meter(folder, house)
    path = folder / agent.state / "signing.key"
    path.unlink()
    kid = create_key(path, int(time.time()), "ES256").kid
    codes: list[int] = []
    boundary: list[int] = []
    for _ in range(2):
        agent.start()
        checkpoints = len(pages(listener.heard))
        until(lambda n=checkpoints: len(pages(listener.heard)) > n, 20, lambda: agent.said)  # type: ignore[misc]
        codes.append(come_home(agent, listener))
        boundary.append(len(listener.heard))
        for file in (folder / agent.state).glob("store.db*"):
            file.unlink()
    return {"codes": codes, "heard": list(listener.heard), "kid": kid, "boundary": boundary[0]}


def pages(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    """Every checkpoint that came, in order."""
    return [json.loads(message.payload) for message in heard if "/checkpoint/" in message.topic]


def test_a_lost_database(played: dict[str, Any]) -> None:
    """A verifier that was there all the time refuses nothing: the counters rise, the records say the same."""
    before, after = (pages(part) for part in (played["heard"][: played["boundary"]], played["heard"]))
    counters = [page["counter"] for page in after]
    assert played["codes"] == [0, 0] and counters == sorted(set(counters))
    assert counters[len(before)] > counters[len(before) - 1] and counters[0] > 1_700_000_000
    first, *more = announced(played["heard"])
    assert more and more[-1]["counter"] == first["counter"] == 1 and more[-1] != first
    report = report_of(played["heard"], played["kid"])
    assert not report.failures, report.faults[:3]
    assert report.verdict is Verdict.INCOMPLETE, "but a stream that begins anew is told"
    assert all(stream.restarts for name, stream in report.streams.items() if name.endswith("m1"))


# --- a key that never leaves its token


def play_a_key_in_a_token(folder: Path, house: House) -> dict[str, Any]:
    if why := token_kit.why_no_token():
        pytest.skip(why)
    _, listener, meter, agent = one_meter(folder, house)
    token = token_kit.Token(folder, token_kit.module())
    agent.env |= token.env
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 2, 20, lambda: agent.said)
    found, _ = keys(agent, "rotate", "--yes", "--pkcs11", token.uri("one"))
    until(lambda: found["thumbprint"] in signs(listener, "m1", "_gateway"), 20, lambda: agent.said)
    codes = [agent.stop()]
    tokens, away = folder / "tokens", folder / "away"
    tokens.rename(away)
    tokens.mkdir()
    agent.start(serving=False)
    codes.append(agent.wait())
    refusal = agent.said
    tokens.rmdir()
    away.rename(tokens)
    agent.start()
    seen = len(listener.numbers("m1"))
    until(lambda: len(listener.numbers("m1")) > seen + 1, 20, lambda: agent.said)
    codes.append(come_home(agent, listener))
    report = settle(listener.heard, agent.kid, {"m1": meter})
    return {"codes": codes, "refusal": refusal, "report": report, "found": found, "signers": signers(listener, "m1"),
            "kid": agent.kid}  # fmt: skip


def test_a_key_in_a_token(played: dict[str, Any]) -> None:
    """From a file into the token while the agent runs, and a start without the token that says what is missing."""
    assert played["codes"] == [0, 4, 0] and "token not found" in played["refusal"]
    assert played["signers"] == [played["kid"], played["found"]["thumbprint"]]
    assert (played["found"]["alg"], played["found"]["in_token"]) == ("ES256", True)
