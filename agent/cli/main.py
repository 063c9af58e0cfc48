"""The command `meterhouse`. It imports the module of a command only when needed, and turns errors into exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TextIO

import click

from agent.cli.common import REQUESTED, as_complaint, complain, docs_folder, say
from agent.cli.help import TranslatedFormatter, usage_message
from drivers.model import GatewayError, UsageError, clean_text

if TYPE_CHECKING:
    from drivers.line import Line


class CommandEntry(NamedTuple):
    """The module of a command, and its line in the help.

    The line is written here, so that the help imports no command.
    """

    module: str
    help: str
    name: str = ""  # name of the command in its module; "" if it is the same as on the command line


COMMANDS: Mapping[str, CommandEntry] = {
    "run": CommandEntry("agent.cli.run", "Read, seal, store and deliver until stopped."),
    "demo": CommandEntry("agent.cli.demo", "Show a simulated park live, from meter to verifier."),
    "init": CommandEntry("agent.cli.init", "Create the configuration and the key of a new gateway."),
    "check": CommandEntry("agent.cli.check", "Check the configuration, the requests and the load of each line."),
    "scan": CommandEntry("agent.cli.scan", "Find the devices on a line and the profiles that fit them."),
    "adopt": CommandEntry("agent.cli.adopt", "Add one device to the configuration, in a file of its own."),
    "identify": CommandEntry("agent.cli.identify", "Identify one device and the profile that fits it."),
    "read": CommandEntry("agent.cli.read", "Read one device once and print its values."),
    "watch": CommandEntry("agent.cli.watch.command", "Show live values or frames of the agent, without disturbing it."),
    "web": CommandEntry(
        "agent.web.command", "Serve the gateway's web page: live values, gaps, computed figures and frames."
    ),
    "status": CommandEntry("agent.cli.status", "Show the state of the running agent, its lines and devices."),
    "doctor": CommandEntry(
        "agent.cli.doctor.command", "Examine this machine and the agent; write an archive for support."
    ),
    "reload": CommandEntry("agent.cli.reload", "Reload the configuration of the running agent."),
    "profiles": CommandEntry("agent.cli.profiles", "List, show and check profiles of device families."),
    "decode": CommandEntry("agent.cli.decode", "Explain bytes and registers; no hardware is needed."),
    "keys": CommandEntry("agent.cli.keys.commands", "Create, show and publish the key that signs readings."),
    "verify": CommandEntry("agent.cli.verify", "Check signatures, chains and completeness of packs."),
    "export": CommandEntry("agent.cli.export", "Export packs, readings and intervals of a time range to files."),
    "report": CommandEntry("agent.cli.report.command", "Show the park's figures of a day, month or year as a page."),
    "handover": CommandEntry(
        "agent.cli.handover.command",
        "Sign a record of the commissioning: the readings and the values on the devices' displays.",
    ),
    "declare": CommandEntry(
        "agent.cli.declare", "Enter values that no meter measures, such as areas and green certificates."
    ),
    "replay": CommandEntry("agent.cli.replay", "For the platform: ask a gateway to send packs again."),
    "platform": CommandEntry("receiver.commands", "Platform side: receive, verify and store the packs of a fleet."),
    "simulate": CommandEntry("agent.cli.simulate", "Simulate devices from profiles or a recorded dump."),
    "bench": CommandEntry("agent.cli.bench", "Measure how many devices this machine can read."),
}

# optional package -> extra of our wheel that installs this package
EXTRAS: Mapping[str, str] = {"psycopg": "platform", "pika": "platform"}
# this applies to all commands, because each has its help in two languages
click.Context.formatter_class = TranslatedFormatter


class Commands(click.Group):
    """A group whose commands are imported when they are called. Commands whose module is not installed are left out."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in COMMANDS.items() if _exists(entry.module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None or not _exists(entry.module):
            return None
        try:
            found = getattr(import_module(entry.module), entry.name or cmd_name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name not in EXTRAS:
                raise
            hint = f"pip install 'meterhouse[{EXTRAS[error.name]}]'"
            raise UsageError(f"the package {error.name} is not installed", where=cmd_name, hint=hint) from None
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f'Did you mean "{near[0]}"?' if near else "`meterhouse --help` lists all commands"
            ctx.fail(f'unknown command "{clean_text(name, 40)}". {hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, COMMANDS[name].help) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if folder := docs_folder():
            with formatter.section("Documents"):
                for name in ("field-guide.md", "field-guide.zh.md", "commands.md"):
                    formatter.write(f"  {folder}/{name}\n")


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"meterhouse {version('meterhouse')}")
    except PackageNotFoundError:  # the command runs from a source tree
        click.echo("meterhouse (not installed)")
    ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def cli() -> None:
    """Reads the meters, inverters, batteries and heat plants of a park, and delivers signed readings.

    \b
    First steps:
      meterhouse demo                                   see it work, without hardware
      meterhouse scan --line serial:/dev/ttyUSB0        what is on this bus?
      meterhouse init                                   the configuration and the key of a new gateway
      meterhouse scan --line ... --add                  add the devices that a scan finds
      meterhouse check --plan                           is the configuration valid? Are the lines fast enough?
      meterhouse watch                                  live values of the running agent

    \b
    Exit codes: 0 good; 1 internal error; 2 wrong usage; 3 bad configuration or profile;
    4 a device, line or frame failed; 5 a broker failed; 6 verification failed or is unproven.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code.

    A GatewayError becomes one line on stderr; with MH_DEBUG=1 it keeps its traceback.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that cannot show Chinese gets escapes instead of an error
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(outcome(args))


def outcome(args: Sequence[str] | None = None, line_factory: Callable[..., Line] | None = None) -> int:
    """Run a command line. Prints its errors and returns its exit code.

    ``line_factory``: a function that simulations use to open lines, instead of ``drivers.line.open_line``.
    """
    stdout = sys.stdout
    language = REQUESTED.set(_language(sys.argv[1:] if args is None else args))
    try:
        result = cli.main(None if args is None else list(args), "meterhouse", standalone_mode=False, obj=line_factory)
        sys.stdout.flush()
        code = result if isinstance(result, int) else 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if sys.stdout is not stdout:  # click replaces stdout if the reader of stdout has exited
            code = _pipe_closed(stdout)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = 130  # the exit code with which a shell reports Ctrl-C
    except BrokenPipeError:
        code = _pipe_closed(stdout)
    except Exception as error:
        if os.environ.get("MH_DEBUG", "") not in {"", "0"}:
            raise
        code = _print_error(error)
    finally:
        REQUESTED.reset(language)
    return code


def _language(args: Sequence[str]) -> str | None:
    """Return the value of ``--lang`` before the command is parsed, so that usage errors are in this language, too."""
    given = [after if one == "--lang" else one.removeprefix("--lang=") for one, after in pairwise([*args, ""])
             if one == "--lang" or one.startswith("--lang=")]  # fmt: skip
    return given[-1] if given and given[-1] in ("en", "zh") else None


def _print_error(error: Exception) -> int:
    """Print the error, and return its exit code."""
    if isinstance(error, GatewayError):
        complain(error)
        return error.exit_code
    # click 8.2 and later raise this error
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if isinstance(error, click.UsageError):
        click.echo(as_complaint("error", usage_message(error)), err=True)
        if error.ctx is not None:
            more = say(f"See `{error.ctx.command_path} --help`.")
            click.echo(f"{error.ctx.get_usage()}\n{more}", err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        click.echo(as_complaint("error", error.format_message()), err=True)
        return error.exit_code
    what = f"internal error: {type(error).__name__}: {clean_text(str(error), 500)}"
    click.echo(as_complaint("error", what), err=True)
    click.echo(say("Run the command again with MH_DEBUG=1 and send us the output."), err=True)
    return 1


def _pipe_closed(stdout: TextIO) -> int:
    """Drop the remaining output after its reader has exited, as in `| head`. Returns 0, because this is not an error.

    SIGPIPE would do this too, but the process ignores it: the signal would end the agent when a broker closes a
    connection.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    return 0


if __name__ == "__main__":
    main()
