"""Key and password as credentials of systemd: plain, encrypted, and named in a drop-in."""

from __future__ import annotations

import pytest

from tests.system.gateway import BROKER, M1, M2, STATE, Gateway

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
STORE = "/etc/credstore"
LOGIN = 'url = "mqtt://127.0.0.1:1884"\nusername = "gw01"\npassword_credential = "meterhouse.platform-password"'
LOCKED = "listener 1884 127.0.0.1\nallow_anonymous false\npassword_file /etc/mosquitto/passwords\n"


def test_the_key_and_a_password_as_credentials(gw: Gateway) -> None:
    """From /etc/credstore, its encrypted sister, and by LoadCredentialEncrypted=: the same key, and a login."""
    m, name = gw.machine, "meterhouse.signing-key"
    m.sh("mosquitto_passwd -b -c /etc/mosquitto/passwords gw01 'right one'; chown mosquitto /etc/mosquitto/passwords")
    m.write("/etc/mosquitto/conf.d/lab.conf", BROKER + LOCKED)
    m.run("systemctl", "restart", "mosquitto")

    def restarted() -> None:
        m.run("systemctl", "restart", "meterhouse")
        assert gw.settled(M1)["key"]["thumbprint"] == gw.kid

    key, encrypted = f"{STATE}/signing.key", f"{STORE}.encrypted"
    gw.configure(gw.config(key=f'credential = "{name}"', uplink=LOGIN))
    m.sh(f"install -D -m 600 {key} {STORE}/{name}; printf 'right one' > {STORE}/meterhouse.platform-password;"
         f"chmod 600 {STORE}/*; mv {key} /root/signing.key")  # fmt: skip
    restarted()

    m.sh(f"mkdir -p {encrypted}; cd {STORE}; for c in meterhouse.*; do systemd-creds encrypt --name=$c $c"
         f" {encrypted}/$c; rm $c; done; ! grep -rqa 'right one' {encrypted}")  # fmt: skip
    restarted()
    assert "EnvironmentFile" not in m.sh(f"cat /proc/{gw.pid}/environ") and not m.sh(f"ls {STORE}")

    own = "/etc/meterhouse/site-key.cred"
    m.sh(f"rm {encrypted}/{name}; systemd-creds encrypt --name=site-key /root/signing.key {own}")
    gw.drop_in("key", f"[Service]\nLoadCredentialEncrypted=site-key:{own}\n")
    gw.configure(gw.config(key='credential = "site-key"', uplink=LOGIN))
    restarted()

    said = m.sh("meterhouse status --json; journalctl -u meterhouse; cat /run/meterhouse/snapshot.json", ok=None)
    assert "right one" not in said
    m.sh(f"rm -r {encrypted} {own}; install -m 600 -o meterhouse -g meterhouse"
         f" /root/signing.key {key}")  # fmt: skip
    gw.drop_in("key", "")
    gw.configure(gw.config())
    restarted()
    gw.settled(M1, M2)
