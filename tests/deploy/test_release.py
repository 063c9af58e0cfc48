"""A release is signed, and who gets it can tell: as docs/deploy.md says, with stock ssh-keygen and sha256sum."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.service.control.peer import login_of

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("### Check who made a release")[2].partition("\n### ")[0]
FILES = {
    "meterhouse_0.1.0_amd64.deb": b"!<arch>\n",
    "meterhouse-0.1.0-cp313-cp313-linux_x86_64.whl": b"PK",
    "meterhouse-0.1.0-py313-x86_64.tar.gz": b"\x1f\x8b",
}
pytestmark = [
    pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here (apt: openssh-client)"),
    pytest.mark.skipif(not login_of(os.getuid()), reason="ssh-keygen needs a user with a name (add it to /etc/passwd)"),
]


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = [str(word) for word in words]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


def make_key(folder: Path, name: str) -> Path:
    done = run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name)
    assert done.returncode == 0, done.stderr
    return folder / name


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder with what a release has, signed by a maintainer; allowed_signers as the page has it, with his key."""
    key, folder = make_key(tmp_path, "maintainer"), tmp_path / "release"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    done = run(ROOT / "tools" / "sign", folder, key)
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"^maintainers@.* ssh-ed25519 AAAA\.\.\.$", SECTION, re.M)
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    (folder / "allowed_signers").write_text(line.replace("ssh-ed25519 AAAA...", public) + "\n")
    return folder


def check(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """The commands of the page, one after the other."""
    (script,) = re.findall(r"```sh\n(.*?)```", SECTION, re.S)
    return [run("sh", "-c", line, cwd=folder) for line in script.splitlines()]


def test_a_release_as_it_was_signed_holds(release: Path) -> None:
    signed, whole = check(release)
    assert signed.returncode == 0 and 'Good "meterhouse-release" signature' in signed.stdout
    assert whole.returncode == 0 and whole.stdout.count(": OK") == len(FILES)
    (release / "meterhouse-0.1.0-py313-x86_64.tar.gz").unlink()
    assert check(release)[1].returncode == 0, "who took one of the files checks that one"


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused(release: Path, name: str) -> None:
    (release / name).write_bytes(FILES[name][:-1] + b"?")
    signed, whole = check(release)
    assert signed.returncode == 0 and whole.returncode == 1 and f"{name}: FAILED" in whole.stdout


@pytest.mark.parametrize("at", [0, 70, -2])
def test_a_changed_list_is_refused(release: Path, at: int) -> None:
    """Nor can somebody who changes a file write its new hash into the list."""
    sums = bytearray((release / "SHA256SUMS").read_bytes())
    sums[at] ^= 1
    (release / "SHA256SUMS").write_bytes(sums)
    assert check(release)[0].returncode != 0


def test_somebody_elses_key_and_another_purpose_are_refused(release: Path, tmp_path: Path) -> None:
    assert run(ROOT / "tools" / "sign", release, make_key(tmp_path, "stranger")).returncode == 0
    assert check(release)[0].returncode != 0
    (release / "SHA256SUMS.sig").unlink()
    mail = run("ssh-keygen", "-Y", "sign", "-f", tmp_path / "maintainer", "-n", "file", release / "SHA256SUMS")
    assert mail.returncode == 0 and check(release)[0].returncode != 0


def test_what_was_signed_before_is_signed_anew_and_never_lists_itself(release: Path, tmp_path: Path) -> None:
    (release / "meterhouse_0.1.0_arm64.deb").write_bytes(b"another")
    assert run(ROOT / "tools" / "sign", release, tmp_path / "maintainer").returncode == 0
    listed = {line.split()[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    assert listed == {*FILES, "meterhouse_0.1.0_arm64.deb", "allowed_signers"}
    assert check(release)[0].returncode == 0


def test_without_a_key_it_says_how(tmp_path: Path) -> None:
    done = run("make", "-C", ROOT, "-o", ".venv/.demo", "release")
    assert done.returncode == 2 and "make release KEY=" in done.stderr
    assert run(ROOT / "tools" / "sign", tmp_path, tmp_path / "no-key").returncode == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "nothing to sign" in run(ROOT / "tools" / "sign", empty, make_key(tmp_path, "key")).stderr
