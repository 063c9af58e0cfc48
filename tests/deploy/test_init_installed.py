"""`sudo meterhouse init` where the package is installed: who owns what, and who may read it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.users import ROOT, Town, why_no_users

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_no_users()), reason=why_no_users() or "can")]
# an /etc of its own with the package's user and folders, and an empty /var/lib, for this process only
SCRIPT = """
set -e
cp -a /etc "$1/etc"
echo "meterhouse:x:61777:61777::/var/lib/meterhouse:/usr/sbin/nologin" >> "$1/etc/passwd"
echo "meterhouse:x:61777:" >> "$1/etc/group"
mkdir "$1/etc/meterhouse" "$1/etc/meterhouse/conf.d"
chgrp 61777 "$1/etc/meterhouse" "$1/etc/meterhouse/conf.d"
chmod 750 "$1/etc/meterhouse" "$1/etc/meterhouse/conf.d"
mount --bind "$1/etc" /etc
mount -t tmpfs tmpfs /var/lib
umask 077
python="$2" home="$1"
shift 2
cd "$home"
mh() { "$python" -c 'from agent.cli.main import main; main()' "$@"; }
mh init --json --yes --site park7 --gateway gw01 --timezone Asia/Shanghai --broker mqtts://broker.example \
    --username park7/gw01 --password-file "$home/pw" --ca-file "$home/ca.pem"
cd /etc && stat -c '%U:%G %a %n' meterhouse meterhouse/agent.toml meterhouse/conf.d meterhouse/platform-ca.pem \
    credstore/meterhouse.platform-password /var/lib/meterhouse /var/lib/meterhouse/signing.key
cat /etc/credstore/meterhouse.platform-password
grep -v '^#' /etc/meterhouse/agent.toml
mh check >/dev/null
mh adopt m1 --line tcp://127.0.0.1:1 --address 1 --profile chint/dtsu666 --no-read --yes
stat -c '%U:%G %a %n' meterhouse/conf.d/m1.toml
"""


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    yield made
    made.close()


def test_root_makes_what_the_service_may_read(town: Town, tmp_path: Path) -> None:
    (town.folder / "pw").write_text("s3cr3t\nnot this\n")
    (town.folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    for name in ("pw", "ca.pem"):
        (town.folder / name).chmod(0o600)
    done = town.run(ROOT, "sh", "-c", SCRIPT, "sh", town.folder, sys.executable)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *rows = done.stdout.splitlines()
    facts = json.loads(first)
    assert facts["file"] == "/etc/meterhouse/agent.toml" and facts["key"] == "/var/lib/meterhouse/signing.key"
    assert rows[:7] == [
        "root:meterhouse 750 meterhouse",
        "root:meterhouse 640 meterhouse/agent.toml",
        "root:meterhouse 750 meterhouse/conf.d",
        "root:meterhouse 640 meterhouse/platform-ca.pem",
        "root:root 600 credstore/meterhouse.platform-password",
        "meterhouse:meterhouse 700 /var/lib/meterhouse",
        "meterhouse:meterhouse 600 /var/lib/meterhouse/signing.key",
    ]
    assert rows[7] == "s3cr3t"
    text = "\n".join(rows)
    assert (
        'password_credential = "meterhouse.platform-password"' in text
        and "s3cr3t" not in text[10 + text.index("s3cr3t") :]
    )
    assert 'ca_file = "/etc/meterhouse/platform-ca.pem"' in text and "[paths]" not in text
    assert rows[-1] == "root:meterhouse 640 meterhouse/conf.d/m1.toml"
