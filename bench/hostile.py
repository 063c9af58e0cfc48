"""CPU and memory that a verifier needs for hostile messages and files of at most 1 MiB, each in a separate process.

python -m bench.hostile [--only WORD] [--all]
"""

from __future__ import annotations

import argparse
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "verify")]

MOST_S, MOST_MB = 0.3, 100.0


def memory_mb(name: str) -> float:
    """A value of this process in MiB. ``name`` is its name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def child(path: Path) -> None:
    """Verify the attack in ``path``. Prints CPU seconds, growth of memory up to its peak in MiB, verdict and
    failures.
    """
    from agent.verify import Verifier
    from agent.verify.files import read_paths
    from agent.verify.report_text import as_text

    raw, topic, file, objects, trust = pickle.loads(path.read_bytes())
    verifier = Verifier(trust)
    for where, good in objects:
        verifier.feed(good, where)
    folder = path.with_suffix(".d")
    if file:
        folder.mkdir()
        (folder / file).write_bytes(raw)
    Path("/proc/self/clear_refs").write_text("5")  # this resets the peak of memory, VmHWM
    before, start = memory_mb("VmRSS"), time.process_time()
    if file:
        read_paths(verifier, [folder])
    else:
        verifier.feed(raw, topic)
    report = verifier.finish()
    as_text(report)
    took = time.process_time() - start
    print(f"{took:.3f} {memory_mb('VmHWM') - before:.1f} {report.verdict.value} {report.failures}")


def measure(wanted: str, show_all: bool) -> int:
    """Print one line for each attack, the slowest last. Returns 1 if an attack exceeds ``MOST_S`` or ``MOST_MB``."""
    from tests.kits.hostile import ATTACKS

    found: list[tuple[float, float, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, make) in enumerate(ATTACKS.items()):
            if wanted not in name:
                continue
            made = make()
            path = Path(folder) / f"{number}"
            path.write_bytes(pickle.dumps((made.raw, made.topic, made.file, made.objects, made.trust)))
            argv = [sys.executable, "-m", "bench.hostile", "--child", str(path)]
            out = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            seconds, mb, said = out.rstrip().split(" ", 2)
            found.append((float(seconds), float(mb), f"{name} ({len(made.raw):,} bytes)", said))
    over = [row for row in found if row[0] > MOST_S or row[1] > MOST_MB]
    largest = sorted(found, key=lambda row: row[1])[-5:]
    shown = sorted(found if show_all else {*sorted(found)[-5:], *largest, *over})
    print("| message or file | CPU s | MB more at the peak | verdict |\n|---|---:|---:|---|")
    for seconds, mb, name, said in shown:
        print(f"| {name} | {seconds:.3f} | {mb:.0f} | {said} |")
    print(f"\n{len(found)} attacks, {len(over)} above {MOST_S} s or {MOST_MB:.0f} MB")
    return 1 if over else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all attacks. With the option for a child process, verify only one attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="only attacks whose name contains this word")
    parser.add_argument("--all", action="store_true", help="print a line for each attack, not only for the worst")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child)
        return 0
    return measure(args.only, args.all)


if __name__ == "__main__":
    raise SystemExit(main())
