"""Reports at the end of a test run: the seconds of each folder, and the reasons of skipped tests."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pytest

from tests.kits.forked import SERVER


@dataclass
class Account:
    """The time that the tests of a folder took. Processor time includes the processes that the worker waited for."""

    tests: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def used_s() -> float:
    """Processor seconds of this process, of processes that it waited for, and of forked agents that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + SERVER.used_s


@dataclass(eq=False)  # pytest needs hashable plugins
class Accounts:
    """A worker adds the processor time of each test phase to its report. The main process sums these times."""

    folders: dict[str, Account] = field(default_factory=lambda: defaultdict(Account))
    skipped: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    files: dict[str, str] = field(default_factory=dict)
    _seen_s: float = field(default_factory=used_s)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Iterator[None]:
        report = yield
        now = used_s()
        report.user_properties.append(("cpu_s", now - self._seen_s))
        self._seen_s = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        folder = self.folders["/".join(PurePosixPath(report.nodeid.split("::")[0]).parts[1:-1]) or "."]
        folder.tests += report.when == "call" or report.outcome == "skipped"
        folder.wall_s += report.duration
        folder.cpu_s += report.user_properties[-1][1]
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            self.skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that is skipped as a whole; every worker reports it."""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            self.files.setdefault(report.nodeid, report.longrepr[2].removeprefix("Skipped: "))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        if len(self.folders) > 1:
            write("")
            write(f"{'folder':<14}{'tests':>7}{'seconds':>10}{'of a processor':>16}")
            for name, one in sorted(self.folders.items(), key=lambda pair: -pair[1].cpu_s):
                write(f"{name:<14}{one.tests:>7}{one.wall_s:>10.1f}{one.cpu_s:>16.1f}")
        for reason, count in sorted(self.skipped.items()):
            write(f"skipped: {count} because {reason}")
        for name, reason in sorted(self.files.items()):
            write(f"skipped: all of {name} because {reason}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Accounts(), "accounts")
