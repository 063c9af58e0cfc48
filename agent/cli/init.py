"""`meterhouse init`: creates the configuration and the key of a new gateway."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import as_complaint, as_line, columns, docs_folder
from agent.cli.config_files import (
    SECRET_MODE,
    check_absent,
    check_writable,
    make_folder,
    toml_text,
    write_new,
)
from agent.cli.options import DEFAULT_CONFIG, FOLDER, config_flag, json_option, lang_option
from agent.cli.questions import asked, confirmed, given, is_terminal
from drivers.model import GatewayError, UsageError, clean_text
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from agent.cli.keys.worker import KeyFacts
    from agent.config import Config

UPLINK: Final = "platform"
AGENT: Final = "meterhouse"  # the user as whom the packages run the agent
CREDENTIALS: Final = Path("/etc/credstore")  # the systemd unit imports meterhouse.* from this folder
CREDENTIAL: Final = f"meterhouse.{UPLINK}-password"
MAX_PASSWORD: Final = 4000

WORDS: Final = Catalogue(__package__, "init")


@dataclass(slots=True)
class Answers:
    """The values for the configuration. A value that was left out is ""."""

    site: str
    gateway: str
    timezone: str
    label: str = ""
    location: str = ""
    broker: str = ""
    username: str = ""
    password: str = ""  # as typed by the user; it is written into a separate file
    password_file: str = ""
    ca_file: str = ""
    ca_text: str = ""  # content of the CA file, which is written to ``ca_file``


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=FOLDER)
@click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), envvar="MH_CONFIG",
    help=f"The file to create, instead of DIR/agent.toml.  [default: {DEFAULT_CONFIG}]",
)  # fmt: skip
@click.option("--site", help="Name of the site, such as park7.")
@click.option("--gateway", help="Name of this gateway, such as gw01.")
@click.option("--timezone", help="Time zone, such as Asia/Shanghai.")
@click.option("--label", help="Free text, such as the name of the park.")
@click.option(
    "--location",
    metavar="LAT,LON",
    help="Latitude and longitude in degrees, such as 31.23,121.47; the agent uses them to know when it "
    "is night and inverters are off.",
)
@click.option(
    "--broker", metavar="URL", help="The broker's url, mqtts://HOST:8883. Without it the gateway sends nothing."
)
@click.option("--username", help="User name at the broker.")
@click.option("--password-file", metavar="FILE", help="File with the password in its first line.")
@click.option("--ca-file", metavar="FILE", help="The CA that signed the broker's certificate.")
@click.option("--yes", is_flag=True, help="Do not ask anything.")
@lang_option
@json_option
def init(
    folder: Path | None, config_file: Path | None, yes: bool, lang: str, as_json: bool, **flags: str | None
) -> None:
    """Create agent.toml, conf.d and the signing key of a new gateway, and show the key's thumbprint.

    Asks for everything that the options do not give. The folder /etc/meterhouse contains the configuration of
    the installed service; a configuration in another folder has its own database and key. Existing files are never
    overwritten.

    \b
    Examples:
      sudo meterhouse init
      meterhouse init bench --site park7 --gateway gw01 --timezone Asia/Shanghai --yes
      sudo meterhouse init --site park7 --gateway gw01 --timezone Asia/Shanghai --broker mqtts://broker.example:8883 \\
          --username park7/gw01 --password-file pw --ca-file ca.pem --yes

    \b
    Exit codes: 0 created; 2 wrong usage, or the file exists or cannot be written; 3 the result would be invalid;
    130 not confirmed.
    """
    from agent.config import load_config

    file = _target(folder, config_file)
    check_absent(file)
    check_writable(file.parent)
    words, installed = WORDS[lang], file == Path(DEFAULT_CONFIG)
    answers = _answers(flags, words, yes)
    if installed:
        _take_in(answers)
    secret = CREDENTIALS / CREDENTIAL if installed else file.parent / f"{UPLINK}-password"
    for path in (*([secret] if answers.password else ()), *([Path(answers.ca_file)] if answers.ca_text else ())):
        check_absent(path)
    text = _text(answers, words, installed)
    # check the text first, so that only a valid configuration is written
    config = load_config(file, drafts={file: text})
    if not yes:
        click.echo(f"{words['will_write'].format(file=clean_text(str(file), 400))}\n\n{text}", err=True)
        confirmed(yes, "init", lang)
    for note in config.notes:
        click.echo(as_complaint("warning", note), err=True)
    make_folder(file.parent)
    make_folder(file.parent / "conf.d")
    key = _key(config, installed)
    if answers.password:
        make_folder(secret.parent)
        write_new(secret, answers.password + "\n", SECRET_MODE)
    if answers.ca_text:
        write_new(Path(answers.ca_file), answers.ca_text)
    write_new(file, text)
    facts = {
        "file": str(file),
        "conf_d": str(file.parent / "conf.d"),
        "key": str(config.key.path(os.environ)),
        "thumbprint": key.kid,
        "trust": f"{config.base}={key.kid}",
    }
    if as_json:
        click.echo(as_line(facts))
    else:
        _show(facts, words, installed)


def _target(folder: Path | None, config_file: Path | None) -> Path:
    source = click.get_current_context().get_parameter_source("config_file")
    if folder is not None and config_file is not None and source is click.core.ParameterSource.COMMANDLINE:
        raise UsageError("a folder and -c cannot be given together", where="init", hint="Give either the folder or -c")
    if folder is not None:
        return folder / "agent.toml"
    return config_file or Path(DEFAULT_CONFIG)


def _answers(flags: Mapping[str, str | None], words: Mapping[str, str], yes: bool) -> Answers:
    """Return the answers from options and questions. Raises UsageError if questions are needed but not possible."""
    from agent.cli.target import local_timezone
    from agent.config import parsers as v
    from drivers.toml import parsers as p

    rules = {
        "site": v.site_name, "gateway": v.site_name, "timezone": v.timezone, "label": p.label, "location": _location,
        "broker": v.uplink_url,
        "username": p.label, "password_file": _existing, "ca_file": _existing,
    }  # fmt: skip
    found = {
        name: given(f"--{name.replace('_', '-')}", rules[name], text)
        for name, text in flags.items()
        if text is not None
    }
    asks = is_terminal() and not yes
    if missing := [f"--{name}" for name in ("site", "gateway", "timezone") if name not in found and not asks]:
        why = "stdin is not a terminal" if not is_terminal() else "--yes skips all questions"
        hint = "Such as --site park7 --gateway gw01 --timezone Asia/Shanghai"
        raise UsageError(f"{', '.join(missing)} must be given, because {why}", where="init", hint=hint)
    if not asks:
        return _fitting(Answers(**found))
    zone = local_timezone()
    for name, default in (("site", None), ("gateway", None), ("timezone", zone if zone != "UTC" else v.SHANGHAI)):
        if name not in found:
            found[name] = asked(words[name], rules[name], default)

    def optional(name: str) -> None:
        if name not in found:
            found[name] = asked(words[name], lambda text: rules[name](text) if text else "", "")

    optional("label")
    optional("location")
    optional("broker")
    if found["broker"]:
        optional("username")
        if found["username"] and "password_file" not in found:
            found["password"] = asked(words["password"], _password, "", hidden=True)
        if found["broker"].startswith("mqtts:"):
            optional("ca_file")
    return _fitting(Answers(**found))


def _location(value: object) -> str:
    """Return a location in the form "31.23,121.47". Raises InvalidValue."""
    from drivers.toml.parsers import InvalidValue, show

    number = r"(-?[0-9]{1,3}(?:\.[0-9]{1,16})?)"
    match = re.fullmatch(rf"\s*{number}\s*[,，]\s*{number}\s*", str(value))
    degrees = [Decimal(text) for text in match.groups()] if match is not None else []
    if not degrees or abs(degrees[0]) > 90 or abs(degrees[1]) > 180:
        raise InvalidValue(
            f"{show(str(value))} is not a location", "Write latitude and longitude in degrees, such as 31.23,121.47"
        )
    # maps show more decimals, but six are exact to a tenth of a metre
    return ",".join(f"{one:f}" if int(one.as_tuple().exponent) >= -6 else f"{one:.6f}" for one in degrees)


def _existing(value: object) -> str:
    """Return the absolute path of an existing file, because the configuration may be in another folder."""
    from drivers.toml.parsers import InvalidValue, show

    path = Path(str(value)).absolute()
    if not path.is_file():
        raise InvalidValue(f"file {show(str(value))} does not exist", "Copy the file to this path first")
    return str(path)


def _password(value: object) -> str:
    from drivers.toml.parsers import InvalidValue

    text = str(value)
    if len(text) > MAX_PASSWORD or not text.isprintable():
        raise InvalidValue("a password must be one line of printable characters", "Type the password again")
    return text


def _fitting(answers: Answers) -> Answers:
    """Return the answers unchanged. Raises UsageError if an answer has no effect because another answer is missing."""
    for option, value, needs, there in (
        ("--username", answers.username, "--broker", answers.broker),
        ("--password-file", answers.password_file, "--username", answers.username),
        ("--ca-file", answers.ca_file, "--broker mqtts://...", answers.broker.startswith("mqtts:")),
    ):
        if value and not there:
            raise UsageError(
                f"has no effect without {needs}", where=option, hint=f"Add {needs}, or leave this option out"
            )
    return answers


def _take_in(answers: Answers) -> None:
    """Read the password and the CA file. Their content is copied into files of the service.

    The service itself cannot read home folders or files of root.
    """
    from agent.cli.options import first_line

    if answers.password_file:
        answers.password, answers.password_file = first_line(Path(answers.password_file)), ""
    folder = Path(DEFAULT_CONFIG).parent
    if answers.ca_file and Path(answers.ca_file).parent != folder:
        try:
            answers.ca_text = Path(answers.ca_file).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot be read: {error}", where=answers.ca_file, hint="A CA file is text (PEM)"
            ) from error
        answers.ca_file = str(folder / f"{UPLINK}-ca.pem")


def _text(answers: Answers, words: Mapping[str, str], installed: bool) -> str:
    """Return the text of agent.toml, with comments."""
    base, docs = f"{answers.site}/{answers.gateway}", docs_folder()
    key = "/var/lib/meterhouse/signing.key" if installed else "state/signing.key"
    label = f"label = {toml_text(answers.label)}" if answers.label else f'# label = ""  # {words["c_label"]}'
    latitude, _, longitude = answers.location.partition(",")
    location = [f"latitude = {latitude}", f"longitude = {longitude}"] if answers.location else []
    lines = [
        f"# {words['top'].format(docs=docs / 'configuration.md' if docs else 'docs/configuration.md')}",
        f"# {words['top2']}",
        "",
        "[site]",
        f"# {words['c_site'].format(base=base)}",
        f"id = {toml_text(answers.site)}",
        f"gateway = {toml_text(answers.gateway)}",
        f"timezone = {toml_text(answers.timezone)}  # {words['c_zone']}",
        label,
        *location,
        "",
        f"# {words['c_key'].format(key=key)}",
        "",
    ]
    if not installed:
        lines += [f"[paths]  # {words['c_paths']}", 'state_dir = "state"', 'runtime_dir = "run"',
                  'profiles_dir = "profiles"', ""]  # fmt: skip
    lines += _uplink(answers, words, installed)
    lines += [
        "",
        f"# {words['c_devices']}",
        f"# {words['c_devices2']}",
        "#[[line]]",
        '#name = "cabinet-2"',
        '#url = "serial:/dev/serial/by-id/usb-FTDI_FT232R_A1-if00-port0"',
        '#serial = "9600 8N1"',
        "#[[device]]",
        '#name = "main-meter"',
        '#line = "cabinet-2"',
        '#address = "3"',
        '#profile = "acrel/adl400"',
        "#ratio = { ct = 80 }",
        '#roles = { "ac" = "grid" }',
    ]
    return "\n".join(lines) + "\n"


def _uplink(answers: Answers, words: Mapping[str, str], installed: bool) -> list[str]:
    if not answers.broker:
        return [f"# {words['c_uplink']}", "#[[uplink]]", f'#name = "{UPLINK}"', '#url = "mqtts://broker.example:8883"']
    lines = ["[[uplink]]", f'name = "{UPLINK}"', f"url = {toml_text(answers.broker)}"]
    if answers.username:
        lines.append(f"username = {toml_text(answers.username)}")
    if answers.password and installed:
        lines.append(f"password_credential = {toml_text(CREDENTIAL)}  # {CREDENTIALS / CREDENTIAL}")
    elif answers.password or answers.password_file:
        path = answers.password_file or f"{UPLINK}-password"
        lines.append(f"password_file = {toml_text(path)}  # {words['c_password']}")
    if answers.ca_file:
        lines.append(f"ca_file = {toml_text(answers.ca_file)}")
    return lines


def _key(config: Config, installed: bool) -> KeyFacts:
    """Return the existing key, or create one in a folder of the agent's user."""
    from agent.cli.keys.worker import CreateKey, ReadKey, work_on_key

    path = config.key.path(os.environ)
    if installed and os.geteuid() == 0:
        _make_state(config.state_dir)
    else:
        make_folder(path.parent, 0o700)
    try:
        there = path.exists()
    except OSError as error:
        raise GatewayError(f"cannot be accessed: {error.strerror}", where=str(path), hint="Use sudo") from error
    return work_on_key(ReadKey(str(path)) if there else CreateKey(str(path), int(time.time()), "Ed25519"))


def _make_state(folder: Path) -> None:
    """Create the state folder with the owner and mode that systemd gives it at the first start of the service."""
    import pwd

    if folder.exists():
        return
    try:
        agent = pwd.getpwnam(AGENT)
    except KeyError:
        what = f"this system has no user {AGENT}"
        hint = "Install the package first, or give a folder: `meterhouse init DIR`"
        raise UsageError(what, where="init", hint=hint) from None
    folder.mkdir(0o700)
    os.chown(folder, agent.pw_uid, agent.pw_gid)


def _show(facts: Mapping[str, Any], words: Mapping[str, str], installed: bool) -> None:
    from agent.cli.qr import can_show, terminal_qr

    rows = [(words["files"], facts["file"]), *((words[name], facts[name]) for name in ("key", "thumbprint", "trust"))]
    width = max(columns(name) for name, _ in rows)
    for name, text in rows:
        click.echo(f"{name}{' ' * (width - columns(name))}  {clean_text(text, 500)}")
    if can_show():
        click.echo(f"\n{terminal_qr(facts['trust'], sys.stdout.isatty())}\n")
    click.echo(words["hand_over"], err=True)
    flag = config_flag(facts["file"])
    start = "`systemctl start meterhouse`" if installed else f"`meterhouse run{flag}`"
    click.echo(words["next"].format(c=flag, start=start), err=True)
