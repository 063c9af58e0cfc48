"""`meterhouse adopt` and `scan --add`: write new devices, and lines that are not configured yet, to conf.d."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import as_complaint, as_line, say, show_unit
from agent.cli.config_files import check_absent, check_writable, make_folder, toml_text, write_new
from agent.cli.main_points import first_points, known_as
from agent.cli.options import (
    ConfigOptions,
    config_options,
    json_option,
    lang_option,
    param_option,
    parse_params,
    profile_dirs,
)
from agent.cli.questions import YES, asked, confirmed, given, is_terminal
from drivers.model import (
    BYTE_SCHEMES,
    GatewayError,
    LineError,
    LineTimeout,
    ProfileError,
    Quality,
    UsageError,
    clean_text,
)
from drivers.registry import DEFAULT, find_scheme, line_url_help, named_on_lines, own_schemes, protocol_of
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from agent.config import Config, DeviceConfig, LineEntry
    from drivers.model import Point
    from drivers.profile import Profile
    from drivers.scan import FoundDevice

LEASE_S: Final = 300.0
SERIAL: Final = "device.serial"
# Time for reading the serial numbers of configured devices, in seconds. After this time, no further device is read.
TWINS_S: Final = 10.0
AGREED: Final = YES | {"j", "ja"}
# the parts of a device that can have a role, the most likely part first
PARTS: Final = ("ac", "battery", "heat", "water", "gas", "meter", "dc")
LIKELY_ROLES: Final = {"inverter": "generation.pv", "hybrid": "generation.pv", "bms": "storage", "storage": "storage",
                       "pcs": "storage"}  # fmt: skip
_FRACTION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*/\s*([0-9]+(?:\.[0-9]+)?)")

WORDS: Final = Catalogue(__package__, "adopt")


@dataclass(slots=True)
class Draft:
    """The configuration tables of a new device, and of its ``line`` if the line is not configured yet.

    The line gets its own file, so that other devices keep the line if the device's file is deleted later.
    """

    device: dict[str, Any]
    line: dict[str, Any] | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    # key of the device table -> comment that is written after its value
    comments: dict[str, str] = field(default_factory=dict)

    def files(self, folder: Path, words: Mapping[str, str]) -> dict[Path, str]:
        """Return the new files and their contents. The file of a new line comes first, the device's file last."""
        known = known_as(self.identity)
        when = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}"
        found: dict[Path, str] = {}
        name = self.device["name"]
        if self.line is not None:
            rows = [f"{key} = {toml_text(value)}" for key, value in self.line.items()]
            head = f"# {words['head'].format(when=when, identity='')}\n# {words['line2']}\n"
            taken = {name, *(path.stem for path in folder.glob("*.toml"))}
            stem = _unused(f"line-{self.line['name']}", taken)
            found[folder / f"{stem}.toml"] = f"{head}\n[[line]]\n" + "".join(f"{row}\n" for row in rows)
        rows = [
            f"{key} = {toml_text(value)}" + (f"  # {self.comments[key]}" if key in self.comments else "")
            for key, value in self.device.items()
        ]
        head = f"# {words['head'].format(when=when, identity=f'; {known}' if known else '')}\n# {words['head2']}\n"
        found[folder / f"{name}.toml"] = f"{head}\n[[device]]\n" + "".join(f"{row}\n" for row in rows)
        return found


@click.command()
@click.argument("name", required=False)
@click.option("--line", required=True, metavar="URL|NAME", help=f"{line_url_help()}, or the name "
              "of a configured line.")  # fmt: skip
@click.option("--address", required=True, metavar="TEXT", help="The device's address on the line, such as 1.")
@click.option(
    "--profile", metavar="ID", help="The device's profile.  [default: the profile that best fits the device's answers]"
)
@click.option("--protocol", type=click.Choice(named_on_lines()), default=DEFAULT,
              show_default=True, help="The device's protocol, if no profile is given.")  # fmt: skip
@click.option("--serial", metavar="TEXT", help='Serial setting, such as "9600 8N1".')
@click.option("--label", metavar="TEXT", help="Free text, such as the place where the device is installed.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    metavar="[PART=]ROLE",
    help="Role of the device, such as grid, or of one part, such as meter.ac=grid. May be repeated.",
)
@click.option("--ct", metavar="RATIO", help="Ratio of the current transformers: 80, or 400/5.")
@click.option("--pt", metavar="RATIO", help="Ratio of the voltage transformers: 100, or 10000/100.")
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="NAME=VALUE",
    help='A limit of the device, such as timeout="2 s". May be repeated.',
)
@param_option
@click.option("--no-read", is_flag=True, help="Do not contact the device; needs --profile.")
@click.option("--yes", is_flag=True, help="Do not ask anything.")
@lang_option
@config_options
@json_option
def adopt(
    name: str | None, options: ConfigOptions, line: str, address: str, no_read: bool, yes: bool, lang: str,
    as_json: bool, **choices: Any
) -> None:  # fmt: skip
    """Add one device to the configuration: writes conf.d/NAME.toml, and conf.d/line-LINE.toml if its line is new.

    Identifies the device, and shows the file and the first values. Writes only after you confirm, and only if the
    whole configuration is valid with the new device. Never changes existing files. `scan --add` does the same for all
    devices that a scan finds.

    \b
    Examples:
      meterhouse adopt --line serial:/dev/ttyUSB0 --address 1
      meterhouse adopt main-meter --line cabinet-2 --address 3 --profile chint/dtsu666 --ct 400/5 --role grid --yes

    \b
    Exit codes: 0 added; 2 wrong usage, a name or address that is taken, or a folder that cannot be written;
    3 the configuration would be invalid; 4 the device does not answer or has no good value, or no profile fits;
    130 not confirmed.
    """
    config, words = options.load(), WORDS[lang]
    _demand_address(config, line, address, choices)
    ready(options, yes, "adopt")
    if no_read and not choices["profile"]:
        raise UsageError("has no effect without --profile", where="--no-read", hint="Add --profile ID")
    draft = (
        _from_options(config, line, address, **choices)
        if choices["profile"]
        else _identified(config, options, line, address, choices, lang)
    )
    _check_address(config, draft)
    if name is not None:
        draft.device["name"] = name
        _check_name(config, name)
    else:
        draft.device["name"] = _free_name(config, draft.device["name"])
    _refine(draft, config, choices)
    if is_terminal() and not yes:
        _ask(draft, config, words, name is not None, choices)
    facts = _add(draft, config, words, lang, yes, no_read, {})
    if as_json:
        click.echo(as_line(facts))
    else:
        for file in facts["files"]:
            click.echo(words["wrote"].format(file=clean_text(file, 400)))
        say_next(options, config, words)


def ready(options: ConfigOptions, yes: bool, where: str) -> None:
    """Raise GatewayError if the user cannot confirm new files, or if new files cannot be written.

    Called before a scan, so that the user does not wait for a long scan whose result cannot be stored.
    """
    config = options.load()
    if not yes and not is_terminal():
        raise UsageError("confirmation needed, but stdin is not a terminal", where=where, hint="Use --yes")
    check_writable(_folder(config))


def add_found(options: ConfigOptions, found: Sequence[FoundDevice], yes: bool, lang: str) -> int:
    """Add the devices that a scan found, one after the other. Returns the number of added devices."""
    from agent.cli.toml_snippet import tables

    words, added, config, dirs = WORDS[lang], 0, options.load(), profile_dirs(options.config_file)
    numbers: dict[str, str] = {}
    # all devices are passed in one call, because ``every`` depends on the load of the whole line
    together = tables(found, {}, lang, dirs)[-len(found) :] if found else []
    for device, text in zip(found, together, strict=True):
        title = {"protocol": device.protocol, "address": device.address}
        if not device.fits:
            click.echo(f"{words['note']}{words['none'].format(**title)}", err=True)
            continue
        config = options.load()  # load it again, because it now includes the devices added before
        entry = _configured(config, device.url)
        draft = _drafted(tables([device], {device.url: entry.name} if entry else {}, lang, dirs), config, device)
        if every := tomllib.loads(text)["device"][0].get("every"):
            draft.device["every"] = every
        if there := _same_address(config, draft):
            click.echo(f"{words['note']}{words['there'].format(name=there.name, **title)}", err=True)
            continue
        draft.device["name"] = _free_name(config, draft.device["name"])
        try:
            if not yes:
                _ask(draft, config, words, False, {})
            facts = _add(draft, config, words, lang, yes, False, numbers)
        except click.Abort:
            click.echo(f"{words['note']}{words['skipped'].format(name=draft.device['name'])}", err=True)
            continue
        except GatewayError as error:  # continue, because the other devices may still be added
            click.echo(as_complaint("error", error), err=True)
            click.echo(f"{words['note']}{words['skipped'].format(name=draft.device['name'])}", err=True)
            continue
        for file in facts["files"]:
            click.echo(words["wrote"].format(file=clean_text(file, 400)), err=True)
        added += 1
    if added:
        say_next(options, config, words)
    return added


def say_next(options: ConfigOptions, config: Config, words: Mapping[str, str]) -> None:
    """Print what to do next, after devices were added."""
    from agent.cli.common import agent_runs
    from agent.cli.options import config_flag

    flag = config_flag(options.config_file)
    then = words["reload"].format(c=flag) if agent_runs(config.runtime_dir) else words["start"]
    click.echo(words["next"].format(c=flag, then=then), err=True)


# --- the draft


def _from_options(config: Config, line: str, address: str, profile: str, serial: str | None, **_more: Any) -> Draft:
    """Return a draft from the options alone, without contacting the device."""
    from agent.cli.toml_snippet import line_name, stable
    from agent.config import parsers as v
    from agent.config import site_profiles

    found = {"name": "", "line": "", "address": address, "profile": given("--profile", v.profile_id, profile)}
    vendor, _, family = found["profile"].partition("/")
    found["name"] = f"{vendor if family.isdigit() else family}-{address.lstrip('0') or '0'}".lower()
    found["name"] = re.sub(r"[^a-z0-9]+", "-", found["name"]).strip("-")
    draft = Draft(found)
    entry = _configured(config, line)
    if entry is None:
        url = given("--line", v.line_url, line)
        draft.line = {"name": _unused(line_name(url), {one.name for one in config.lines}), "url": stable(url)}
        factory = site_profiles(config.profiles_dir)(found["profile"]).serial
        if serial or (factory and url.partition(":")[0] in BYTE_SCHEMES):
            draft.line["serial"] = given("--serial", v.serial, serial or factory)
    elif serial and given("--serial", v.serial, serial) != entry.serial:
        found["serial"] = serial
    found["line"] = draft.line["name"] if draft.line else entry.name if entry else ""
    return draft


def _identified(
    config: Config, options: ConfigOptions, line: str, address: str, choices: Mapping[str, Any], lang: str
) -> Draft:
    """Return a draft from the device's answers. Raises GatewayError if it does not answer or no profile fits."""
    import logging

    from agent.cli.identify import SILENT, registers_command
    from agent.cli.lease import borrow_line, line_factory
    from agent.cli.toml_snippet import tables
    from agent.config import parsers as v
    from drivers.model import sentences
    from drivers.scan import ScanOptions, one_device

    entry = _configured(config, line)
    url = entry.url if entry else given("--line", v.line_url, line)
    protocol, own = choices["protocol"], entry.serial if entry and entry.carries_bytes else ""
    # After the line's own serial setting, also try the usual setting of the protocol, because the new device may have
    # another setting than the other devices.
    usual = protocol_of(protocol).serial_settings[0]
    settings = [choices["serial"]] if choices["serial"] else [own, usual] if own not in ("", usual) else [usual]
    logging.getLogger("meterhouse").addHandler(
        logging.NullHandler()
    )  # nothing is logged, because the error is printed at the end
    dirs, garbled = profile_dirs(options.config_file), False
    for setting in settings:
        wanted = ScanOptions(url, (protocol,), (setting,), profile_dirs=dirs)
        scan = one_device(wanted, protocol, address, setting, line_factory())
        with borrow_line(config.runtime_dir, url, "identify", LEASE_S) as owner:
            owner.run(scan.identify_one())
        (found,) = scan.found
        if found.fits or found.seen == "answer":
            break
        garbled = garbled or found.seen == "garbled"
    else:
        what, hint = SILENT["garbled" if garbled else "silent"][0][0], "`meterhouse scan` finds devices that answer"
        if garbled:
            hint = SILENT["garbled"][1][0]
        if url.partition(":")[0] in BYTE_SCHEMES:
            hint = sentences(
                hint, f"The serial settings {', '.join(settings)} were tried; use --serial to try another setting"
            )
        for more in _framing_hints(url):
            hint = sentences(hint, more)
        raise LineTimeout(what, where=f"{url}, {protocol} {address}", hint=hint)
    if not found.fits and any(one.key == "garbled" for one in found.notes):
        what, hint = (
            "only some answers are valid, others are broken (CRC or length); no profile fits",
            SILENT["garbled"][1][0],
        )
        raise LineError(what, where=f"{url}, {protocol} {address}", hint=hint)
    if not found.fits:
        hint = (
            "Give the profile for the model on its nameplate, --profile VENDOR/FAMILY; see `meterhouse profiles list`"
        )
        if found.block:
            hint = sentences(hint, f"To see the device's registers: `{registers_command(found, options.config_file)}`")
        raise LineError(
            "the device answers, but no known profile fits", where=f"{url}, {protocol} {address}", hint=hint
        )
    return _drafted(tables([found], {url: entry.name} if entry else {}, lang, dirs), config, found)


def _framing_hints(url: str) -> list[str]:
    """Return hints for a network port, which may use another framing than the URL says; [] for a serial port."""
    scheme = url.partition(":")[0]
    if (framed := find_scheme(scheme)) is not None:
        return [framed.other_hint]
    return [] if scheme == "serial" else [one.hint for one in own_schemes()]


def _drafted(texts: Sequence[str], config: Config, device: FoundDevice) -> Draft:
    """Return a draft from the TOML tables that a scan prints. They contain everything that the scan found."""
    draft = Draft({}, identity=device.identity)
    for text in texts:
        read = tomllib.loads(text, parse_float=Decimal)
        draft.line = read["line"][0] if "line" in read else draft.line
        draft.device = read["device"][0] if "device" in read else draft.device
        draft.comments |= dict(re.findall(r"^(\w+) = .*?  # (.*)$", text, re.M)) if "device" in read else {}
    line = next((one for one in config.lines if one.name == draft.device.get("line")), None)
    if line is not None and draft.device.get("serial") == line.serial:
        del draft.device["serial"]
    if draft.line is not None and (taken := {line.name for line in config.lines}):
        draft.line["name"] = draft.device["line"] = _unused(draft.line["name"], taken)
    return draft


def _refine(draft: Draft, config: Config, choices: Mapping[str, Any]) -> None:
    """Apply the remaining options to the draft. Raises UsageError, which names the invalid option."""
    from agent.config import parsers as v
    from agent.config import site_profiles
    from drivers.toml import parsers as p

    device = draft.device
    if choices["label"]:
        device["label"] = given("--label", p.label, choices["label"])
    if choices["params"]:
        device["params"] = parse_params(choices["params"])
    limits = dict(given("--limit", _limit, text) for text in choices["limits"])
    if limits:
        device["limits"] = device.get("limits", {}) | limits
    ratios = {key: given(f"--{key}", _ratio, choices[key]) for key in ("ct", "pt") if choices[key]}
    if ratios:
        device["ratio"] = {key: given(f"--{key}", v.factor, value) for key, value in ratios.items()}
        draft.comments |= _nameplate(choices)
    if choices["roles"]:
        profile = site_profiles(config.profiles_dir)(device["profile"])
        pairs = [text.rpartition("=") for text in choices["roles"]]
        parts = _parts(profile, device.get("params", {}))
        points = _points(profile, device.get("params", {}))
        device["roles"] = {
            part or parts[0]: given("--role", partial(_role, profile.id, points, part or parts[0]), name)
            for part, _, name in pairs
        }


def _ask(draft: Draft, config: Config, words: Mapping[str, str], named: bool, choices: Mapping[str, Any]) -> None:
    """Ask the user for facts that only a person at the cabinet knows, and write the answers to the draft."""
    from agent.config import parsers as v
    from agent.config import site_profiles
    from drivers.toml import parsers as p

    device = draft.device
    click.echo(
        f"\n{device['line']} {device['address']}: {device['profile']} {draft.comments.get('profile', '')}", err=True
    )

    def free(text: str) -> str:
        name = device["name"] if text.lower() in AGREED else v.device_name(text)  # "yes" accepts the offered name
        _check_name(config, name)
        return name

    def known(text: str) -> str:
        try:
            return source(v.profile_id(text)).id
        except GatewayError as error:
            raise UsageError(error.what, where="profile", hint=error.hint) from None

    source = site_profiles(config.profiles_dir)
    if not named:
        device["name"] = asked(words["name"], free, device["name"])
    if not choices.get("profile"):
        offered, device["profile"] = device["profile"], asked(words["profile"], known, device["profile"])
        if device["profile"] != offered:
            draft.comments.pop("profile", None)
            device.pop("params", None)
            device.pop("every", None)
    profile = source(device["profile"])
    if not choices.get("label") and (label := asked(words["label"], p.label, "")):
        device["label"] = label
    parts = _parts(profile, device.get("params", {}))
    if "roles" not in device and parts[0]:
        question, likely = words["role"].format(part=parts[0]), LIKELY_ROLES.get(profile.kind, "")
        fitting = partial(_role, profile.id, _points(profile, device.get("params", {})), parts[0])
        if chosen := asked(question, lambda text: fitting(text) if text else "", likely):
            device["roles"] = {parts[0]: chosen}
    if "ratio" not in device and _multiplies(profile, device.get("params", {})):
        ct = asked(words["ct"], lambda text: v.factor(_ratio(text)), "1")
        if ct != 1:
            device["ratio"] = {"ct": ct}


def _role(profile: str, points: Sequence[Point], part: str, value: object) -> str:
    """Return a role that fits the part of a device. Raises InvalidValue."""
    from agent.config.devices import role
    from agent.roles import ROLES, fits, measured_by
    from drivers.toml.parsers import InvalidValue

    found = role(value)
    measured = measured_by(point.name for point in points if not part or point.name.startswith(f"{part}."))
    if not fits(found, measured):
        what = f'the role "{found}" does not fit, because {profile} measures {", ".join(sorted(measured))}'
        roles = ", ".join(one for one in ROLES if fits(one, measured))
        raise InvalidValue(what, f'Roles that fit: {roles}, or one of your own, such as "x.board"')
    return found


def _limit(value: object) -> tuple[str, Any]:
    from drivers.toml.parsers import InvalidValue

    name, equals, text = str(value).partition("=")
    if not equals or not re.fullmatch("[a-z_]+", name):
        raise InvalidValue(f"{clean_text(str(value), 40)} is not NAME=VALUE", 'Such as --limit timeout="2 s"')
    if text in ("true", "false"):
        return name, text == "true"
    return name, int(text) if text.isdecimal() else text.strip('"')


def _ratio(value: object) -> int | Decimal:
    """Return the number of a text such as "80", or the quotient of a text such as "400/5". Raises InvalidValue."""
    from drivers.toml.parsers import InvalidValue

    text = str(value).strip()
    if (match := _FRACTION.fullmatch(text)) and Decimal(match[2]):
        quotient = (Decimal(match[1]) / Decimal(match[2])).normalize()
        # the decimals of 10000/110 do not end; no transformer is as exact as six decimals
        text = str(round(quotient, 6) if int(quotient.as_tuple().exponent) < -12 else quotient)
    if not re.fullmatch(r"[0-9]+(\.[0-9]{1,12})?", text := format(Decimal(text), "f") if _is_number(text) else text):
        raise InvalidValue(
            f"{clean_text(str(value), 40)} is not a ratio", "Write 80 or 400/5 for a 400/5 A transformer"
        )
    return Decimal(text) if "." in text else int(text)


def _nameplate(choices: Mapping[str, Any]) -> dict[str, str]:
    """Return the comment after ``ratio``: the ratios that were given as a fraction, such as 10000/110."""
    written = [f"{key} {choices[key].strip()}" for key in ("ct", "pt") if "/" in (choices[key] or "")]
    return {"ratio": ", ".join(written)} if written else {}


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?", text))


def _points(profile: Profile, params: Mapping[str, Any]) -> Sequence[Point]:
    try:
        return profile.resolve(params).points
    except GatewayError:  # this error is reported later, when the configuration is loaded
        return ()


def _parts(profile: Profile, params: Mapping[str, Any]) -> list[str]:
    """Return the parts of a device that can have a role, the most likely part first; [""] if it has no parts."""
    fronts = {point.name.partition(".")[0] for point in _points(profile, params)}
    return [part for part in PARTS if part in fronts] or [""]


def _multiplies(profile: Profile, params: Mapping[str, Any]) -> bool:
    return any(point.ratio == "apply" for point in _points(profile, params))


# --- conflicts with the configuration


def _folder(config: Config) -> Path:
    return config.path.parent / "conf.d"


def _configured(config: Config, line: str) -> LineEntry | None:
    """Return the configured line with this name or port; None if there is none."""
    from agent.cli.lease import is_same
    from agent.cli.target import line_by_name
    from agent.config import parsers as v
    from drivers.toml.parsers import InvalidValue

    if (named := line_by_name(config, line)) is not None:
        return named
    try:
        url = v.line_url(line)  # the result has the default port if the text has no port
    except InvalidValue:
        url = line
    return next((one for one in config.lines if is_same(one.url, url)), None)


def _same_address(config: Config, draft: Draft) -> DeviceConfig | None:
    line, address = draft.device["line"], str(draft.device["address"])
    same = (one for one in config.devices if one.line == line and one.address.lstrip("0") == address.lstrip("0"))
    return None if draft.line is not None else next(same, None)


def _demand_address(config: Config, line: str, address: str, choices: Mapping[str, Any]) -> None:
    """Raise UsageError for an invalid line or address. Called before any question is asked.

    Errors in profiles are reported later.
    """
    from agent.cli.target import demand_address
    from agent.config import parsers as v
    from agent.config import site_profiles

    entry = _configured(config, line)
    scheme = entry.scheme if entry else given("--line", v.line_url, line).partition(":")[0]
    protocol = choices["protocol"]
    if choices["profile"]:
        try:
            protocol = site_profiles(config.profiles_dir)(given("--profile", v.profile_id, choices["profile"])).protocol
        except ProfileError:
            return
    demand_address(protocol, address, scheme, is_chosen=not choices["profile"])


def _check_address(config: Config, draft: Draft) -> None:
    if there := _same_address(config, draft):
        where = config.at(f"device.{there.name}")
        what = f"address {there.address} of line {there.line} already belongs to device {there.name}"
        raise UsageError(what, where=where, hint="Edit that device, or remove its file first")


def _check_name(config: Config, name: str) -> None:
    from agent.config import parsers as v

    given("NAME", v.device_name, name)
    if any(device.name == name for device in config.devices):
        where = config.at(f"device.{name}")
        raise UsageError(f"the name {name} is taken", where=where, hint=f"Choose another name, such as {name}-2")
    check_absent(_folder(config) / f"{name}.toml")


def _free_name(config: Config, name: str) -> str:
    taken = {device.name for device in config.devices}
    files = {path.stem for path in _folder(config).glob("*.toml")} if _folder(config).is_dir() else set()
    return _unused(name, taken | files)


def _unused(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name}-{number}", number + 1
    return found


# --- writing


def _add(
    draft: Draft,
    config: Config,
    words: Mapping[str, str],
    lang: str,
    yes: bool,
    no_read: bool,
    numbers: dict[str, str],
) -> dict[str, Any]:
    """Check the new files, read the device, show both, ask for confirmation, and write the files.

    Returns the facts for ``--json``. Raises GatewayError, or Abort if the user does not confirm. After an error,
    nothing was written. ``numbers``: device name -> known serial number; serial numbers that are read here are added.
    """
    from agent.cli.read import silence_hint
    from agent.cli.toml_snippet import say_why_every
    from agent.config import role_note

    name, folder = draft.device["name"], _folder(config)
    files = draft.files(folder, words)
    for file in files:
        check_absent(file)
    whole, entry = _loaded(config, files, name)
    if "every" not in draft.device and (every := _slower_paces(whole, entry)):
        draft.device["every"], draft.comments["every"] = every, say_why_every(lang)
        files = draft.files(folder, words)
        whole, entry = _loaded(config, files, name)
    if any(word in draft.comments.get("profile", "") for word in ("nameplate", "铭牌")):
        click.echo(
            f"{words['note']}{words['alike'].format(profile=entry.profile, comment=draft.comments['profile'])}",
            err=True,
        )
    ours = [f"device.{name}", *([f"line.{draft.line['name']}"] if draft.line else [])]
    place = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, ours))})(?![\w-])")  # not m10 if the name is m1
    for note in whole.notes:
        if place.search(note.where):
            click.echo(as_complaint("warning", note), err=True)
    if name in whole.roleless:
        click.echo(as_complaint("warning", role_note([name])), err=True)
    values: list[dict[str, Any]] = []
    if not no_read:
        try:
            values, number = _first_values(whole, entry, words, lang)
            _warn_of_twins(whole, entry, number or draft.identity.get(SERIAL, ""), numbers, lang)
        except LineError as error:
            if isinstance(error, LineTimeout) and not error.hint:
                error.hint = silence_hint(whole, entry)
            if yes:
                hint = f"{error.hint}. " if error.hint else ""
                hint = f"{hint}--no-read adds the device without reading it"
                raise type(error)(error.what, where=error.where, hint=hint) from error
            is_silent = isinstance(error, LineTimeout)
            text = words["silent"].format(error=say(str(error))) if is_silent else say(str(error))
            click.echo(as_complaint("warning", text), err=True)
    if not yes:
        for file, text in files.items():
            click.echo(f"\n{words['will_write'].format(file=clean_text(str(file), 400))}\n\n{text}", err=True)
    confirmed(yes, "adopt", lang, words["confirm"])
    make_folder(folder)
    _write(files)
    return {"file": str(folder / f"{name}.toml"), "files": [str(file) for file in files], "device": name,
            "line": entry.line, "address": entry.address, "profile": entry.profile, "values": values}  # fmt: skip


def _loaded(config: Config, files: Mapping[Path, str], name: str) -> tuple[Config, DeviceConfig]:
    """Return the configuration including these new files, and its device ``name``. Raises GatewayError."""
    from agent.config import load_config

    whole = load_config(config.path, state_dir=config.state_dir, runtime_dir=config.runtime_dir, drafts=files)
    return whole, next(device for device in whole.devices if device.name == name)


def _slower_paces(config: Config, entry: DeviceConfig) -> dict[str, str]:
    """Return longer periods for a device that would overload its line at the default paces.

    The result is the value for the device's key ``every``. It is {} if the device alone does not overload the line, or
    if the load cannot be calculated. Other devices of the line are not counted.
    """
    from agent.cli.toml_snippet import slower_paces

    try:
        every = slower_paces(replace(config, devices=(entry,))).get(entry.name, "{}")
    except (GatewayError, OSError):  # an error such as a full disk is reported later, when the file is written
        return {}
    return dict(tomllib.loads(f"every = {every}")["every"])


def _write(files: Mapping[Path, str]) -> None:
    """Write all files. If one cannot be written, write none of them. Raises GatewayError."""
    written: list[Path] = []
    try:
        for file, text in files.items():
            write_new(file, text)
            written.append(file)
    except GatewayError:
        for file in written:
            file.unlink()
        raise


def _first_values(
    config: Config, entry: DeviceConfig, words: Mapping[str, str], lang: str
) -> tuple[list[dict[str, Any]], str]:
    """Read the device as the agent will read it, and show the values that a person can compare with its display.

    Returns these values, and the device's serial number ("" if it reports none).
    """
    from rich.console import Console

    from agent.cli.common import show_quality
    from agent.cli.console_tables import cell, plain_table, quality_word
    from agent.cli.lease import borrow_line
    from agent.cli.read import is_missing, read_rounds, show_hints
    from agent.cli.ring_follower import number, show_number
    from agent.config import site_profiles

    profile = site_profiles(config.profiles_dir)(entry.profile)
    with borrow_line(config.runtime_dir, config.line(entry.line).url, "read", LEASE_S) as owner:
        rounds = owner.run(read_rounds(config, entry, profile))
    points, rows = rounds[-1].points, rounds[-1].by_name()
    table = plain_table("", words["point"], words["value"], words["unit"], words["quality"], right=(words["value"],))
    shown: list[dict[str, Any]] = []
    for name in first_points(points):
        value, quality = rows[name].value, show_quality(rows[name].quality)
        text = str(value) if isinstance(value, int) else show_number(value)
        shown_unit = show_unit(rows[name].unit)
        word = quality_word(rows[name].quality, lang)
        table.add_row(cell(name), cell(text, 60), cell(shown_unit), f"[yellow]{word}[/]" if word else "")
        plain = value if isinstance(value, int) else number(value)
        shown.append({"point": name, "value": plain, "unit": rows[name].unit, "quality": quality or "good"})
    click.echo(f"\n{words['reads']}", err=True)
    Console(stderr=True, highlight=False).print(table)
    missing = sum(is_missing(point, rows[point.name]) for point in points)
    if missing * 4 > len(points):
        click.echo(f"{words['note']}{words['missing'].format(missing=missing, all=len(points))}", err=True)
    show_hints(config, entry, profile, rounds, lang)
    if points and not any(
        rows[point.name].quality == Quality.GOOD for point in points if not is_missing(point, rows[point.name])
    ):
        raise LineError(
            f"none of the {len(points)} points of the device has a good value", where=f"device {entry.name}",
            hint="Is it the right profile and address? `meterhouse identify` tries all profiles",
        )  # fmt: skip
    serial = rows[SERIAL].value if SERIAL in rows else None
    return shown, "" if serial is None else str(serial)


def _warn_of_twins(config: Config, entry: DeviceConfig, number: str, known: dict[str, str], lang: str) -> None:
    """Warn if a configured device has the same serial number, because one meter may have two ports or two addresses."""
    from agent.cli.findings import ReadIdentity, same_serials

    if not number.strip():
        return
    for name, text in _serial_numbers(config, entry, known).items():
        known.setdefault(name, text)
    known[entry.name] = number
    ours = [entry, *(device for device in config.devices if device.name != entry.name and device.name in known)]
    read = [ReadIdentity(one.name, one.line, one.address, one.profile, known[one.name]) for one in ours]
    for found in same_serials(one for one in read if one.serial.strip().lower() == number.strip().lower()):
        click.echo(
            as_complaint("warning", LineError(found.text(lang), where=found.where, hint=found.advice(lang))), err=True
        )


def _serial_numbers(config: Config, entry: DeviceConfig, known: Mapping[str, str]) -> dict[str, str]:
    """Return device name -> serial number of the other devices; "" if a device reports none.

    If an agent runs, the numbers are in its snapshot. Otherwise, the configured devices with the same profile are read.
    """
    from agent.cli.common import agent_runs, read_snapshot
    from agent.cli.lease import borrow_line
    from agent.cli.read import chosen, read_once
    from agent.config import site_profiles

    if agent_runs(config.runtime_dir):
        devices = read_snapshot(config.runtime_dir).get("devices", {})
        return {name: str((facts.get("identity") or {}).get(SERIAL) or "") for name, facts in devices.items()}
    found: dict[str, str] = {}
    begin_s = time.monotonic()
    for other in config.devices:
        if other.profile != entry.profile or other.name in (entry.name, *known):
            continue
        if time.monotonic() - begin_s > TWINS_S:
            break
        # if the device does not answer or has no serial number, there is nothing to compare
        with suppress(GatewayError):
            found[other.name] = ""
            with borrow_line(config.runtime_dir, config.line(other.line).url, "read", LEASE_S) as owner:
                profile = site_profiles(config.profiles_dir)(other.profile)
                _, readings = owner.run(read_once(config, other, profile, partial(chosen, patterns=(SERIAL,))))
            found[other.name] = "" if readings[0].value is None else str(readings[0].value)
    return found
