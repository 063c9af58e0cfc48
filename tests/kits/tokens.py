"""A token in software: SoftHSM2 stands for a TPM, a card or an HSM."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


class Token:
    """SoftHSM2 with one token ``park7``, whose PIN is in a file."""

    def __init__(self, folder: Path, module: str) -> None:
        self.module, self.pin_file, self._folder = module, folder / "token.pin", folder
        self.pin_file.write_text("4711\n")
        self.pin_file.chmod(0o600)
        self.env = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
        (folder / "tokens").mkdir()
        (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", "park7", "--so-pin", "12345678", "--pin", "4711"],
            env={**os.environ, **self.env}, check=True, capture_output=True, timeout=300,
        )  # fmt: skip

    def reset(self) -> None:
        """Do what pulling the token out and putting it back does: all sessions end, and its objects are read anew."""
        import pkcs11

        pkcs11.lib(self.module).reinitialize()

    def hide(self) -> None:
        """Pull the token out."""
        self._folder.joinpath("tokens").rename(self._folder / "elsewhere")
        self._folder.joinpath("tokens").mkdir()
        self.reset()

    def show(self) -> None:
        """Put the token back."""
        shutil.rmtree(self._folder / "tokens")
        self._folder.joinpath("elsewhere").rename(self._folder / "tokens")
        self.reset()

    def uri(self, name: str, pin_source: str = "") -> str:
        """The PKCS#11 URI of the key with this name."""
        pin = pin_source or f"file:{self.pin_file}"
        return f"pkcs11:token=park7;object={name}?module-path={self.module}&pin-source={pin}"


def why_no_token() -> str:
    """Why no token can be used here; "" if one can."""
    if find_spec("pkcs11") is None:
        return "python-pkcs11 is not installed (pip install 'meterhouse[hardware]')"
    if not shutil.which("softhsm2-util") or not any(os.path.exists(module) for module in MODULES):
        return "SoftHSM2 is not installed (apt-get install softhsm2)"
    return ""


def module() -> str:
    """The library of the token."""
    return next(path for path in MODULES if os.path.exists(path))
