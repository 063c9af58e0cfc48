"""The checks that `doctor` makes on this machine: clock, disks, serial adapters, permissions. They change nothing."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ext.clock
from agent.cli.doctor.texts import TEXTS, text
from agent.cli.findings import Finding, find_in_disk, not_durable
from agent.config.parsers import show_bytes
from agent.mounts import IN_MEMORY, mount_of
from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.config import Config

GOOD, NOTE, FAULT = "good", "note", "fault"
OURS, LINE = 1, 4  # exit codes: OURS for a fault of the gateway itself, LINE for a fault of a device, line or adapter
LOW_SHARE: Final = 0.05  # a smaller share of free inodes on a disk is a fault
TIME_SERVICES: Final = {"systemd-timesyn": "systemd-timesyncd", "chronyd": "chrony", "ntpd": "ntpd"}
PORT_TRIERS: Final = ("ModemManager", "brltty")  # programs that send bytes to every new serial port


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    A fault has a ``hint``, which tells what to do, and a ``code``, which is the exit code.
    """

    subject: str
    state: str  # GOOD, NOTE or FAULT
    text: str
    hint: str = ""
    code: int = 0


class Results:
    """Creates results for one subject in one language."""

    def __init__(self, lang: str, subject: str) -> None:
        self._lang, self._subject = lang, text(lang, subject)

    def good(self, name: str, **facts: object) -> CheckResult:
        """Return a good result, which has no hint."""
        return CheckResult(self._subject, GOOD, text(self._lang, name, **facts))

    def note(self, name: str, **facts: object) -> CheckResult:
        """Return a note, which is not a fault. It has a hint if ``TEXTS`` has one."""
        hint = text(self._lang, f"{name}!", **facts) if f"{name}!" in TEXTS else ""
        return CheckResult(self._subject, NOTE, text(self._lang, name, **facts), hint)

    def fault(self, name: str, code: int = OURS, hint: str = "", **facts: object) -> CheckResult:
        """Return a fault with advice.

        ``hint`` is the key of the advice in ``TEXTS``; by default it is ``name`` with "!".
        """
        todo = text(self._lang, hint or f"{name}!", **facts)
        return CheckResult(self._subject, FAULT, text(self._lang, name, **facts), todo, code)

    def found(self, findings: Iterable[Finding]) -> Iterator[CheckResult]:
        """Yield the findings of `status` as results, so that both commands have the same rules and texts."""
        for one in findings:
            state = FAULT if one.exit_code else NOTE
            yield CheckResult(self._subject, state, one.text(self._lang), one.advice(self._lang), one.exit_code)


def check_clock(
    lang: str, now_s: float | None = None, state: ext.clock.ClockState | None = None, programs: set[str] | None = None
) -> Iterator[CheckResult]:
    """Check that the date is plausible, that the clock is synchronised, and that a time service runs."""
    results, state = Results(lang, "clock"), state or ext.clock.state()
    now_s = time.time() if now_s is None else now_s
    if now_s < os.path.getmtime(__file__) - 86_400:
        yield results.fault("clock old", at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s)))
    running = running_programs() if programs is None else programs
    service = next((name for program, name in TIME_SERVICES.items() if program in running), "")
    if state.synced is None:
        yield results.note("clock unknown")
    elif state.synced:
        yield results.good(
            "clock good", error_ms=(state.error_us or 0) / 1000, service=f", {service}" if service else ""
        )
    else:
        yield results.fault("clock bad" if service else "clock alone", hint="clock!", service=service)


def running_programs() -> set[str]:
    """Return the names of all running programs. The kernel cuts the names to 15 characters."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.add((entry / "comm").read_text().strip())
        except OSError:
            continue
    return found


# --- disks


def check_disks(config: Config, lang: str, mountinfo: str | None = None) -> Iterator[CheckResult]:
    """Check file system, read-only mount, free space and inodes of the disks of the database and of the ring.

    Args:
        mountinfo: text that tests use in place of /proc/self/mountinfo.
    """
    results = Results(lang, "disk")
    folder = _existing(config.state_dir)
    mount = mount_of(folder, mountinfo)
    if mount.read_only:
        yield results.fault("read-only", folder=folder, kind=mount.kind)
    yield from results.found(not_durable(mount.weaknesses()))
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        yield results.fault("unreadable", folder=folder, why=error.strerror)
        return
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    facts: dict[str, Any] = {"folder": folder, "kind": mount.kind, "free": show_bytes(free), "size": show_bytes(size)}
    full = [*results.found(find_in_disk(free, config.store.max_size_bytes, folder))]
    yield from full or [results.good("space", **facts)]
    if disk.f_files and disk.f_favail < LOW_SHARE * disk.f_files:
        yield results.fault("inodes", **facts)
    runtime_dir = _existing(config.runtime_dir)
    if (ring := mount_of(runtime_dir, mountinfo)).kind not in IN_MEMORY:
        yield results.note("ring on disk", folder=runtime_dir, kind=ring.kind)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


# --- serial adapters


def check_adapters(config: Config, user: str | None, lang: str, agent_pid: object = None) -> Iterator[CheckResult]:
    """Check that the configured serial ports exist, that the agent may open them, and that no other process uses them.

    Args:
        user: the user as whom the agent runs; None if not known.
        agent_pid: the process number of the agent that runs here; None if none runs.
    """
    results = Results(lang, "adapter")
    ports = {line.name: Path(line.url.partition(":")[2]) for line in config.lines if line.scheme == "serial"}
    programs = running_programs() if ports else set()
    for line, port in ports.items():
        facts: dict[str, Any] = {"line": line, "port": port}
        if not os.path.exists(port):
            yield results.fault("port missing", LINE, here=", ".join(serial_ports()) or text(lang, "none"), **facts)
        elif user and not may_open(port, user, write=True):
            yield results.fault("port forbidden", LINE, user=user, group=_group_of(port), **facts)
        elif holders := [program for pid, program in processes_with(port) if pid not in (os.getpid(), agent_pid)]:
            yield results.fault("port held", LINE, holders=", ".join(holders), **facts)
        elif trier := next((program for program in PORT_TRIERS if program in programs), None):
            yield results.note("port tried", program=trier, **facts)
        else:
            yield results.good("port", **facts)


def serial_ports(folder: Path = Path("/dev/serial/by-id")) -> list[str]:
    """Return the stable names of the connected serial adapters. A stable name remains when its adapter is replugged."""
    return sorted(map(str, folder.iterdir())) if folder.is_dir() else []


def processes_with(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, "name (number)") of each process that has this file open, if this user may see the process."""
    real = os.path.realpath(path)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.path.realpath(fd) == real for fd in (entry / "fd").iterdir()):
                yield int(entry.name), f"{clean_text((entry / 'comm').read_text().strip(), 20)} ({entry.name})"
        except OSError:
            continue


def _group_of(path: Path) -> str:
    gid = path.stat().st_gid
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


# --- permissions


def agent_user(config: Config) -> str | None:
    """Return the user as whom the agent runs, which is the owner of its state directory.

    None if there is no state directory, or if its owner has no name.
    """
    try:
        return pwd.getpwuid(os.stat(config.state_dir).st_uid).pw_name
    except (OSError, KeyError):
        return None


def denied(lang: str) -> CheckResult:
    """Return the fault that says that this user may not read the configuration."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return Results(lang, "permissions").fault("denied", 3, user=user)


def check_permissions(config: Config, user: str | None, lang: str) -> Iterator[CheckResult]:
    """Check that the agent's user can read its files, that its key is private, and that no secret is world-accessible.

    Missing files are not reported here, because `check` reports them. ``user`` is None if the agent has not run here.
    """
    results = Results(lang, "permissions")
    if user is None:
        yield results.note("never ran", folder=config.state_dir)
        return
    from agent.cli.check import lost_key
    from agent.cli.file_findings import open_to_others

    faults = [results.fault("key lost", file=config.key.file)] if lost_key(config) else []
    for file, secret in _files(config):
        if not os.path.exists(file):
            continue
        if not may_open(file, user):
            faults.append(results.fault("may not read", user=user, file=file))
        elif file == config.key.file:  # the agent accepts fewer modes of this file than of other secrets
            faults += results.found(open_to_others(str(file), os.stat(file)))
        elif secret and stat.S_IMODE(os.stat(file).st_mode) & 0o007:
            faults.append(results.fault("open secret", file=file))
    yield from faults or [results.good("permitted", user=user)]


def _files(config: Config) -> Iterable[tuple[Path, bool]]:
    """Yield (file, True if the file is secret) for each file that the agent reads."""
    yield from ((file, False) for file in config.files)
    yield from ((file, True) for file in secret_files(config))
    for uplink in config.uplinks:
        yield from ((file, False) for file in (uplink.ca_file, uplink.cert_file) if file)


def secret_files(config: Config) -> Iterable[Path]:
    """Yield the files with secrets that the configuration names."""
    if config.key.file:
        yield config.key.file
    for uplink in config.uplinks:
        if uplink.key_file:
            yield uplink.key_file
        if uplink.password and uplink.password.file:
            yield uplink.password.file


def may_open(path: Path, user: str, write: bool = False) -> bool:
    """True if the permission bits of a file and of all folders above allow a user to open it. ACLs are ignored."""
    entry = pwd.getpwnam(user)
    if entry.pw_uid == 0:
        return True
    groups, real = set(os.getgrouplist(user, entry.pw_gid)), Path(os.path.realpath(path))

    def allows(facts: os.stat_result, wanted: int) -> bool:
        shift = 6 if facts.st_uid == entry.pw_uid else 3 if facts.st_gid in groups else 0
        return facts.st_mode >> shift & wanted == wanted

    try:
        return all(allows(os.stat(folder), 1) for folder in real.parents) and allows(os.stat(real), 6 if write else 4)
    except OSError:
        return False


# --- versions


def versions() -> Mapping[str, str]:
    """Return name -> version, for meterhouse, the system and the libraries; "-" if a version is not known."""
    import platform
    import sqlite3
    import ssl
    from importlib.metadata import PackageNotFoundError, version

    import agent
    from drivers.registry import all_protocols

    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "-")
    except OSError:
        system = "-"
    found = {
        "meterhouse": agent.__version__,
        "Python": platform.python_version(),
        "system": system,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "SQLite": sqlite3.sqlite_version,
        "OpenSSL": ssl.OPENSSL_VERSION,
    }
    libraries = [name for protocol in all_protocols() for name in protocol.libraries]
    for name in ("paho-mqtt", *libraries, "pyserial", "cryptography", "uvloop"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found
