"""`meterhouse reload`: reload the configuration of the running agent, and print the result."""

from __future__ import annotations

import click

from agent.cli.answers import check_reloaded
from agent.cli.common import as_line
from agent.cli.options import ConfigOptions, config_options, json_option
from drivers.model import clean_text


@click.command()
@config_options
@json_option
def reload(options: ConfigOptions, as_json: bool) -> None:
    """Reload the configuration of the running agent, and show the result.

    The agent reads the files that it was started with, applies the changes and loses no reading. A configuration with
    any error changes nothing: the previous one stays in effect. For root and members of `[control] group`.

    \b
    Example:
      meterhouse reload

    \b
    Exit codes: 0 in effect, 1 no agent, no answer or an internal fault, 3 rejected.
    """
    from agent.cli.control import ask_running
    from agent.service.control.protocol import Reload

    found = check_reloaded(ask_running(options.find_runtime_dir(warn=False), Reload()))
    complaints, config, changed = (
        [clean_text(text, 1000) for text in found["complaints"]],
        found["config"],
        found["changed"],
    )
    if as_json:
        facts = {"ok": found["ok"], "config": config, "changed": changed, "complaints": complaints}
        click.echo(as_line(facts))
    elif not found["ok"]:
        for text in complaints:
            click.echo(f"error: {text}", err=True)
        if left_out := found.get("left_out"):
            click.echo(f"and {left_out} more", err=True)
        click.echo(f"rejected: the previous configuration {config} stays in effect", err=True)
    else:
        click.echo(f"configuration {config} is in effect: {changed}")
    raise SystemExit(1 if found["fault"] else 0 if found["ok"] else 3)
