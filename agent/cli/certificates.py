"""`meterhouse check --certificates`: shows which configured certificates expire soon."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from agent.certificates import WARN_DAYS, Expiry, expiries, page_expiries

if TYPE_CHECKING:
    from agent.config import Config


def _complaint(expiry: Expiry, now_s: float) -> str:
    """Return the problem with a certificate; "" if there is none."""
    days = expiry.days(now_s)
    if expiry.destination:
        is_client = expiry.what == "the client certificate"
        # two whole texts, because the catalogue translates only whole texts
        named = f"the client certificate {expiry.file}" if is_client else f"the CA certificate {expiry.file}"
        where = f"destination {expiry.destination}: {named}"
        remedy = "replace the certificate; no restart is needed"
    else:
        where = f"the page's certificate {expiry.file}"
        remedy = "`meterhouse web --setup` makes a new certificate"
    if days is None:
        return f"{where} cannot be read: {expiry.error}"
    if days <= 0:
        return f"{where} expired {-days:.0f} days ago; {remedy}"
    return f"{where} expires in {days:.0f} days; {remedy}" if days <= WARN_DAYS else ""


def report(config: Config, as_json: bool) -> int:
    """Print all certificates, and warnings about them. Returns the exit code: 0, or 5 if there is a warning."""
    import click

    from agent.cli.common import as_complaint, as_line, say

    now_s = time.time()
    found = [*expiries(config.uplinks), *page_expiries(config.web.certificate)]
    complaints = [text for expiry in found if (text := _complaint(expiry, now_s))]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"destination": e.destination, "file": str(e.file), "what": e.what, "ends": e.ends, "days": e.days(now_s)}
            for e in found
        ]
        click.echo(as_line({"ok": not complaints, "certificates": rows, "complaints": complaints}))
    else:
        for expiry in found:
            days = expiry.days(now_s)
            left = "-" if days is None else say(f"{days:.0f} days")
            click.echo(f"{expiry.destination or '[web]'}  {expiry.file}  {left}")
        if not found:
            what = (
                "No destination has a certificate file, and the page has no certificate file that this user can read."
            )
            click.echo(say(what))
    journal = "JOURNAL_STREAM" in os.environ and not sys.stderr.isatty()
    for text in complaints:
        click.echo(f"<4>{text}" if journal else as_complaint("warning", text), err=True)
    return 5 if complaints else 0
