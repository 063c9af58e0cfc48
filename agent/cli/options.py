"""Options that several commands share, and the values made from them."""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import click

from agent.cli.common import as_complaint, language_of
from drivers.model import ConfigError, GatewayError, UsageError, clean_text

if TYPE_CHECKING:
    from agent.config import Config

    _DurationBase = click.ParamType[float]
else:
    # ParamType is not generic before click 8.3, so it cannot have a type argument at run time
    _DurationBase = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])
FILE: Final = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER: Final = click.Path(file_okay=False, path_type=Path)
LANGUAGE: Final = click.Choice(["en", "zh"])
DEFAULT_CONFIG: Final = "/etc/meterhouse/agent.toml"
_MINUTES: Final = re.compile(r"([0-9.]+)\s*m")
# matches the table [paths] up to the next table
_PATHS: Final = re.compile(r"^\[paths\][^\n]*\n((?:[^\[\n][^\n]*\n?|\n)*)", re.MULTILINE)

json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
param_option = click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the profile."
)


def config_flag(file: Path | str) -> str:
    """Return the option ` -c FILE` for a command that is shown to a person; "" for the default file."""
    return "" if str(file) == DEFAULT_CONFIG else f" -c {shlex.quote(str(file))}"


def line_help() -> str:
    """Return the help of ``--line`` for commands that also accept a configured device."""
    from drivers.registry import line_url_help

    return f"For a device that is not configured: its line, {line_url_help()}, or the name of a configured line."


def configured_folder(config_file: Path, key: str) -> Path | None:
    """Return a folder set in ``[paths]``, such as ``runtime_dir``; None if it is not set.

    This works even if the configuration is invalid.
    """
    try:
        more = sorted((config_file.parent / "conf.d").glob("[!.]*.toml"))
        # only regular files are read, because reading a pipe could block forever
        files = [one for one in (config_file, *more) if one.is_file()]
    except (OSError, ValueError):
        return None
    for file in files:
        if isinstance(found := _paths_table(file).get(key), str) and found and "\0" not in found:
            return file.parent / found
    return None


def _paths_table(file: Path) -> dict[str, Any]:
    """Return the table ``[paths]`` of a file; empty if there is none.

    If the file is not valid TOML, only the lines of this table are parsed. `check` reports the errors.
    """
    import tomllib

    with suppress(OSError, ValueError, RecursionError):
        text = file.read_text("utf-8-sig")
        try:
            paths = tomllib.loads(text).get("paths")
        except ValueError:
            found = _PATHS.search(text)
            paths = tomllib.loads(found[1]) if found else None
        return paths if isinstance(paths, dict) else {}
    return {}


def profile_dirs(config_file: Path, folder: Path | None = None) -> tuple[Path, ...]:
    """Return the folders to search for profiles, in order: ``--profiles``, ``profiles_dir``, then the default folders.

    The default folders are the folder of the site's profiles and the folder of the shipped profiles.
    """
    from drivers.profile import default_dirs

    own = (folder, configured_folder(config_file, "profiles_dir"))
    return tuple(dict.fromkeys((*(one for one in own if one is not None), *default_dirs())))


def _config_option(words: str) -> Any:
    return click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        default=DEFAULT_CONFIG,
        envvar="MH_CONFIG",
        show_default=True,
        help=words,
    )


def profiles_option(function: F) -> F:
    """Add ``--profiles`` and ``-c`` to a command. The command gets the folders to search as ``dirs``."""

    @wraps(function)
    def command(*, folder: Path | None, config_file: Path, **more: Any) -> Any:
        return function(dirs=profile_dirs(config_file, folder), **more)

    config = _config_option("A configuration; its [paths] profiles_dir is searched, too.")
    own = click.option("--profiles", "folder", type=FOLDER, help="A folder of profiles to search first.")
    decorated: F = config(own(command))
    return decorated


class FoundAgent(NamedTuple):
    """The runtime directory of an agent. ``config`` is None if the configuration is invalid or was not read.

    ``complaints``: errors in the files that would make the next start of the running agent fail.
    """

    folder: Path
    complaints: tuple[ConfigError, ...] = ()
    config: Config | None = None

    @property
    def timezone(self) -> str:
        """The time zone of the site; ``""`` without a valid configuration."""
        return self.config.timezone if self.config else ""

    @property
    def labels(self) -> dict[str, str]:
        """Device name -> label."""
        return {device.name: device.label for device in self.config.devices} if self.config else {}


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """The values of ``-c``, ``--state-dir`` and ``--runtime-dir``."""

    config_file: Path
    state_dir: Path | None = None
    runtime_dir: Path | None = None

    def load(self) -> Config:
        """Load and check the configuration, with the folders that the command line sets. Raises ConfigError."""
        from agent.config import load_config

        return load_config(self.config_file, state_dir=self.state_dir, runtime_dir=self.runtime_dir)

    def read_labels(self) -> Mapping[str, str]:
        """Return device name -> label. Raises ConfigError."""
        from agent.config import load_labels

        return load_labels(self.config_file)

    def find_runtime_dir(self, warn: bool = True, strict: bool = True) -> Path:
        """Return the folder that ``find_agent`` finds. If ``warn``, print the complaints of the result as warnings."""
        found = self.find_agent(strict)
        if warn:
            warn_of_next_start(found.complaints)
        return found.folder

    def find_agent(self, strict: bool = True) -> FoundAgent:
        """Return the agent's runtime directory, even if the configuration has become invalid.

        This is needed because a running agent keeps its previous configuration, and still answers, while the file is
        invalid.
        If ``strict``, raises ConfigError in two cases: the file does not exist and is not the default file, or the
        configuration is invalid and there is no snapshot of an agent.
        """
        if self.runtime_dir is not None:
            return FoundAgent(self.runtime_dir)
        usual = Path(os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0] or "/run/meterhouse")
        if not may_be_there(self.config_file):
            if strict and str(self.config_file) != DEFAULT_CONFIG:
                hint = "Give the file with -c FILE, or the folder of the running agent with --runtime-dir"
                raise ConfigError("there is no such file", where=str(self.config_file), hint=hint)
            return FoundAgent(usual)
        try:
            config = ConfigOptions(self.config_file, self.state_dir).load()
            return FoundAgent(config.runtime_dir, config=config)
        except ConfigError as error:
            folder = configured_folder(self.config_file, "runtime_dir") or usual
            if os.path.exists(folder / "snapshot.json"):
                return FoundAgent(folder, faults_of_files(error))
            if not strict:
                return FoundAgent(folder)
            hint = error.hint or "To reach a running agent, you can also give its folder with --runtime-dir"
            raise ConfigError(error.what, where=error.where, hint=hint, complaints=error.complaints) from error


def may_be_there(file: Path) -> bool:
    """True if the file exists, or if this user has no permission to check. False for an invalid name."""
    try:
        os.stat(file)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def is_denied(error: GatewayError) -> bool:
    """True if the cause of the error is that this user may not read a file."""
    return os.strerror(errno.EACCES) in error.what


def faults_of_files(error: ConfigError) -> tuple[ConfigError, ...]:
    """Return the errors in configuration files.

    Files that this user may not read are left out, as they may be valid.
    """
    return tuple(one for one in error.complaints if not is_denied(one))


def warn_of_next_start(complaints: Sequence[ConfigError]) -> None:
    """Print a warning for each error that would make the next start of the running agent fail."""
    for one in complaints:
        click.echo(as_complaint("warning", f"the next start of the agent would fail: {one}"), err=True)


def config_options(function: F) -> F:
    """Add the options of ``ConfigOptions`` to a command. The command gets them as ``options``."""

    @wraps(function)
    def command(*, config_file: Path, state_dir: Path | None, runtime_dir: Path | None, **more: Any) -> Any:
        return function(options=ConfigOptions(config_file, state_dir, runtime_dir), **more)

    config = _config_option(
        "The configuration file; files conf.d/*.toml beside it are read as well. The environment "
        "variable MH_CONFIG can give its path, too."
    )
    state = click.option("--state-dir", type=FOLDER, help="Folder of the database, instead of the configured one.")
    runtime = click.option(
        "--runtime-dir", type=FOLDER, help="Folder of the ring buffer and the snapshot, instead of the configured one."
    )
    decorated: F = config(state(runtime(command)))
    return decorated


@dataclass(frozen=True, slots=True)
class BrokerLogin:
    """The values of ``--ca-file`` and ``--username``, and the password in ``--password-file``."""

    ca_file: Path | None
    username: str | None
    password: str | None


def login_options(function: F) -> F:
    """Add the options of ``BrokerLogin`` to a command. The command gets them as ``login``."""

    @wraps(function)
    def command(*, ca_file: Path | None, username: str | None, password_file: Path | None, **more: Any) -> Any:
        password = first_line(password_file) if password_file else None
        return function(login=BrokerLogin(ca_file, username, password), **more)

    authority: Any = click.option("--ca-file", type=EXISTING_FILE, help="Trust this CA (mqtts).")
    user = click.option("--username", help="User name for the broker.")
    password = click.option(
        "--password-file", type=EXISTING_FILE, help="Password for the broker: first line of the file."
    )
    decorated: F = authority(user(password(command)))
    return decorated


def first_line(path: Path) -> str:
    """Return the first line of a password file. Raises UsageError if the file cannot be read or is not UTF-8."""
    where = f"--password-file {path}"
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except OSError as error:
        hint = "The user that runs this command must be able to read the file"
        raise UsageError(f"cannot be read: {error.strerror}", where=where, hint=hint) from error
    except UnicodeDecodeError as error:
        hint = "The password is the first line of the file"
        what = f"the file is not text in UTF-8 (byte {error.start + 1} is invalid)"
        raise UsageError(what, where=where, hint=hint) from error


def parse_broker(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Check and return the url of ``--broker``. Raises UsageError if ``agent.verify.live`` does not accept it."""
    from agent.verify.live import LiveError, broker_of

    try:
        if value:
            broker_of(value)
    except LiveError as error:
        raise UsageError(str(error), where="--broker", hint=error.hint.rstrip(".")) from None
    return value


def _choose_language(_ctx: click.Context, _param: click.Parameter, given: str | None) -> str:
    return language_of(given, os.environ)


lang_option = click.option(
    "--lang",
    type=LANGUAGE,
    callback=_choose_language,
    help="English or Chinese; default: from LANG.",
)


class Duration(_DurationBase):
    """Type of an option with a duration, such as ``500ms``, ``20s`` or ``2 min``.

    A number without a unit is seconds.
    """

    name = "duration"

    def __init__(self, low_s: float = 0.001, high_s: float = 366 * 86_400.0) -> None:
        self._low_ms, self._high_ms = round(low_s * 1000), round(high_s * 1000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the duration in seconds. Raises BadParameter."""
        if isinstance(value, float):
            return value
        from drivers.toml.parsers import InvalidValue, duration_ms

        text = str(value).strip()
        if (found := _MINUTES.fullmatch(text)) is not None:
            text = f"{found[1]} min"
        try:
            parse = duration_ms(self._low_ms, self._high_ms, "20 s")
            return parse(f"{text} s" if text[-1:].isdigit() else text) / 1000
        except InvalidValue as wrong:
            raise click.BadParameter(f"{wrong.what}. {wrong.hint}", ctx, param) from None


def parse_params(texts: Sequence[str]) -> dict[str, int | str]:
    """Parse parameters of a profile, which are texts such as ``racks=2``. Raises UsageError."""
    found: dict[str, int | str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            what = f'"{clean_text(text, 60)}" is not NAME=VALUE'
            raise UsageError(what, where="--param", hint="Write for example --param racks=2")
        found[name] = int(value) if re.fullmatch("-?[0-9]{1,11}", value) else value
    return found


def parse_time(text: str, where: str, timezone: str) -> int:
    """Parse a time. Returns UTC in ms. A text without Z or offset is local time in ``timezone``. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
        return round((found if found.tzinfo else found.replace(tzinfo=ZoneInfo(timezone))).timestamp() * 1000)
    except (ValueError, OverflowError):
        hint = "Write 2026-11-25, 2026-11-25T08:00 or 2026-11-25T00:00Z"
        raise UsageError(f"invalid time {clean_text(text)!r}", where=where, hint=hint) from None
