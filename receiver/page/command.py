"""`meterhouse platform page`: serves the fleet's page."""

from __future__ import annotations

import re
import sys
from zoneinfo import ZoneInfo

import click

from agent.cli.common import as_complaint, say
from agent.cli.options import lang_option
from agent.cli.questions import given
from agent.config import WebConfig
from agent.config.web import listen_address
from drivers.model import UsageError, clean_text
from receiver.options import db_option, start_log

ROOT = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


@click.command("page")
@click.option(
    "--listen",
    default="127.0.0.1:8090",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Address at which the proxy reaches the page.",
)
@click.option(
    "--root-path", default="", metavar="PATH", help="The proxy shows the page under this path, such as /fleet."
)
@click.option(
    "--name", "names", multiple=True, help="A host name under which viewers reach the page, such as fleet.example."
)
@click.option(
    "--timezone", default="UTC", show_default=True, help="Time zone of all times shown, such as Asia/Shanghai."
)
@db_option
@lang_option
def page_command(
    listen: str, root_path: str, names: tuple[str, ...], timezone: str, dsns: tuple[str, ...], lang: str
) -> None:
    """Serve the fleet's page: all gateways, and for each figure the packs from which it was computed.

    The page is read-only. A reverse proxy must add TLS and login; by default only this machine can connect.

    \b
    Examples:
      meterhouse platform page --db DSN
      meterhouse platform page --db DSN --name fleet.example --root-path /fleet

    \b
    Exit codes: 0 stopped, 1 the web server cannot listen on its address, 2 wrong usage, 3 a database cannot be used.
    """
    from agent.web.server import open_socket, serve
    from receiver.database import parse_shards
    from receiver.page.app import make_app
    from receiver.shards import each_shard

    host, port = given("--listen", listen_address, listen)
    root = root_path.rstrip("/")
    if root and not ROOT.fullmatch(root):
        raise UsageError(
            f'"{clean_text(root_path)}" is not a path', where="--root-path", hint="Expected a path such as /fleet"
        )
    try:
        zone = ZoneInfo(timezone)
    except (ValueError, OSError, KeyError):
        hint = "Expected a time zone such as UTC or Asia/Shanghai"
        raise UsageError(f'"{clean_text(timezone)}" is not a time zone', where="--timezone", hint=hint) from None
    _, away = each_shard(parse_shards(dsns), lambda connection: None, read_only=True)
    app = make_app(dsns, root=root, zone=zone, names=names)
    start_log()
    web = WebConfig(host, port)
    with open_socket(web, "--listen") as sock:
        for one in away:
            what = f"database {one.place} is unreachable: {one.why}. The other databases are shown"
            click.echo(as_complaint("warning", what), err=True)
        if not web.is_loopback:
            what = "anyone who can reach this address sees the fleet: put a proxy with TLS and a login in front of it"
            click.echo(as_complaint("warning", what), err=True)
        click.echo(say(f"The page is at http://{web.address}{root}/. Press Ctrl-C to stop this command"), err=True)
        sys.stderr.flush()
        serve(app, sock, None)
