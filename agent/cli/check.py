"""`meterhouse check`: checks the configuration, and shows the planned requests and the load of each line."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import as_complaint, as_line, say, speaks_chinese
from agent.cli.options import ConfigOptions, config_options, json_option, lang_option
from drivers.model import ConfigError, GatewayError, ProfileError

if TYPE_CHECKING:
    from agent.cli.line_load import PaceCost
    from agent.config import Config, ConfigWarning, RingPlan
    from drivers.profile import Profile


@click.command()
@config_options
@click.option(
    "--plan",
    is_flag=True,
    help="For each pace of each device, also show the number of requests and registers, and how long the requests "
    "occupy the line.",
)
@click.option("--online", "try_online", is_flag=True, help="Also contact every device and destination.")
@click.option(
    "--certificates",
    is_flag=True,
    help="Only list the certificates, with a warning for each one that has expired or expires within 30 days.",
)
@lang_option
@json_option
def check(options: ConfigOptions, plan: bool, try_online: bool, certificates: bool, lang: str, as_json: bool) -> None:
    """Check configuration and profiles, and show what will take effect.

    Opens no port and contacts no device. Missing ports, files and folders are warnings only,
    because the agent starts without any device.

    With --online the command reads a few points of each device, and checks for each destination: host name, TLS,
    login, the right to publish, and whether anybody subscribes. It sends no signed data. If the agent is running, it
    lends its lines to the command; the agent's readings of that time are then missing, with the
    reason `lent`.

    \b
    Examples:
      meterhouse check
      meterhouse check --plan -c agent.toml
      meterhouse check --online
      meterhouse check --json | jq .complaints

    \b
    Exit codes: 0 good (warnings included); 1 internal error; 3 bad configuration or profile;
    4 with --online: a device does not answer, or points are missing;
    5 with --online: a destination is not usable, or with --certificates: a certificate expires soon, has expired
    or cannot be read.
    """
    from agent.cli.online import online
    from agent.config import load_profiles, memory_notes, ring_notes

    try:
        config = options.load()
        if certificates:
            from agent.cli.certificates import report

            raise SystemExit(report(config, as_json))
        from agent.cli.line_load import plan_costs, plan_notes, ring_of

        profiles = load_profiles(config)
        costs = plan_costs(config, profiles)
        _try_key(config)
    except (ConfigError, ProfileError) as error:
        if not as_json:
            raise
        click.echo(as_line({"ok": False, "complaints": [complaint_json(one) for one in error.complaints]}))
        raise SystemExit(error.exit_code) from None
    ring = ring_of(config, costs)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needs = [*plan_notes(costs), *ring_notes(config, ring), *memory_notes(config, ring, machine)]
    notes = [*config.notes, *find_notes(config), *needs]
    learned = _learned(config)
    if as_json:
        facts = to_json(config, costs, ring, notes) | {"learned": learned, "profiles": _sources(profiles)}
        code = 0
        if try_online:
            code, facts["online"] = online(config, profiles, "en", as_json)  # texts in JSON are always English
        click.echo(as_line(facts | {"ok": code == 0}))
        raise SystemExit(code)
    _print(config, profiles, costs, ring, plan)
    for name, text in learned.items() if plan else ():
        click.echo(say(f"device {name}: its register map differs from the profile; the agent has learned: {text}"))
    for note in notes:
        click.echo(as_complaint("warning", note), err=True)
    if try_online:
        raise SystemExit(online(config, profiles, lang, as_json)[0])


def _sources(profiles: Mapping[str, Profile]) -> dict[str, Any]:
    """Return the sources of each profile that a configured device uses."""
    return {
        id: {
            "source": profile.source,
            "second_source": asdict(profile.second_source) if profile.second_source else None,
            "evidence": profile.evidence,
        }
        for id, profile in profiles.items()
    }


def _evidence(profile: Profile) -> str:
    """Return one text that names the evidence of a profile and, if the profile states it, the number of sources."""
    if profile.second_source is None:
        return say(profile.evidence)
    sources = say("2 sources" if profile.second_source.source else "1 source")
    return f"{say(profile.evidence)}{'，' if speaks_chinese() else ', '}{sources}"


def _learned(config: Config) -> dict[str, str]:
    """Return device name -> text with the facts that the running agent has learned about the device's register map.

    The agent changes its requests to such a device, so they differ from those planned from the profile. Returns {} if
    no agent runs.
    """
    from agent.cli.common import learned_maps, read_snapshot

    try:
        return learned_maps(read_snapshot(config.runtime_dir))
    except GatewayError:
        return {}


def complaint_json(error: GatewayError) -> dict[str, Any]:
    """Return a complaint for JSON, with file, line and key as separate members."""
    places = {key: getattr(error, key, None) for key in ("file", "line", "key")}
    return {**places, "where": error.where, "what": error.what, "hint": error.hint}


def _try_key(config: Config) -> None:
    """Raise ConfigError if the agent could not start with this key file. Does not contact a PKCS #11 token."""
    file = config.key.file
    if lost_key(config):
        from agent.keys import LOST, RESTORE

        raise ConfigError(LOST, where=f"key.file: {file}", hint=RESTORE)
    if file is None or not os.path.isfile(file) or not os.access(file, os.R_OK):
        return
    from agent.keys import KeyFileError, load_key

    with file.open("rb") as opened:
        if b"pkcs11:" in opened.read(4096):
            return
    try:
        load_key(file, any_owner=True)
    except KeyFileError as error:
        raise ConfigError(error.what, where=f"key.file: {file}", hint=error.hint) from None


def lost_key(config: Config) -> bool:
    """True if the key file is missing on a gateway that has signed before. The next start of the agent would fail."""
    from agent.keys import is_lost

    file = config.key.file
    return file is not None and not _is_hidden(file.parent) and is_lost(file, config.store_path)


def find_notes(config: Config) -> list[ConfigWarning]:
    """Return warnings about missing files, groups, ports, devices or destinations, unused lines and low disk space.

    Only a missing key file can prevent the start of the agent.
    """
    from agent.config import ConfigWarning, ControlConfig
    from agent.service.control.peer import gid_of

    notes: list[ConfigWarning] = []
    for line in config.lines:
        if line.scheme == "serial":
            notes += _port_notes(f"line {line.name}", Path(line.url.partition(":")[2]))
        if not any(device.line == line.name for device in config.devices):
            notes.append(ConfigWarning(f"line {line.name}", "no device uses this line"))
    for uplink in config.uplinks:
        for key in ("ca_file", "cert_file", "key_file"):
            path = getattr(uplink, key)
            if path is not None and _is_missing(path):
                notes.append(ConfigWarning(f"destination {uplink.name}", f"{key} {path} does not exist"))
        if uplink.password is not None and uplink.password.file and _is_missing(uplink.password.file):
            notes.append(
                ConfigWarning(f"destination {uplink.name}", f"password_file {uplink.password.file} does not exist")
            )
    if not config.uplinks:
        notes.append(ConfigWarning("agent.toml", "no [[uplink]]: readings stay on this gateway"))
    if not config.devices:
        notes.append(ConfigWarning("agent.toml", "no [[device]]: nothing will be read"))
    file = config.key.file
    if file is not None and not _is_hidden(file.parent) and not os.path.exists(file) and not lost_key(config):
        hint = "The service creates the key at its first start. To create the key by hand, use `meterhouse keys create`"
        notes.append(ConfigWarning("key", f"{file} does not exist", hint))
    if config.control != ControlConfig() and gid_of(config.control.group) is None:
        hint = (
            "Until this group exists, only root and the agent's user may enter declarations, run commands that use a "
            "line of the running agent (such as `read` and `scan`), and reload the configuration"
        )
        notes.append(ConfigWarning("control", f"group {config.control.group} does not exist on this machine", hint))
    return [*notes, *_disk_notes(config)]


def _is_missing(file: Path) -> bool:
    """True if there is no such file. False if this user may not see the content of its folder."""
    return not os.path.isfile(file) and not _is_hidden(file.parent)


def _is_hidden(folder: Path) -> bool:
    """True if this user may not see the content of the folder."""
    return any(os.path.isdir(one) and not os.access(one, os.X_OK) for one in (folder, *folder.parents))


def _port_notes(where: str, port: Path) -> Iterable[ConfigWarning]:
    from agent.config import ConfigWarning

    if not os.path.exists(port):
        folder = Path("/dev/serial/by-id")
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        hint = (
            f"Connected USB adapters: {', '.join(there[:4])}"
            if there
            else "No USB adapter is connected; the agent waits until one is connected"
        )
        return [ConfigWarning(where, f"the port {port} does not exist", hint)]
    if not stat.S_ISCHR(port.stat().st_mode):
        return [ConfigWarning(where, f"{port} is not a serial port")]
    if not os.access(port, os.R_OK | os.W_OK):
        return [
            ConfigWarning(
                where, f"{port} cannot be opened by this user", "The agent's user must be in the group dialout"
            )
        ]
    return []


def _disk_notes(config: Config) -> Iterable[ConfigWarning]:
    from agent.config import ConfigWarning
    from agent.config.parsers import show_bytes

    folder = config.state_dir
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if _is_hidden(folder):
        return  # this user may not see the size of the database, so its disk cannot be checked
    used = os.path.getsize(config.store_path) if os.path.isfile(config.store_path) else 0
    if free + used < config.store.max_size_bytes:
        what = (
            f"max_size is {show_bytes(config.store.max_size_bytes)}, but only {show_bytes(free)} are free at {folder}"
        )
        yield ConfigWarning(
            "store",
            what,
            "If the disk becomes full, the agent cannot seal; with a smaller max_size, it drops the oldest packs "
            "instead and records a signed event",
        )


def to_json(
    config: Config, costs: Iterable[PaceCost], ring: RingPlan, notes: Iterable[ConfigWarning]
) -> dict[str, Any]:
    """Return the facts for ``--json``: the configuration in effect, the load of its lines, and the warnings."""
    from agent.cli.line_load import line_shares
    from agent.config import memory_bytes

    costs = list(costs)
    return {
        "ok": True,
        "files": [str(path) for path in config.files],
        "hash": config.hash(),
        "state_dir": str(config.state_dir),
        "runtime_dir": str(config.runtime_dir),
        "key": str(config.key),
        "config": config.effective(),
        "warnings": [{"where": note.where, "what": note.what, "hint": note.hint} for note in notes],
        "plan": [
            {
                "device": cost.device,
                "line": cost.line,
                "pace": cost.pace,
                "period_ms": cost.period_ms,
                "requests": cost.cost.requests,
                "registers": cost.cost.registers,
                "points": cost.cost.points,
                "line_time_s": round(cost.cost.line_time_s, 6),
                "share": round(cost.share, 6),
            }
            for cost in costs
        ],
        "line_shares": {line: round(share, 6) for line, share in line_shares(costs).items()},
        "memory_bytes": memory_bytes(len(config.devices), ring),
        "ring": {
            "size_bytes": ring.size_bytes,
            "need_bytes": ring.need_bytes,
            "limit_bytes": ring.limit_bytes,
            "readings_per_s": round(ring.rate.readings, 3),
            "full_s": round(ring.full_s, 1) if ring.rate.slots else None,
        },
    }


def _duration(ms: int) -> str:
    from drivers.toml.parsers import show_ms

    return say(show_ms(ms))


def _ring_time(ring: RingPlan) -> str:
    from agent.cli.common import show_age

    age = show_age(ring.full_s, "zh" if speaks_chinese() else "en")
    return say(f", about {age} of readings") if ring.rate.slots else ""


def _print(config: Config, profiles: Mapping[str, Profile], costs: list[PaceCost], ring: RingPlan, plan: bool) -> None:
    from agent.cli.console_tables import cell, open_console, plain_table
    from agent.cli.line_load import line_shares, show_time
    from agent.config import memory_bytes
    from agent.config.parsers import show_bytes

    console = open_console()
    store = config.store
    more = say(f" and {len(config.files) - 1} of conf.d") if len(config.files) > 1 else ""
    # show all values that take effect, including the defaults (field pain 54)
    facts = plain_table("", "what", "in effect")
    facts.show_header = False
    kept, intervals = _duration(store.keep_delivered_s * 1000), _duration(store.keep_intervals_s * 1000)
    size, most = show_bytes(store.max_size_bytes), show_bytes(config.pack.max_size_bytes)
    rows = {
        "configuration": f"{config.path}{more}, hash {config.hash()}",
        "gateway": f"{config.base}, {config.timezone}",
        "key": str(config.key),
        "store": f"{config.store_path}, at most {size}; packs are stored before they are sent",
        "kept": f"delivered packs are kept for {kept}, intervals for {intervals}",
        "ring": f"{config.runtime_dir}, {show_bytes(ring.size_bytes)}{_ring_time(ring)}",
        "packs": f"one pack every {_duration(config.pack.every_ms)}, at most {most} per pack",
        "intervals": _duration(config.interval.length_ms),
    }
    for what, fact in rows.items():
        facts.add_row(say(what), cell(say(fact), 400))
    chosen = [key for key in ("streams", "compress") if any(getattr(uplink, key) for uplink in config.uplinks)]
    uplinks = plain_table("destinations", "name", "url", "user", "confirm", *chosen)
    for uplink in config.uplinks:
        extra = {"streams": " ".join(uplink.streams) or say("all"), "compress": uplink.compress or "-"}
        uplinks.add_row(
            cell(uplink.name),
            cell(uplink.url),
            cell(uplink.username or "-"),
            uplink.confirm or say("subscriber (MQTT 5) or broker (MQTT 3.1.1)"),
            *(cell(extra[key], 200) for key in chosen),
        )
    lines = plain_table("lines", "name", "url", "serial", "devices", right=("devices",))
    for line in config.lines:
        count = sum(device.line == line.name for device in config.devices)
        speed = line.serial if line.carries_bytes else say(f"bus at {line.bus_baud}") if line.bus_baud else "-"
        lines.add_row(cell(line.name), cell(line.url, 200), speed, str(count))
    devices = plain_table("devices", "name", "line", "address", "profile", "checked against", "paces (points)")
    for device in config.devices:
        profile = profiles[device.profile]
        own = [cost for cost in costs if cost.device == device.name]
        paces = ", ".join(f"{cost.pace} {_duration(cost.period_ms)} ({cost.cost.points})" for cost in own)
        devices.add_row(
            cell(device.name), cell(device.line), cell(device.address), profile.id, _evidence(profile), paces
        )
    requests = plain_table("plan", "device", "pace", "every", "cost", "share of line", right=("share of line",))
    for cost in costs:
        share = f"{cost.share:.1%}" if cost.share else "-"
        requests.add_row(cell(cost.device), cost.pace, _duration(cost.period_ms), say(str(cost)), share)
    shares = plain_table("how busy the lines are", "line", "in use", right=("in use",))
    for name, busy in line_shares(costs).items():
        shares.add_row(cell(name), f"{busy:.1%}")
    for table in (facts, uplinks, lines, devices, *((requests, shares) if plan else ())):
        if table.row_count:
            console.print(table)
            console.print()
    visits = sum(cost.cost.line_time_s for cost in costs)
    if costs and plan:
        console.print(say(f"Reading each point once occupies the lines for {show_time(visits)} in total."))
        console.print(say(f"The ring buffer: {say(str(ring))}."))
        mib = memory_bytes(len(config.devices), ring) >> 20
        console.print(say(f"Memory: about {mib} MiB, including the ring buffer."))
    console.print(say("The configuration is good."))
