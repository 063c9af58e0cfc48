"""Scenario: the power goes, again and again. The disk is as it was on the platter, and the ring is gone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.fault.play_kill import pause
from tests.kits.faults.books import figures
from tests.kits.faults.disks import CutDisk, freeze
from tests.kits.faults.home import bring_home, settled
from tests.kits.faults.rest import AtRest
from tests.kits.faults.rows import Row, scenario
from tests.kits.faults.tally import Ledger, Tally
from tests.kits.house import SITE, House, devices_on, until

PERIOD_MS = 250
PACK_S = 1.0


@scenario(rounds=2, about_s=4, long=200, chunk=50, section="processes")
def power_cuts(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """After each cut what was published is in the store, the chain goes on, and only what no pack held is missing."""
    return cuts(folder, house, rounds, seed, PACK_S)


@scenario(rounds=1, about_s=15, long=20, chunk=10, section="processes")
def power_cuts_with_packs_of_10_s(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The same with the default pack interval."""
    return cuts(folder, house, rounds, seed, 10.0)


def cuts(folder: Path, house: House, rounds: int, seed: int, pack_s: float) -> Row:
    rng = random.Random(seed)
    disk = CutDisk(house, folder)
    broker = house.broker()
    listener = house.listen(broker)
    meters = {"m1": Tally(1), "m2": Tally(2)}
    agent = house.agent(
        broker,
        {"roof": house.field.tcp(*meters.values())},
        devices_on("roof", list(meters.values())),
        every=f'{{ fast = "{PERIOD_MS} ms", normal = "1 s", slow = "5 s" }}',
        state="live/state",
        more='[ring]\nsize = "1 MiB"',
    )
    agent.config.write_text(agent.config.read_text().replace('every = "1 s"', f'every = "{pack_s:g} s"'))
    agent.start()  # it was installed long ago: of what was never in a pack, nothing could be stated
    until(lambda: all(listener.numbers(name) for name in meters), 30, lambda: agent.said)
    assert agent.stop() == 0
    disk.settle()
    rest = AtRest(folder / "rest", agent.kid)
    ledgers = {name: Ledger(name, meter, PERIOD_MS) for name, meter in meters.items()}
    lost: dict[str, set[int]] = {name: set() for name in meters}
    windows: list[float] = []  # seconds from the oldest reading that a cut took to the cut
    unsealed: list[float] = []  # seconds from the end of the newest pack to the cut
    most = sealed_and_lost = 0
    for n in range(rounds):
        serving = rng.random() < 0.9
        agent.start(serving=serving)
        pause(rng.uniform(0.3, 1.4 * pack_s + 1.8) if serving else rng.uniform(0.2, 1.0))
        assert agent.process
        at = freeze(agent.process.pid)
        disk.cut()
        agent.kill()
        disk.back()
        shutil.rmtree(agent.runtime, ignore_errors=True)  # memory
        new = rest.look(disk.live / "state")
        for name, book in ledgers.items():
            book.take(new)
            assert not book.twice
            gone = set(book.missing) - lost[name]
            if gone:
                windows.append(at - book.meter.served[min(gone)] / 1e9)
                most = max(most, len(gone))
            if to_ms := rest.heads.get(f"{SITE}/{name}"):
                before = {number for number in gone if book.meter.served[number] < to_ms * 1_000_000}
                sealed_and_lost += len(before & set(book.unaccounted()))
                if serving:
                    unsealed.append(at - to_ms / 1000)
            lost[name] |= gone
        missing = rest.unstored(list(listener.heard))
        assert not missing, f"round {n}: published before the cut, and not in the store after it: {missing}"
    code = bring_home(agent, listener, meters)
    report, books = settled(listener, agent, meters, PERIOD_MS)
    for name, book in books.items():
        assert set(book.missing) == lost[name], f"{name}: {book.missing} did not come, {lost[name]} were lost"
    return figures(
        report,
        code=code,
        answers=sum(len(meter.served) for meter in meters.values()),
        answers_lost=sum(map(len, lost.values())),
        most_lost_of_one_device=most,
        sealed_and_lost=sealed_and_lost,
        longest_loss_s=round(max(windows, default=0.0), 3),
        mean_loss_s=round(sum(windows) / max(len(windows), 1), 3),
        longest_time_unsealed_s=round(max(unsealed, default=0.0), 3),
    )
