"""``make soak``: every fault scenario again and again, long; a table as it goes, and the one of docs/reliability.md.

    python -m tests.fault.soak [--only NAME]... [--rounds N] [--seed N] [--fresh] [--into FOLDER] [--table]

Rounds are played in chunks, each with its own seed, and written down one chunk a line: what was played before is not
played again, so a soak that was ended goes on where it was. ``--table`` plays nothing and prints the tables.
Exit code 1 if the books of any chunk did not balance.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _pytest.outcomes import Skipped

from tests.kits.faults.rows import SCENARIOS, Row, Scenario, play

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = ROOT / "docs" / "reliability.md"
HEAD = "| fault | rounds | packs | readings | arrived again | stated missing | unaccounted | further |"
QUIET = {"scenario", "rounds", "seed", "seconds", "verdict", "packs", "readings", "gaps", "lost_packs", "redelivered",
         "date", "machine", "code", "codes"}  # fmt: skip
UNITS = {"s": "s", "mb": "MB", "mib": "MiB"}


def machine() -> str:
    """CPU, cores and kernel: what the figures depend on."""
    with open("/proc/cpuinfo") as lines:
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{os.cpu_count()} cores {cpu}, Linux {platform.release()}, Python {platform.python_version()}"


def read(results: Path) -> list[Row]:
    """All chunks that were played so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def soak(chosen: Sequence[Scenario], rounds: int | None, seed: int, results: Path) -> int:
    """Play what is not played yet. Returns how many chunks failed."""
    failed = 0
    for scenario in chosen:
        wanted = rounds or scenario.long
        done = sum(row["rounds"] for row in read(results) if row["scenario"] == scenario.name and "failed" not in row)
        while done < wanted:
            size = min(scenario.chunk, wanted - done)
            row = chunk(scenario.name, size, random.Random(f"{seed} {scenario.name} {done}").randrange(1 << 31))
            if row is None:
                break
            with results.open("a") as out:
                out.write(json.dumps(row, default=str) + "\n")
            print(f"{datetime.now(UTC):%H:%M:%S} {line_of(scenario.name, [row])}", flush=True)
            done += size
            failed += "failed" in row
    return failed


def chunk(name: str, rounds: int, seed: int) -> Row | None:
    """One row; what a scenario raises is in it as ``failed``. None where this machine cannot play it."""
    fixed = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    try:
        return {**play(name, rounds, seed), **fixed}
    except Skipped as why:
        print(f"{name} is skipped: {why}", flush=True)
        return None
    except Exception as error:  # noqa: BLE001 - the soak goes on with the next
        traceback.print_exc()
        failed = f"{type(error).__name__}: {error}"[:500]
        return {"scenario": name, "rounds": rounds, "seed": seed, "failed": failed, **fixed}


def in_words(key: str, value: float) -> str:
    """A figure with its name, and with the unit in which the key ends: ``longest_loss_s`` is ``longest loss 1.5 s``."""
    name, _, unit = key.rpartition("_")
    if unit not in UNITS:
        return f"{key.replace('_', ' ')} {value:.6g}"
    return f"{name.replace('_', ' ')} {value:.6g} {UNITS[unit]}"


def line_of(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One line of the table: the sums of a scenario's chunks."""
    good = [row for row in rows if "failed" not in row]
    bad = [row for row in rows if "failed" in row]
    gaps: Counter[str] = Counter()
    further: dict[str, Any] = {}
    for row in good:
        gaps.update(row.get("gaps", {}))
        for key, value in row.items():
            if key not in QUIET and isinstance(value, int | float) and not isinstance(value, bool):
                together = max if key.startswith(("most", "longest")) else min if key.startswith("least") else sum
                further[key] = together((further[key], value)) if key in further else value
    for key in further:
        if key.startswith("mean"):
            further[key] /= len(good)
    words = [in_words(key, value) for key, value in further.items()]
    stated = ", ".join(f"{reason} {count}" for reason, count in sorted(gaps.items())) or "none"
    lost = sum(row.get("lost_packs", 0) for row in good)
    sums = [str(sum(row.get(key, 0) for row in good)) for key in ("rounds", "packs", "readings", "redelivered")]
    verdict = "; ".join(f"FAILED with seed {row['seed']}: {row['failed']}" for row in bad) or "0"
    cells = [name.replace("_", " "), *sums, stated + (f"; {lost} packs in loss events" if lost else ""), verdict]
    return f"| {' | '.join(cells)} | {', '.join(words)} |"


def tables(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Markdown by section of the page."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["scenario"], []).append(row)
    found: dict[str, list[str]] = {}
    for name, scenario in SCENARIOS.items():
        if name in by_name:
            found.setdefault(scenario.section, []).append(line_of(name, by_name[name]))
    rule = "|".join(["", *["---"] * HEAD.count(" | "), "---", ""])
    where = {section: sorted({f"{r['date']}, {r['machine']}" for n, rs in by_name.items() for r in rs
                              if n in SCENARIOS and SCENARIOS[n].section == section}) for section in found}  # fmt: skip
    return {name: "\n".join([HEAD, rule, *lines, "", *where[name]]) for name, lines in found.items()}


def into_page(text: str, made: Mapping[str, str]) -> str:
    """The page with its tables exchanged: what stands between ``<!-- soak NAME -->`` and ``<!-- soak end -->``."""
    for section, table in made.items():
        head, mark, tail = text.partition(f"<!-- soak {section} -->\n")
        if mark:
            text = f"{head}{mark}\n{table}\n\n<!-- soak end -->{tail.partition('<!-- soak end -->')[2]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this scenario; may be repeated")
    parser.add_argument("--rounds", type=int, help="of each, instead of its own number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget what was played before")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "soak", help="where the results are kept")
    parser.add_argument("--table", action="store_true", help="only print the tables of what was played")
    parser.add_argument("--page", action="store_true", help=f"only write them into {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    for file in sorted(HERE.glob("play_*.py")):  # they register their scenarios
        importlib.import_module(f"tests.fault.{file.stem}")
    if unknown := [name for name in given.only if name not in SCENARIOS]:
        print(f"error: no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    given.into.mkdir(parents=True, exist_ok=True)
    results = given.into / "results.jsonl"
    if given.table or given.page:
        made = tables(read(results))
        if given.page:
            PAGE.write_text(into_page(PAGE.read_text(), made))
        else:
            print("\n\n".join(f"### {name}\n\n{table}" for name, table in made.items()))
        return 0
    if given.fresh:
        results.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it takes its processes and disks along
    subprocess.run(["uptime"], check=False)
    failed = soak([SCENARIOS[name] for name in given.only or SCENARIOS], given.rounds, given.seed, results)
    print("\n\n".join(tables(read(results)).values()))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
