#!/bin/sh
# Installs meterhouse from this bundle on a system without Debian's packages: ./install [--remove [--purge]]
# Needs root, systemd 254 or newer, and the Python that the bundle's name says. Uses no network and no compiler.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
home=/opt/meterhouse
python=${PYTHON:-python3}

if [ "$(id -u)" != 0 ]; then
    echo "install: run it as root" >&2
    exit 1
fi
units="meterhouse.service meterhouse-certificates.service meterhouse-certificates.timer"

if [ "${1:-}" = --remove ]; then
    systemctl disable --now meterhouse.service meterhouse-certificates.timer 2>/dev/null || true
    for unit in $units; do rm -f "/etc/systemd/system/$unit"; done
    rm -rf "$home" /usr/local/bin/meterhouse /etc/sysusers.d/meterhouse.conf /etc/tmpfiles.d/meterhouse.conf \
        /etc/modules-load.d/meterhouse.conf /etc/udev/rules.d/61-meterhouse.rules
    systemctl daemon-reload 2>/dev/null || true
    if [ "${2:-}" = --purge ]; then
        rm -rf /etc/meterhouse /etc/default/meterhouse /run/meterhouse
        [ -e /var/lib/meterhouse/KEEP ] || rm -rf /var/lib/meterhouse
    fi
    exit 0
fi

(cd "$here" && sha256sum --quiet -c SHA256SUMS)
# the new environment is complete before the old one goes: a failure half way leaves what is running alone
new=$home.new
rm -rf "$new"
"$python" -m venv "$new"
"$new/bin/pip" install -q --disable-pip-version-check --no-index --no-deps --require-hashes \
    --find-links "$here/wheels" -r "$here/requirements.txt"
"$new/bin/python" -c 'import agent.cli.run'
sed -i "s|$new|$home|g" "$new/bin/meterhouse"
rm -rf "$home.old"
[ ! -e "$home" ] || mv "$home" "$home.old"
mv "$new" "$home"
rm -rf "$home.old"
ln -sf "$home/bin/meterhouse" /usr/local/bin/meterhouse

install -D -m 644 "$here/systemd/meterhouse.sysusers" /etc/sysusers.d/meterhouse.conf
install -D -m 644 "$here/systemd/meterhouse.tmpfiles" /etc/tmpfiles.d/meterhouse.conf
install -D -m 644 "$here/systemd/meterhouse.modules" /etc/modules-load.d/meterhouse.conf
install -D -m 644 "$here/systemd/meterhouse.udev" /etc/udev/rules.d/61-meterhouse.rules
[ -e /etc/default/meterhouse ] || install -D -m 644 "$here/systemd/meterhouse.default" /etc/default/meterhouse
for unit in $units; do
    sed "s|/usr/bin/meterhouse|$home/bin/meterhouse|; s|/usr/share/doc/meterhouse|$home/doc|" "$here/systemd/$unit" \
        >"/etc/systemd/system/$unit"
done
mkdir -p "$home/doc/examples"
cp "$here"/docs/*.md "$home/doc/"
cp "$here/systemd/agent.toml" "$home/doc/examples/"
systemd-sysusers meterhouse.conf
systemd-tmpfiles --create meterhouse.conf
udevadm control --reload 2>/dev/null || true
if [ -d /run/systemd/system ]; then
    systemctl restart systemd-modules-load.service || true
    systemctl daemon-reload
    systemctl enable -q --now meterhouse-certificates.timer
    systemctl enable -q meterhouse.service
    systemctl try-restart meterhouse.service
fi
echo "meterhouse: next, put /etc/meterhouse/agent.toml in its place (an example: $home/doc/examples/agent.toml),"
echo "  then: meterhouse check && systemctl start meterhouse"
