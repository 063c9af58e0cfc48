"""What was agreed with a gateway stands at the receiver: its state says the same as the verifier with that list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from agent.cli.main import cli
from agent.verify import Verifier, read_paths
from receiver.commands import platform
from receiver.database import connect
from receiver.fleet_state import FleetState, GatewayState, fleet_state
from receiver.fleet_table import MOST, print_state, why
from receiver.keeper import Keeper
from receiver.page.data import FleetData
from receiver.replays import _WANTED
from receiver.sources import Message
from receiver.store import Store
from receiver.trust import Enrolment, enrol, read_csv
from receiver.worker import Worker
from tests.kits.fleet_faults import Feed
from tests.kits.folders import CHECKPOINTS, OLD, Files, Maker, packs_of, whole
from tests.kits.signed import checkpoint, payload_hash
from tests.verify.corpus_pages import head

GATEWAY = "park7/gw01"
WHOLE = whole()
FEW: Files = {**WHOLE, packs_of("gate-meter"): []}


def messages(files: Files) -> list[tuple[str, bytes]]:
    base = f"meterhouse/v1/{GATEWAY}"
    found = [(f"{base}/keys", raw) for raw in files["keys.json"]]
    packs = [raw for name, lines in files.items() if name.startswith("packs/") for raw in lines]
    found += [(f"meterhouse/v1/{json.loads(raw)['stream']}/readings", raw) for raw in packs]
    return found + [(f"{base}/checkpoint/{json.loads(raw)['page']}", raw) for raw in files[CHECKPOINTS]]


def stored(dsn: str, files: Files, *streams: str, worker: Worker | None = None) -> Worker:
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(GATEWAY, [OLD.kid], list(streams))])
    worker = worker or Worker(Feed(messages(files)), [Store(dsn)])
    while worker.step(0):
        pass
    keeper = Keeper(dsn)
    while keeper.step():
        pass
    keeper.close()
    return worker


def state(dsn: str) -> GatewayState:
    with connect(dsn) as connection:
        (one,) = fleet_state(connection).gateways
        return one


@pytest.mark.parametrize(
    ("files", "streams", "verdict", "words"),
    [
        (FEW, (), "incomplete", "withheld 19"),
        (FEW, ("inv1",), "verified", ""),
        (FEW, ("inv*", "_indicators-*"), "verified", ""),
        (FEW, ("gate_meter", "gate?meter"), "incomplete", "withheld 19"),
        (WHOLE, ("inv1",), "verified", "streams that were not asked for: gate-meter"),
        (WHOLE, ("inv1", "gate-*", "inv2"), "incomplete", "agreed streams that appear in no pack or checkpoint: inv2"),
        ({**WHOLE, packs_of("_gateway"): []}, ("inv1", "gate-meter"), "incomplete", "withheld 19"),
        ({**WHOLE, packs_of("inv1"): WHOLE[packs_of("inv1")][:-2]}, ("inv1", "gate-meter"), "incomplete", "withheld 2"),
        (
            {**WHOLE, packs_of("inv1"): WHOLE[packs_of("inv1")][:-2]},
            ("gate-meter",),
            "verified",
            "streams that were not asked for: inv1",
        ),
    ],
)
def test_the_state_of_a_gateway_follows_its_list(
    dsn: str, files: Files, streams: tuple[str, ...], verdict: str, words: str
) -> None:
    stored(dsn, files, *streams)
    one = state(dsn)
    said = [text for text in why(one).split(", ") if not text.startswith("stopped ")]  # gaps that the gateway states
    page = FleetData([dsn]).gateway(GATEWAY)
    assert page is not None
    for part in ("verdict", "missing", "lost", "withheld", "due_missing", "unasked", "unnamed", "completeness"):
        assert getattr(page.state, part) == getattr(one, part), part
    assert one.verdict == verdict and words in why(one) and bool(words) == bool(said), (said, one)


def test_a_list_is_replaced_and_nothing_is_asked_for_again_that_was_not_agreed(dsn: str) -> None:
    cut = {**WHOLE, packs_of("gate-meter"): WHOLE[packs_of("gate-meter")][:-3]}
    stored(dsn, cut)
    limits = {"settled": 0, "most": 100, "limit": 10}
    with connect(dsn) as connection:
        assert [row[1] for row in connection.execute(_WANTED, limits)] == [f"{GATEWAY}/gate-meter"]
        for streams, wanted in ((["inv1"], 0), (["inv1", "gate-*"], 1), ([], 1), (["_*"], 0), (["*"], 1)):
            enrol(connection, [Enrolment(GATEWAY, [OLD.kid], streams)])
            assert len(connection.execute(_WANTED, limits).fetchall()) == wanted, streams


def test_the_evidence_and_the_list_come_to_the_same_verdict_at_the_verifier(dsn: str, tmp_path: Path) -> None:
    stored(dsn, FEW, "inv1", "meter-*")
    folder = tmp_path / "evidence"
    done = CliRunner().invoke(platform, ["audit", str(folder), "--of", "park7", "--db", dsn])
    assert done.exit_code == 0 and f'--streams "{GATEWAY}=inv1,meter-*"' in done.output.splitlines(), done.output
    assert CliRunner().invoke(cli, ["verify", str(folder), "--trust", OLD.kid]).exit_code == 6
    agreed = ["--streams", f"{GATEWAY}=inv1,meter-*"]
    done = CliRunner().invoke(cli, ["verify", str(folder), "--trust", OLD.kid, *agreed])
    assert done.exit_code == 0, done.output
    verifier = Verifier([OLD.kid], streams=["gate-meter"])
    read_paths(verifier, [folder])
    assert verifier.finish().withheld == [f"{GATEWAY}/gate-meter"]


def test_a_page_that_the_newest_checkpoint_no_longer_has_is_not_in_the_evidence(dsn: str, tmp_path: Path) -> None:
    """An honest gateway with fewer streams than before was incomplete at the verifier, for the page left behind."""
    maker = Maker()
    maker.run(3)
    first = maker.checkpoint()
    maker.run(2)
    heads = [head(stream) for stream in maker.streams.values()]
    last = checkpoint(heads, OLD, maker.counter + 1, prev=payload_hash(first[0]), time=maker.streams["inv1"].at + 5)
    for name, pages, code in (("shrunk", [*first, last], 0), ("held back", [first[0]], 6)):
        with connect(dsn) as connection:
            connection.execute("TRUNCATE checkpoints, checkpoint_heads")
        stored(dsn, {**maker.files, CHECKPOINTS: pages})
        folder = tmp_path / name
        assert CliRunner().invoke(platform, ["audit", str(folder), "--of", "park7", "--db", dsn]).exit_code == 0
        done = CliRunner().invoke(cli, ["verify", str(folder), "--trust", OLD.kid])
        assert done.exit_code == code, done.output
        if name == "shrunk":  # the page of a stolen key takes none away
            with connect(dsn) as connection:
                connection.execute(
                    "UPDATE gateways SET revoked = jsonb_build_object(c.signer, '{}') FROM checkpoints c"
                )
            folder = tmp_path / "revoked"
            assert CliRunner().invoke(platform, ["audit", str(folder), "--of", "park7", "--db", dsn]).exit_code == 0
            assert len([*folder.rglob("checkpoint*.json")]) == 2


def test_patterns_are_read_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text(f"{GATEWAY},{OLD.kid},inv1 meter-* _indicators\n")
    assert read_csv(file)[0].streams == ["inv1", "meter-*", "_indicators"]
    file.write_text(f"{GATEWAY},{OLD.kid},inv[12]\n")
    with pytest.raises(Exception, match="inv"):
        read_csv(file)


class Typed(Feed):
    """Packs as frames, with a content type of the test's choice."""

    def __init__(self, sent: list[tuple[str, bytes]], kind: str) -> None:
        super().__init__(sent)
        for n, message in enumerate(self.left):
            packed = message.topic.endswith("/readings")
            body = zstandard.compress(message.body) if packed else message.body
            self.left[n] = Message(message.topic, body, message.token, kind if packed else "")


@pytest.mark.parametrize("kind", ["application/json+zstd", "application/octet-stream", "x" * 5000 + "\n"])
def test_frames_are_stored_as_packs_whatever_type_a_bridge_gives_them(dsn: str, kind: str) -> None:
    """The content type is not signed: an unknown one is stated and counted, and the bytes are judged."""
    worker = stored(dsn, WHOLE, worker=Worker(Typed(messages(WHOLE), kind), [Store(dsn)]))
    assert state(dsn).verdict == "verified" and not worker.totals.refused
    counted: dict[str, Any] = worker.report()["content_types"]
    packs = sum(len(lines) for name, lines in WHOLE.items() if name.startswith("packs/"))
    assert sum(counted.values()) == (0 if kind.endswith("+zstd") else packs)
    assert all(len(name) <= 70 and name.isprintable() for name in counted)


def test_a_bomb_is_refused_within_its_bounds(dsn: str) -> None:
    """Frames that would be more than a pack may be, many frames in one, a wrong size in the header, a huge window."""
    topic = f"meterhouse/v1/{GATEWAY}/inv1/readings"
    big = zstandard.ZstdCompressor(level=1, write_content_size=False)
    wide = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27))
    stream = wide.compressobj()
    bombs = [
        big.compress(bytes(64 << 20)),
        zstandard.compress(b"{}") * 1000,
        zstandard.compress(b"x" * 1000)[:-5],
        stream.compress(bytes(1 << 20)) + stream.flush(),
        b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
    ]
    sent = [*messages(WHOLE)[:1], *((topic, bomb) for bomb in bombs)]
    worker = stored(dsn, WHOLE, worker=Worker(Feed(sent), [Store(dsn)]))
    assert sum(worker.totals.refused.values()) == len(bombs) and set(worker.totals.refused) <= {"size", "zstd"}


def test_the_table_shows_who_lost_packs_and_counts_what_was_due_in_missing_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    well = [GatewayState(f"site/gw{n:03}", 1000, 10, 1000, 1000, 0, 0, 0, 0, 0) for n in range(MOST + 5)]
    poorer = GatewayState("site/gw999", 1000, 8, 800, 900, 100, 0, 0, 2, 0)
    short = GatewayState("site/short", 1000, 9, 900, 900, 0, 0, 1, 0, 0, due_missing=100, refused=1)
    short.refused_why = (
        "the signature does not fit the bytes of this pack, which came by a bridge that wrote it anew "
        "(key ChVi6Y6WoIxmX_aCRg)"
    )
    nearly = GatewayState("site/nearly", 1_000_000, 8, 800, 1_000_000, 1, 0, 1, 0, 0)
    print_state(FleetState([nearly], [], 0, 0))
    assert "99.99 %" in capsys.readouterr().out, "one missing reading of a million is not rounded away"
    print_state(FleetState([*well, poorer, short], [], 0, 0))
    shown = capsys.readouterr().out
    assert "site/gw999" in shown and "verified gateways that are not listed: 6" in shown
    assert (
        "refused 1 (the signature does not fit the bytes of this pack, which came by a bridge that wrote it anew ...)"
        in shown
    )
    assert (
        f"{MOST * 1000 + 6700} of {MOST * 1000 + 6900} due readings (missing readings in stated gaps: 100); "
        "1 pack missing, 2 lost" in shown
    )
