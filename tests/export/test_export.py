"""What is exported is judged as what a broker delivers, whole or in part, and appears whole or not at all."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.store import Store
from agent.verify import Verdict
from tests.kits.exports import T0, Gateway, seqs

pytestmark = pytest.mark.process

Mh = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("options", [[], ["--zstd"]])
def test_the_whole_store_gives_the_verdict_of_the_broker(gateway: Gateway, mh: Mh, options: list[str]) -> None:
    gateway.seal(20)
    gateway.restart()
    gateway.seal(5, silent=True)
    folder = gateway.folder / "out"
    code, out, err = mh("export", folder, "-c", gateway.config, *options, "--json")
    assert code == 0, err
    there, here = gateway.broker(), gateway.folder_report(folder)
    assert here.verdict is there.verdict is Verdict.VERIFIED
    assert (here.packs, here.readings, here.gaps) == (there.packs, there.readings, there.gaps)
    assert {n: (s.first_seq, s.last_seq) for n, s in here.streams.items()} == {
        n: (s.first_seq, s.last_seq) for n, s in there.streams.items()
    }
    assert json.loads(out)["packs"] == there.packs
    code, out, err = mh("verify", folder, "--trust", gateway.signer.kid)
    assert code == 0, out + err
    assert mh("export", folder, "-c", gateway.config)[0] == 2, "an export is never overwritten"
    assert not (folder / "streams.txt").exists(), "it is of all streams"
    if options:
        return
    # a pack that was taken out is missed, and one that was put in its place is none
    file = folder / "packs" / "inv1.packs.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5] + lines[6:]))
    assert gateway.folder_report(folder).verdict is Verdict.INCOMPLETE
    file.write_bytes(b"".join(lines[:5]) + lines[5].replace(b'"seq":6', b'"seq":7') + b"".join(lines[6:]))
    assert gateway.folder_report(folder).verdict is Verdict.FAILED


def test_a_range_in_the_middle_is_verified_without_what_lies_around_it(gateway: Gateway, mh: Mh) -> None:
    """The birth in force lies beside the packs, as on a broker; a device may be called `births`."""
    gateway.seal(30)
    gateway.restart()
    gateway.seal(10)
    folder = gateway.folder / "out"
    code, _, err = mh("export", folder, "-c", gateway.config, *at(10, 20))
    assert code == 0, err
    report = gateway.folder_report(folder)
    assert report.verdict is Verdict.VERIFIED, report.reasons
    assert report.readings == 2 * 10 * 2 and not report.missing
    assert seqs(folder, "inv1") == list(range(12, 22)) and (folder / "births.jsonl").exists()
    assert sorted(p.name for p in (folder / "packs").iterdir()) == ["births.packs.jsonl", "inv1.packs.jsonl"]


def at(low: int, high: int) -> list[str]:
    """Options for seconds after T0."""
    from datetime import UTC, datetime

    low_text, high_text = (datetime.fromtimestamp(T0 / 1000 + s, UTC).isoformat() for s in (low, high))
    return ["--from", low_text, "--to", high_text]


def test_what_retention_left_is_exported_without_a_hole(gateway: Gateway, mh: Mh) -> None:
    """A birth that outlived its packs does not look like packs that were taken out."""
    gateway.seal(40)

    def prune(store: Store) -> None:
        ids = [item.id for item in store.packs.pending("platform", 0, 1000, 1 << 30)]
        store.packs.commit((), {"platform": ids})
        store.change_limits(64 << 20, 0, ["platform"], T0)  # retention is over for the first half
        store.prune(T0 + 20_000)

    gateway.keep(prune)
    folder = gateway.folder / "out"
    assert mh("export", folder, "-c", gateway.config)[0] == 0
    report = gateway.folder_report(folder)
    assert report.verdict is Verdict.VERIFIED, report.reasons
    assert seqs(folder, "inv1")[-1] == 41 and seqs(folder, "inv1")[0] > 15


def test_a_key_that_was_revoked_while_no_agent_ran_is_revoked_in_the_export(gateway: Gateway, mh: Mh) -> None:
    """The new records are in the key's file alone until the agent starts; an export must not call good what is cut."""
    gateway.seal(10)
    key = gateway.folder / "state" / "signing.key"
    options = ["-c", gateway.config, "--last", "inv1=6", "--last", "births=11", "--yes"]
    code, _, err = mh("keys", "revoke", gateway.signer.kid, *options)
    assert code == 0, err
    folder = gateway.folder / "out"
    assert mh("export", folder, "-c", gateway.config)[0] == 0
    report = gateway.folder_report(folder)
    assert report.failures == {"revoked": 5} and report.packs == 6 + 11
    key.chmod(0o644)  # whoever exports may not be allowed to read it: then it is said
    code, _, err = mh("export", gateway.folder / "again", "-c", gateway.config)
    assert code == 0 and "because the key file cannot be used: others may read or change the signing key" in err, err


def test_csv_has_every_reading_with_its_exact_value(gateway: Gateway, mh: Mh) -> None:
    gateway.seal(6)
    file = gateway.folder / "readings.csv"
    code, out, err = mh("export", "--csv", file, "-c", gateway.config, "--stream", "inv1", *at(2, 5))
    assert code == 0 and "6 readings" in out, err
    assert file.read_bytes().startswith(b"\xef\xbb\xbf"), "spreadsheets need it to read Chinese texts"
    rows = list(csv.DictReader(file.open(encoding="utf-8-sig")))
    assert [row["point"] for row in rows] == ["ac.power.active", "ac.energy.import"] * 3
    assert rows[0]["time"] == "2026-11-24T06:00:02.040Z"
    assert rows[1] == {**rows[1], "device": "inv1", "unit": "W", "quality": "good"}
    assert [row["value"] for row in rows if row["point"] == "ac.energy.import"] == [
        f"{(12345678901234560 + n) // 1000}.{(12345678901234560 + n) % 1000:03d}".rstrip("0") for n in (5, 7, 9)
    ]


def test_consecutive_csv_files_have_every_reading_once(gateway: Gateway, mh: Mh) -> None:
    """A late reading is in a pack that ends before it was taken; the CSV file of its own time did not have it."""
    gateway.seal(6, late_ms=1040)
    found = []
    for low, high in ((0, 3), (3, 6), (6, 9)):
        file, folder = gateway.folder / f"{low}.csv", gateway.folder / str(low)
        args = ["--csv", file, "-c", gateway.config, "--stream", "inv1", *at(low, high), "--json"]
        code, out, err = mh("export", *args)
        assert code == 0, err
        found += list(csv.DictReader(file.open(encoding="utf-8-sig")))
        if low < 6:
            file.unlink()
            code, out, err = mh("export", folder, *args)
            assert code == 0 and json.loads(out)["packs"] == len(seqs(folder, "inv1")), err
            assert seqs(folder, "inv1")[-3:] == list(range(low + 2, high + 2)), (
                "the folder has no pack before its range"
            )
    assert [row["time"][17:23] for row in found] == [f"0{n}.040" for n in range(1, 7) for _ in range(2)]
    code, _, err = mh("export", "--csv", gateway.folder / "none.csv", "-c", gateway.config, *at(9, 99))
    assert code == 1 and "the database has no packs in this time range" in err


def test_complaints(gateway: Gateway, mh: Mh) -> None:
    gateway.seal(2)
    config = gateway.config
    for args, code, word in [
        ([], 2, "FOLDER"),
        ([gateway.folder / "x", "--from", "yesterday"], 2, "2026-11-25T08:00"),
        ([gateway.folder / "x", "--stream", "inv9"], 2, "Known: births, inv1"),
        ([gateway.folder / "x", "--to", "2020-01-01"], 1, "the database has no packs in this time range"),
        ([gateway.folder / "no" / "x"], 2, "cannot write in this folder"),
        ([gateway.folder / "x", "--state-dir", gateway.folder / "none"], 1, "there is no database"),
    ]:
        found = mh("export", *args, "-c", config)
        assert found[0] == code and word in found[2], (args, found)
    assert not list(gateway.folder.glob("*x*")) and not list(gateway.folder.glob(".x*"))


def test_a_store_that_is_in_use_is_left_alone(gateway: Gateway, mh: Mh) -> None:
    gateway.seal(2)
    store = Store.open(gateway.folder / "state" / "store.db", 64 << 20, destinations=["platform"])
    try:
        code, _, err = mh("export", gateway.folder / "x", "-c", gateway.config)
    finally:
        store.close()
    assert code == 1 and "the database is in use by another process" in err and not (gateway.folder / "x").exists()


def test_killed_in_the_middle_it_leaves_no_folder(gateway: Gateway) -> None:
    """kill -9 at any moment: there is no folder, or a whole one; the store is as it was."""
    gateway.seal(60)
    folder = gateway.folder / "out"
    args = [sys.executable, "-m", "agent.cli.main", "export", str(folder), "-c", str(gateway.config)]
    code = (
        "import sys, os, signal, agent.cli.output_files as e\n"
        "n, add = [0], e.FolderDraft.add\n"
        "def dying(self, file, lines):\n"
        "    add(self, file, lines); n[0] += 1\n"
        "    if n[0] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "e.FolderDraft.add = dying\n"
        "from agent.cli.main import main\n"
        f"main({args[3:]!r})\n"
    )
    died = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=200, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not folder.exists()
    subprocess.run(args, cwd=ROOT, timeout=200, check=True, capture_output=True)
    assert gateway.folder_report(folder).packs == gateway.broker().packs


def test_the_programs_of_the_docs_hold_what_was_exported(gateway: Gateway, mh: Mh) -> None:
    """The sample of verify.md and the verifier for Node read folders as `meterhouse export` makes them."""
    gateway.seal(20)
    gateway.restart()
    gateway.seal(20)
    script = gateway.folder / "check.py"
    page = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
    script.write_text(page.partition("```python\nimport base64")[2].partition("```")[0].join(["import base64", ""]))
    for name, stretch, packs, readings in (("all", [], len(gateway.made), 160), ("part", at(10, 30), 42, 80)):
        folder = gateway.folder / name
        assert mh("export", folder, "-c", gateway.config, *stretch)[0] == 0
        command: list[str | Path] = [sys.executable, script, folder, gateway.signer.kid]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.stdout == f"{packs} packs, {readings} readings hold\n", done.stderr
        if node := shutil.which("node"):
            command = [node, ROOT / "docs" / "vectors" / "check.mjs", folder, gateway.signer.kid]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            assert done.stdout == f"verified: {packs} packs of 2 streams\n", done.stdout + done.stderr


@pytest.mark.parametrize("damage", ["pages", "begun rescue"])
def test_tools_leave_a_damaged_database_of_a_stopped_agent_where_it_is(gateway: Gateway, mh: Mh, damage: str) -> None:
    """They only look: the agent sets it aside at its start, and tells in its streams what was lost."""
    gateway.seal(20)
    state = gateway.folder / "state"
    database = state / "store.db"
    if damage == "pages":
        data = bytearray(database.read_bytes())
        data[4096:] = b"\xee" * (len(data) - 4096)
        database.write_bytes(data)
    else:
        (state / "store.db.damaged-20261127T000000Z").write_bytes(b"x")
        (state / "store.db.salvage").write_text("store.db.damaged-20261127T000000Z")
    before, names = database.read_bytes(), {path.name for path in state.iterdir()}
    for words in (("export", gateway.folder / "out"), ("report",), ("declare",)):
        code, _, err = mh(*words, "-c", gateway.config)
        assert code == 1 and "the database is damaged" in err and "Nothing was changed. Start the agent" in err, err
    assert database.read_bytes() == before and not (gateway.folder / "out").exists()
    new = {path.name for path in state.iterdir()} - names
    assert not [name for name in new if "damaged" in name or "salvage" in name], new
    store = Store.open(database)
    store.close()
    assert store.quarantine is not None, "and the agent finds it as it was"
