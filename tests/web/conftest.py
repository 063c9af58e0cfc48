"""The page as an ASGI application, on the traces that an agent leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from agent.config import PageConfig, WebConfig
from agent.settings import Secret
from agent.web.password import PasswordHash
from agent.web.routes import make_app
from tests.cli.conftest import Traces, traces

__all__ = ["Traces", "traces"]

PASSWORD = "correct horse battery"
LINE = PasswordHash.of(PASSWORD).line()


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    """Opens a page on ``tmp_path/run`` and gives a browser that does not follow redirects by itself."""
    with ExitStack() as stack:

        def open_page(password: bool = False, client: str = "127.0.0.1", **more: Any) -> TestClient:
            web = WebConfig()
            if password:
                (tmp_path / "password").write_text(LINE)
                web = WebConfig(password=Secret(file=tmp_path / "password"))
            config = PageConfig(web, "Asia/Shanghai", tmp_path / "run", **more)
            app = make_app(config)
            browser = TestClient(app, "http://127.0.0.1:8080", follow_redirects=False, client=(client, 50000))
            return stack.enter_context(browser)

        yield open_page
