"""Anything taken out of a folder, by chance and several things at once, held against a slow and simple judge."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.kits.folders import CHECKPOINTS, NAMES, NEW, OLD, Files, judge, packs_of, whole, write
from tests.kits.signed import keys, payload_hash
from tests.verify.make_vectors import VECTORS

WHOLE = whole()
ROUNDS = 42
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))]


def slow_verdict(files: Files) -> tuple[str, list[str]]:
    """By sets of numbers alone: every signature is known to hold."""
    pages: dict[int, dict[int, Any]] = defaultdict(dict)
    streams: dict[str, dict[int, Any]] = defaultdict(dict)
    for raw in (raw for name, lines in files.items() if name != "keys.json" for raw in lines):
        value = json.loads(raw)
        if "heads" in value:
            pages[value["counter"]][value["page"]] = value
        else:
            streams[value["stream"]][value["seq"]] = {**value, "hash": payload_hash(raw)}
    why, heads, ends = [], defaultdict(int), {}
    for counter in sorted(pages):
        here = pages[counter].values()
        if len(here) < next(iter(here))["pages"]:
            why.append(f"checkpoint {counter}")
        for named in (named for page in here for named in page["heads"]):
            heads[named["stream"]] = max(heads[named["stream"]], named["seq"])
            ends[named["stream"]] = named["to"]
    for stream, packs in streams.items():
        first, last = min(packs), max(*packs, heads[stream])
        losses = [e for p in packs.values() for e in p.get("events", []) if e["event"] == "loss"]
        lost = {seq for e in losses for seq in range(e["first"], e["last"] + 1)}
        if set(range(first, last + 1)) - packs.keys() - lost:
            why.append(f"{stream}: a hole or no end")
        births = {pack["hash"] for pack in packs.values() if "table" in pack}
        if any(pack.get("birth", pack["hash"]) not in births for pack in packs.values()):
            why.append(f"{stream}: a birth")
        ticks = {seq - pack["part"][0]: pack["part"][1] for seq, pack in packs.items() if "part" in pack}
        for at, count in ticks.items():
            if not packs.keys() >= set(range(max(at + 1, first), at + count + 1)):
                why.append(f"{stream}: a part")
    if not streams:
        return "nothing to verify", why
    begun = min(packs[min(packs)]["to"] for packs in streams.values())
    why += [f"{stream}: all of it" for stream, to in ends.items() if stream not in streams and to > begun]
    return "incomplete" if why else "verified", why


def take_out(files: Files, rng: random.Random) -> Files:
    left = {name: list(lines) for name, lines in files.items()}
    for _ in range(rng.randint(0, 3)):
        name = rng.choice([*map(packs_of, NAMES), CHECKPOINTS])
        lines = left[name]
        if not lines:
            continue
        at, kind = rng.randrange(len(lines)), rng.choice(["one", "end", "begin", "all", "boot"])
        boot = json.loads(lines[at]).get("boot")
        left[name] = {
            "one": lines[:at] + lines[at + 1 :],
            "end": lines[:at],
            "begin": lines[at:],
            "all": [],
            "boot": [raw for raw in lines if boot is None or json.loads(raw)["boot"] != boot],
        }[kind]
    for name in map(packs_of, NAMES):
        if rng.random() < 0.5:
            rng.shuffle(left[name])
    return left


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("with_node", [False, pytest.param(True, marks=pytest.mark.process)])
def test_whatever_is_taken_out_the_verdict_is_the_slow_one(with_node: bool, seed: int, tmp_path: Path) -> None:
    """The same of the second verifier, which is started for each folder and so gets fewer."""
    if with_node and not shutil.which("node"):
        pytest.skip("no Node here: apt-get install nodejs")
    rng = random.Random(seed)
    for n in range(ROUNDS // 6 if with_node else ROUNDS):
        files = take_out(WHOLE, rng)
        want, why = slow_verdict(files)
        folder = write(files, tmp_path / str(n))
        if with_node:
            command = ["node", str(VECTORS / "check.mjs"), str(folder), OLD.kid]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            want = "incomplete" if want == "nothing to verify" else want
            assert done.stdout.splitlines()[-1].startswith(f"{want}: "), (seed, n, why, done.stdout)
        else:
            report = judge([folder])
            assert (report.verdict.value, report.failed) == (want, 0), (seed, n, why, report.reasons)


def deal_out(files: Files, rng: random.Random, folder: Path) -> list[Path]:
    """The same objects over several exports that overlap, some with an older list of keys or a file a checkpoint."""
    count = rng.randint(2, 4)
    exports: list[Files] = [{name: [] for name in files} for _ in range(count)]
    for name, lines in files.items():
        for raw in lines:
            for at in {rng.randrange(count) for _ in range(rng.randint(1, 3))}:
                exports[at][name].append(raw)
    for export in exports:
        export["keys.json"] = [keys(OLD, NEW, counter=2) if export is exports[-1] or rng.random() < 0.5 else keys(OLD)]
        if rng.random() < 0.3:
            export |= {f"more/{rng.random()}.json": [raw] for raw in export.pop(CHECKPOINTS)}
    names = rng.sample("abcdefgh", count)
    return [write(export, folder / name) for export, name in zip(exports, names, strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
def test_exports_that_overlap_come_to_the_verdict_on_all_of_them_together(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for n in range(ROUNDS // 2):
        files = take_out(WHOLE, rng)
        want, why = slow_verdict(files)
        report = judge(deal_out(files, rng, tmp_path / str(n)))
        assert (report.verdict.value, report.failed) == (want, 0), (seed, n, why, report.reasons)
