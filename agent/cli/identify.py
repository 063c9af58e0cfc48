"""`meterhouse identify`: shows the identity of one device, and the profile and variant that fit."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agent.cli.common import COLON, as_line
from agent.cli.options import (
    ConfigOptions,
    config_flag,
    config_options,
    json_option,
    lang_option,
    line_help,
    profile_dirs,
)
from drivers.model import GatewayError, LineTimeout, UsageError
from drivers.registry import DEFAULT, named_on_lines, protocol_of

if TYPE_CHECKING:
    from agent.config import LineEntry
    from drivers.scan import FoundDevice

# kind of silence -> (problem, advice), each in English and Chinese
SILENT: Final[Mapping[str, tuple[tuple[str, str], tuple[str, str]]]] = {
    "silent": (
        ("does not answer", "无应答"),
        (
            "Check its address, the serial setting, A and B, and its power; `meterhouse scan` finds the devices that"
            " answer",
            "请检查地址、串口参数、A/B线和供电；`meterhouse scan`可找出有应答的设备",
        ),
    ),
    "garbled": (
        ("answers, but no frame is valid (CRC or length)", "有应答，但没有一帧正确（CRC或长度不对）"),
        (
            "Possible causes: two devices with the same address, another serial setting, or a long cable without "
            "termination",
            "可能原因：两台设备地址相同、串口参数不同，或长线未接终端电阻",
        ),
    ),
}

NONE_FITS: Final = (
    "Look at its registers: `{command}`; start a profile of your own with `meterhouse profiles new`",
    "查看寄存器：`{command}`；用 `meterhouse profiles new` 新建设备模板",
)
NO_BLOCK: Final = (
    "The device answered none of the usual register blocks. Take a start address from its manual: `{command}`",
    "设备对常用的寄存器区段均无应答。请按说明书给出起始地址：`{command}`",
)


CONFIGURED: Final = (
    "configured profile: {configured}; the device fits {fits}",
    "配置的设备模板：{configured}；实际匹配：{fits}",
)


@click.command()
@click.argument("device", required=False)
@config_options
@click.option("--line", metavar="URL|NAME", help=line_help())
@click.option(
    "--address", metavar="TEXT", help="For a device that is not configured: its address on the line, such as 1."
)
@click.option(
    "--protocol",
    type=click.Choice(named_on_lines()),
    default=None,
    help=f"For a device that is not configured: its protocol.  [default: {DEFAULT}]",
)
@click.option(
    "--serial",
    metavar="TEXT",
    help='For a device that is not configured: the serial setting.  [default: the usual one, "9600 8N1"]',
)
@click.option("--deep", is_flag=True, help="Also send requests that only some devices support, such as function 43/14.")
@json_option
@lang_option
def identify(
    device: str | None,
    options: ConfigOptions,
    line: str | None,
    address: str | None,
    protocol: str | None,
    serial: str | None,
    deep: bool,
    as_json: bool,
    lang: str,
) -> None:
    """Identify one device and list the profiles that fit.

    A profile is "certain" if the device reports one of its models, "likely" if several points have plausible values,
    "possible" if nothing contradicts it. If a profile is certain or likely, all its points are read, and hints show
    which values look wrong. Nothing is written to the device.

    \b
    Examples:
      meterhouse identify --line serial:/dev/ttyUSB0 --address 1
      meterhouse identify --line modbus-tcp://192.0.2.10 --address 1 --deep
      meterhouse identify inv1

    \b
    Exit codes: 0 a profile fits; 2 wrong usage; 3 bad configuration; 4 no answer, or no profile fits.
    """
    from agent.cli.lease import borrow_line, line_factory
    from agent.cli.read import Round, read_rounds, show_hints
    from agent.cli.scan import facts_of
    from agent.cli.target import Target, adhoc_line, adhoc_target, configured_target, demand_address
    from drivers.scan import ScanOptions, one_device

    known: Target | None = None
    owned: LineEntry
    if device is not None:
        if line or address or protocol or serial:
            raise UsageError(
                "a device name cannot be combined with --line or --address",
                where="identify",
                hint="Give either a device name or these options, not both",
            )
        known = config, entry, profile = configured_target(options.load(), device)
        owned, folder = config.line(entry.line), config.runtime_dir
        line, address, serial = owned.url, entry.address, entry.serial or owned.serial
        protocol = protocol_of(profile.protocol).wire_name
    else:
        if not line or not address:
            raise UsageError(
                "--line or --address is missing",
                where="identify",
                hint="Give --line and --address, or the name of a configured device",
            )
        owned = adhoc_line(line, serial, protocol_of(protocol or DEFAULT).serial_settings[0], options)
        # this url has the default port if it was given without one, so that the agent's line is recognized and borrowed
        line, serial = owned.url, owned.serial
        demand_address(protocol or DEFAULT, address, owned.scheme)
        folder = options.find_runtime_dir(strict=False)
    configured = known[2].id if known is not None else None
    protocol = protocol or DEFAULT
    setting = serial or protocol_of(protocol).serial_settings[0]
    # nothing is logged, because an error is printed at the end
    logging.getLogger("meterhouse").addHandler(logging.NullHandler())
    dirs = profile_dirs(options.config_file)
    asked = ScanOptions(line, (protocol,), (setting,), deep=deep, echo=owned.echo, profile_dirs=dirs)
    scan = one_device(asked, protocol, address, setting, line_factory())
    rounds: list[Round] = []
    with borrow_line(folder, line, "identify", 300.0) as owner:
        owner.run(scan.identify_one())
        (found,) = scan.found
        if found.fits and found.fits[0].how != "possible" and not as_json:
            with suppress(GatewayError):  # without hints the result is still useful, because the device is identified
                best = found.fits[0].profile
                if known is None or known[2].id != best:
                    known = adhoc_target(
                        options, best, line, address, setting if line.startswith("serial:") else None, dirs=dirs
                    )
                rounds = owner.run(read_rounds(*known))
    if found.seen in SILENT:
        what, hint = (text[lang == "zh"] for text in SILENT[found.seen])
        raise LineTimeout(what, where=f"{line}, {protocol} {address}", hint=hint)
    if as_json:
        click.echo(as_line(facts_of(found) | ({"configured": configured} if configured else {})))
    else:
        _print(found, lang, configured, registers_hint(found, lang, options.config_file, device))
        if known is not None and rounds:
            show_hints(*known, rounds, lang)
    raise SystemExit(0 if found.fits else 4)


def is_contradicted(configured: str, found: FoundDevice) -> bool:
    """True if a device fits another profile better than its configured profile."""
    if not found.fits:
        return False
    # the first fit of a profile is its best; in reversed order, the best comes last and overwrites the others
    how = {fit.profile: fit.how for fit in reversed(found.fits)}
    return found.fits[0].how != "possible" and how.get(configured) != found.fits[0].how


def registers_hint(found: FoundDevice, lang: str, config_file: Path, name: str | None = None) -> str:
    """Return a hint that tells how to see the registers of a device that no profile fits.

    Returns "" if a profile fits, or if the device has no registers.

    ``name``: the device's name in the configuration; None if it is not configured.
    """
    if found.fits or not found.tried or not protocol_of(found.protocol).has_registers:
        return ""
    text = (NONE_FITS if found.block else NO_BLOCK)[lang == "zh"]
    return text.format(command=registers_command(found, config_file, name))


def registers_command(found: FoundDevice, config_file: Path, name: str | None = None) -> str:
    """Return a command that shows a block of registers that the device has answered.

    If no such block is known, the command contains START, which the user must replace with an address.
    """
    where = name or f"--line {shlex.quote(found.url)} --address {found.address}"
    if not name and found.serial and found.serial != protocol_of(found.protocol).serial_settings[0]:
        where += f' --serial "{found.serial}"'
    if config_file.is_file():
        where += config_flag(config_file)
    return f"meterhouse read {where} --registers {found.block or '3:START+10'}"


def _print(found: FoundDevice, lang: str, configured: str | None, hint: str) -> None:
    from rich.cells import cell_len

    from agent.cli.scan import fit_words, say

    for name, text in found.identity.items():
        click.echo(f"{name:<24}{text}")
    label = say(lang, "profile")
    click.echo(f"{label}{' ' * (24 - cell_len(label))}{fit_words(found, lang, 5)}")
    if hint:
        click.echo(hint, err=True)
    if configured is not None and is_contradicted(configured, found):
        text = CONFIGURED[lang == "zh"].format(configured=configured, fits=fit_words(found, lang, 1))
        click.echo(f"{say(lang, 'note')}{COLON[lang]}{text}", err=True)
    for note in found.notes:
        click.echo(f"{say(lang, 'note')}{COLON[lang]}{note.text(lang)}", err=True)
