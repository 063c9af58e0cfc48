"""`meterhouse reload`: reloads the configuration of the running agent, and prints the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from agent.cli.answers import check_reloaded
from agent.cli.common import as_complaint, as_line, say
from agent.cli.options import ConfigOptions, config_options, json_option, lang_option
from drivers.model import GatewayError, clean_text
from drivers.texts import Catalogue

WORDS: Final = Catalogue(__package__, "reload")


@click.command()
@lang_option
@config_options
@json_option
def reload(lang: str, options: ConfigOptions, as_json: bool) -> None:
    """Reload the configuration of the running agent, and show what changed.

    The agent reads the files that it was started with, and applies the changes without losing a reading. If there is
    any error, nothing changes: the previous configuration stays in effect. Only root and members of `[control] group`
    may do this.

    \b
    Example:
      meterhouse reload

    \b
    Exit codes: 0 the configuration is in effect; 1 no agent, no answer or an internal error;
    3 the agent rejected the configuration.
    """
    from agent.cli.control import ask_running
    from agent.service.control.protocol import Reload

    try:
        found = check_reloaded(ask_running(options.find_runtime_dir(warn=False), Reload()))
    except GatewayError as error:
        if as_json:
            facts = {"ok": False, "config": None, "changed": "", "complaints": [clean_text(str(error), 1000)]}
            click.echo(as_line(facts | {"changes": [], "warnings": []}))
        raise
    complaints, config, changed = (
        [clean_text(text, 1000) for text in found["complaints"]],
        found["config"],
        found["changed"],
    )
    if as_json:
        facts = {"ok": found["ok"], "config": config, "changed": changed, "complaints": complaints}
        facts["changes"], facts["warnings"] = found.get("changes", []), found.get("warnings", [])
        click.echo(as_line(facts))
    elif not found["ok"]:
        for text in complaints:
            click.echo(as_complaint("error", text), err=True)
        if left_out := found.get("left_out"):
            click.echo(say(f"and {left_out} more"), err=True)
        click.echo(WORDS[lang]["rejected"].format(config=config), err=True)
    else:
        click.echo(WORDS[lang]["in effect"].format(config=config))
        for text in _changes(found, changed, WORDS[lang]):
            click.echo(f"  {clean_text(text, 400)}")
        for text in found.get("warnings", []):
            click.echo(as_complaint("warning", clean_text(text, 1000)), err=True)
    raise SystemExit(1 if found["fault"] else 0 if found["ok"] else 3)


def _changes(found: Mapping[str, Any], changed: str, words: Mapping[str, str]) -> Iterator[str]:
    """Yield one line per change.

    If an agent of an earlier version lists no changes, yield only the text ``changed``.
    """
    if "changes" not in found:
        yield changed
    elif not found["changes"]:
        yield words["nothing"]
    else:
        for one in found["changes"]:
            name = " ".join(filter(None, (words.get(one["kind"], f"[{one['kind']}]"), one["name"])))
            keys = words["keys"].format(", ".join(one["keys"])) if one["keys"] else ""
            yield f"{name} {words.get(one['change'], one['change'])}{keys}"
