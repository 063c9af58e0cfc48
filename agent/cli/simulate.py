"""`meterhouse simulate`: simulates devices from a profile or a recorded dump, or a whole park. Can simulate faults."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from agent.cli.common import as_complaint, as_line, say
from agent.cli.options import FOLDER, Duration, json_option, param_option, parse_params
from drivers.model import GatewayError, UsageError
from drivers.registry import protocol_of

if TYPE_CHECKING:
    from drivers.profile import Profile
    from drivers.sim.bus import Bus, SimLine
    from drivers.sim.control import Control
    from drivers.sim.device import SimDevice
    from drivers.sim.meters import Simulated
    from drivers.sim.park import Park


@click.command()
@click.option(
    "--profile", metavar="ID|FILE", help="Simulate a device of this family, such as eastron/sdm630; its values change."
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Simulate the device of this recorded dump (JSON); its values do not change.",
)
@click.option(
    "--park",
    type=FOLDER,
    metavar="DIR",
    help="Simulate the demo park; write its configuration to DIR/agent.toml, and the plan of its computed figures to "
    "DIR/indicators.toml.",
)
@click.option(
    "--listen", metavar="HOST:PORT", help="Listen on this TCP port; 0 takes a free port.  [default: 127.0.0.1:0]"
)
@click.option("--rtu", is_flag=True, help="With --listen: send RTU bytes over raw TCP, as a serial server does.")
@click.option(
    "--pty",
    type=click.Path(path_type=Path),
    metavar="LINK",
    help="Simulate a serial line: a pseudo-terminal with this name.",
)
@click.option(
    "--baud",
    type=click.IntRange(300, 921600),
    help="With --pty: simulate byte times at this baud rate.  [default: the baud rate in the profile, else 9600]",
)
@click.option(
    "--unit", "units", multiple=True, type=click.IntRange(1, 255), help="Unit id; repeat for more devices on the line."
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="TEXT",
    help="Address, written as in agent.toml, of a meter that has no unit number; repeat for more meters on the line.",
)
@click.option(
    "--role",
    default="",
    help="What the device measures: pv1 to pv3, grid, load, workshop, storage, heat. "
    "The default depends on the kind of device.",
)
@param_option
@click.option(
    "--turnaround",
    type=Duration(0, 60),
    help="Time that a simulated device takes to answer, such as 20ms. Default: from the profile; 0 with --dump.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="[DEVICE ]FAULT",
    help="Simulate this fault from the start, such as late=0.5*3.",
)
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take commands from this named pipe while the simulator runs.",
)
@click.option("--stdin", "from_stdin", is_flag=True, help="Also take commands from standard input; `help` lists them.")
@click.option("--seed", default=1, show_default=True, help="Random seed of the simulated day.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 100_000),
    help="Simulated seconds in one real second.",
)
@click.option("--sleep", is_flag=True, help="Inverters whose profile has `sleeps` do not respond in the dark.")
@click.option("--for", "seconds", metavar="DURATION", type=Duration(), help="Stop after this time, such as 20s.")
@json_option
def simulate(**options: Any) -> None:
    """Simulate devices: from a profile, from a recorded dump, or the whole demo park.

    Prints the devices and their addresses, then runs until stopped.

    \b
    Examples:
      meterhouse simulate --profile eastron/sdm630 --listen 127.0.0.1:5020
      meterhouse simulate --profile eastron/sdm630 --pty /tmp/meter --baud 9600 --fault silence/10
      meterhouse simulate --profile dlt645/2007 --address 000000000161 --pty /tmp/meter
      meterhouse simulate --dump inverter.json
      meterhouse simulate --park /tmp/park --control /tmp/park/control
      echo "inv1 late=0.5*3" > /tmp/park/control

    \b
    Faults: KIND[=VALUE][*TIMES][/EVERY][+SKIP]; the kinds are silence, late, crc, exception, busy, gateway, echo,
    bytewise, short, cut, unit, tag, stray, stale, blank, zero, freeze, spill, reset, close and reboot.
    The command `LINE unplug [SECONDS]` disconnects a line; `help` on --stdin lists all commands.

    \b
    Exit codes: 0 stopped, 2 wrong usage, 3 bad profile or dump, 4 port or pty cannot be opened.
    """
    chosen = [name for name in ("profile", "dump", "park") if options[name]]
    if len(chosen) != 1:
        raise click.UsageError("give one of --profile, --dump and --park")
    if options["listen"] and options["pty"]:
        raise click.UsageError("--listen and --pty cannot be combined")
    if options["park"] and (options["listen"] or options["pty"] or options["units"] or options["addresses"]):
        raise click.UsageError("the park has its own lines; leave out --listen, --pty, --unit and --address")
    asyncio.run(_serve(options))


async def _serve(options: dict[str, Any]) -> None:
    from drivers.sim.control import Control

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as stack:
            lines, devices = _park(options) if options["park"] else _single(options)
            control = Control(lines, devices)
            for line in lines.values():
                await line.start()
                stack.push_async_callback(line.stop)
            stack.push_async_callback(control.close)
            for fault in options["faults"]:
                await control.run(fault if " " in fault.strip() else f"* {fault}")
            # accept commands before printing, because a script may send one as soon as it sees the output
            _listen_to(options, control, stack)
            _announce(options, lines, devices)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), options["seconds"])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _park(options: dict[str, Any]) -> tuple[dict[str, SimLine], Mapping[str, Simulated]]:
    from drivers.sim.park import make_park

    folder = options["park"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot be created: {error.strerror}", where=str(folder)) from error
    park = make_park(folder.absolute(), seed=options["seed"], speed=options["speed"], sleeps=options["sleep"])
    options["made"] = park
    return park.lines, park.served()


def _single(options: dict[str, Any]) -> tuple[dict[str, SimLine], Mapping[str, Simulated]]:
    """Return a line with one device, or with several devices of the same kind."""
    from drivers.sim.bus import Bus
    from drivers.sim.rtu import SerialLine
    from drivers.sim.tcp import TcpLine

    profile = None if options["dump"] else _profile(options["profile"])
    is_meter = profile is not None and not protocol_of(profile.protocol).has_registers
    if is_meter != bool(options["addresses"]) and (options["addresses"] or options["units"]):
        option = "--address" if is_meter else "--unit"
        raise click.UsageError(f"a device of this kind needs {option}")
    bus: Bus
    devices: Mapping[str, Simulated]
    if is_meter and profile is not None:
        bus, devices = _meters(options, profile)
    else:
        made = _from_dump(options) if profile is None else _from_profile(options, profile)
        bus, devices = Bus(made, name="line"), {device.name: device for device in made}
    line: SimLine
    if options["pty"]:
        own = profile.serial.split()[0] if profile is not None and profile.serial else "9600"
        line = SerialLine(bus, options["pty"].absolute(), baud=options["baud"] or int(own))
    else:
        host, _, port = (options["listen"] or "127.0.0.1:0").rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise UsageError(
                f"{options['listen']!r} is not HOST:PORT", where="--listen", hint="Write for example 127.0.0.1:5020"
            )
        framing: Literal["mbap", "rtu"] = "rtu" if options["rtu"] or is_meter else "mbap"
        line = TcpLine(bus, host=host, port=int(port), framing=framing)
    return {"line": line}, devices


def _profile(text: str) -> Profile:
    from agent.cli.options import DEFAULT_CONFIG, profile_dirs
    from drivers.profile import find_profile, load_profile

    dirs = profile_dirs(Path(os.environ.get("MH_CONFIG", DEFAULT_CONFIG)))
    return load_profile(Path(text) if text.endswith(".toml") else find_profile(text, dirs), dirs)


def _name(number: int, count: int) -> str:
    return "device" if count == 1 else f"device{number + 1}"


def _from_dump(options: dict[str, Any]) -> list[SimDevice]:
    from drivers.sim.image import load_dump

    image, address = load_dump(options["dump"])
    from drivers.sim.device import SimDevice

    units = options["units"] or (address,)
    return [
        SimDevice(unit, image, name=_name(n, len(units)), turnaround_s=options["turnaround"] or 0.0)
        for n, unit in enumerate(units)
    ]


def _role(options: dict[str, Any]) -> str:
    from drivers.sim.facts import PARK_PARTS

    role: str = options["role"]
    if role and role not in PARK_PARTS:
        raise UsageError(
            f"the simulated park has no role {role!r}", where="--role", hint=f"Choose one of {', '.join(PARK_PARTS)}"
        )
    return role


def _meters(options: dict[str, Any], profile: Profile) -> tuple[Bus, Mapping[str, Simulated]]:
    """Return meters of a protocol without registers, and the bus that they share."""
    from drivers.sim.display import ParkClock
    from drivers.sim.families import meter_from_profile
    from drivers.sim.meters import MixedBus

    role, clock = _role(options), ParkClock(options["seed"], options["speed"])
    addresses = options["addresses"] or (protocol_of(profile.protocol).example_address,)
    found: dict[str, Simulated] = {}
    bus = MixedBus(name="line")
    for n, address in enumerate(addresses):
        name, seed = _name(n, len(addresses)), options["seed"] * 1000 + n
        meter, _ = meter_from_profile(
            profile,
            address=address,
            name=name,
            role=role,
            clock=clock,
            seed=seed,
            turnaround_s=options["turnaround"],
        )
        bus.meters.append(meter)
        found[name] = meter
    return bus, found


def _from_profile(options: dict[str, Any], profile: Profile) -> list[SimDevice]:
    from drivers.sim.display import ParkClock
    from drivers.sim.families import device_from_profile

    role = _role(options)
    clock = ParkClock(options["seed"], options["speed"])
    units, params = options["units"] or (1,), parse_params(options["params"])
    made = []
    for n, unit in enumerate(units):
        device, _ = device_from_profile(
            profile,
            unit=unit,
            name=_name(n, len(units)),
            role=role,
            clock=clock,
            params=params,
            seed=options["seed"] * 1000 + n,
            turnaround_s=options["turnaround"],
            sleeps=options["sleep"],
        )
        made.append(device)
    return made


def _announce(options: dict[str, Any], lines: dict[str, SimLine], devices: Mapping[str, Simulated]) -> None:
    """Print the devices and their addresses. Flushes the output, because scripts wait for it."""
    park: Park | None = options.get("made")
    if park is not None:
        for slot in park.slots:
            who = (slot.address, slot.address) if slot.address else (str(slot.unit), f"unit {slot.unit}")
            _say(options, slot.name, slot.line, lines[slot.line].url, park.serial(slot), who, slot.profile)
        path = park.write_config(options["park"])
        if options["as_json"]:
            click.echo(as_line({"config": str(path)}))
        else:
            click.echo(say(f"to read the devices of the park: meterhouse run -c {shlex.quote(str(path))}"))
    else:
        profile = options["profile"] or str(options["dump"])
        (line,) = lines.values()
        serial = getattr(line, "serial", "")
        for device in devices.values():
            meters_own = getattr(device, "number", "") or getattr(device, "address", None)
            unit = getattr(device, "unit", "")
            who = (str(unit), f"unit {unit}") if meters_own is None else (str(meters_own), str(meters_own))
            shown_serial = serial.replace("8N1", getattr(device, "character", "8N1"))
            _say(options, device.name, "line", line.url, shown_serial, who, profile)
    sys.stdout.flush()


def _say(
    options: dict[str, Any], name: str, line: str, url: str, serial: str, who: tuple[str, str], profile: str
) -> None:
    """Print one device. ``who``: its address as in agent.toml, and its address as people write it."""
    address, shown = who
    if options["as_json"]:
        facts = {"device": name, "line": line, "url": url, "serial": serial or None}
        click.echo(as_line({**facts, "address": address, "profile": profile}))
    else:
        click.echo(f"{name:<11} {profile:<26} {shown:<15} {f'{url} {serial}'.strip()}")


def _listen_to(options: dict[str, Any], control: Control, stack: AsyncExitStack) -> None:
    """Begin to take commands from a named pipe and from standard input. Raises UsageError."""
    sources = [sys.stdin.fileno()] if options["from_stdin"] else []
    if options["control"]:
        path: Path = options["control"]
        try:
            if not path.exists():
                os.mkfifo(path, 0o600)
                stack.callback(path.unlink, missing_ok=True)
            elif not path.is_fifo():
                raise UsageError("exists and is not a named pipe", where=str(path), hint="Give another path")
            # the pipe is opened for writing too, because reading would otherwise end when a script closes it
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(
                f"the control pipe cannot be created or opened: {error.strerror}", where=str(path)
            ) from error
        stack.callback(os.close, fd)
        sources.append(fd)
    for fd in sources:
        _Commands(fd, control, stack)


def _in_language(line: str) -> str:
    """Return a line of an answer, such as `COMMAND   WHAT IT DOES`. WHAT IT DOES is in the language of the command."""
    at = line.rfind("  ") + 2 if "  " in line else 0
    return line[:at] + say(line[at:])


class _Commands:
    """Reads commands from a file descriptor and runs them one after the other."""

    def __init__(self, fd: int, control: Control, stack: AsyncExitStack) -> None:
        self._fd, self._control = fd, control
        self._held = b""
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, self._ready)
        stack.callback(loop.remove_reader, fd)
        self._task = loop.create_task(self._work())
        stack.push_async_callback(self._end)

    def _ready(self) -> None:
        chunk = os.read(self._fd, 4096)
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._fd)
        *whole, self._held = (self._held + chunk).split(b"\n")
        for line in whole:
            self._queue.put_nowait(line.decode("utf-8", "replace"))

    async def _work(self) -> None:
        while True:
            command = await self._queue.get()
            try:
                if answer := await self._control.run(command):
                    click.echo("\n".join(map(_in_language, answer.split("\n"))))
            except GatewayError as error:
                click.echo(as_complaint("error", error), err=True)

    async def _end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
