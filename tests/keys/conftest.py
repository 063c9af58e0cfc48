"""A token in software, if one is here; and what was not tried, said at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from agent.cli.main import outcome

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
SKIPPED: list[str] = []


class Token:
    """SoftHSM2 with one token ``park7``, whose PIN lies in a file."""

    def __init__(self, folder: Path, module: str) -> None:
        self.module, self.pin_file = module, folder / "token.pin"
        self.pin_file.write_text("4711\n")
        self.pin_file.chmod(0o600)
        self.env = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
        (folder / "tokens").mkdir()
        (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", "park7", "--so-pin", "12345678", "--pin", "4711"],
            env={**os.environ, **self.env}, check=True, capture_output=True, timeout=30,
        )  # fmt: skip

    def uri(self, name: str, pin_source: str = "") -> str:
        """Where a key of this name lies in it."""
        pin = pin_source or f"file:{self.pin_file}"
        return f"pkcs11:token=park7;object={name}?module-path={self.module}&pin-source={pin}"


def why_no_token() -> str:
    """ "" where tokens can be tried."""
    if find_spec("pkcs11") is None:
        return "python-pkcs11 is not installed (pip install 'meterhouse[hardware]')"
    if not shutil.which("softhsm2-util") or not any(os.path.exists(module) for module in MODULES):
        return "SoftHSM2 is not installed (apt-get install softhsm2)"
    return ""


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """One for all tests: the library reads its configuration once in the life of a process."""
    if why := why_no_token():
        if why not in SKIPPED:
            SKIPPED.append(why)
        pytest.skip(why)
    made = Token(tmp_path_factory.mktemp("token"), next(module for module in MODULES if os.path.exists(module)))
    before = {name: os.environ.get(name) for name in made.env}
    os.environ.update(made.env)
    yield made
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skip nobody hears of looks like a test that passed."""
    for why in SKIPPED:
        terminalreporter.write_line(f"keys in tokens were not tried: {why}")


@pytest.fixture
def mh(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """(exit code, stdout, stderr) of a command line."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = outcome([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err, err
        return code, out, err

    return run
