#!/bin/sh
# Installs meterhouse from this bundle on a system without Debian packages. Usage: ./install [--remove [--purge]]
# Needs root, systemd 254 or newer, and the Python version in the bundle's name (PYTHON=... if it is not python3).
# Uses no network and no compiler. To upgrade or to roll back, run it from the bundle of another version.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
home=/opt/meterhouse
python=${PYTHON:-python3}
units="meterhouse.service meterhouse-certificates.service meterhouse-certificates.timer meterhouse-web.service"

fail() {
    echo "install: $*" >&2
    exit 1
}

case $*:$# in
:0 | --remove:1 | "--remove --purge:2") ;;
*) fail "usage: ./install [--remove [--purge]]" ;;
esac
[ "$(id -u)" = 0 ] || fail "run it as root"

if [ "${1:-}" = --remove ]; then
    systemctl disable --now meterhouse-web.service meterhouse.service meterhouse-certificates.timer 2>/dev/null || true
    for unit in $units; do rm -f "/etc/systemd/system/$unit"; done
    rm -rf "$home" /usr/local/bin/meterhouse /etc/sysusers.d/meterhouse.conf /etc/tmpfiles.d/meterhouse.conf \
        /etc/modules-load.d/meterhouse.conf /etc/udev/rules.d/61-meterhouse.rules
    systemctl daemon-reload 2>/dev/null || true
    if [ "${2:-}" = --purge ]; then
        # `meterhouse web --setup` has written these files; all other credentials belong to the operator
        rm -f /etc/credstore/meterhouse-web.certificate /etc/credstore/meterhouse-web.key \
            /etc/credstore/meterhouse-web.password
        rm -rf /etc/meterhouse /etc/default/meterhouse /run/meterhouse \
            /var/lib/systemd/timers/stamp-meterhouse-certificates.timer
        if [ -e /var/lib/meterhouse/KEEP ]; then
            echo "install: /var/lib/meterhouse stays, because of the file KEEP in it"
        else
            rm -rf /var/lib/meterhouse
            userdel meterhouse 2>/dev/null || true
            groupdel meterhouse-control 2>/dev/null || true
            groupdel meterhouse 2>/dev/null || true # userdel does not remove a group with other members
        fi
    fi
    exit 0
fi

# --- check everything before changing anything
wanted=$(cat "$here/PYTHON")
command -v "$python" >/dev/null 2>&1 || fail "$python not found. This bundle needs Python $wanted; if it is installed under another name: PYTHON=/usr/bin/python3.13 ./install"
found=$("$python" -c 'import sys, platform; print("%d.%d" % sys.version_info[:2], platform.machine())')
[ "$found" = "$wanted" ] || fail "this bundle is for Python $wanted, but $python is Python $found. Use the bundle for that Python, or set PYTHON=/usr/bin/python3.13 ./install"
systemd=$(systemctl --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p')
[ "${systemd:-0}" -ge 254 ] || fail "systemd 254 or newer is needed, found ${systemd:-none}"
(cd "$here" && sha256sum --quiet -c SHA256SUMS) || fail "the bundle is incomplete or damaged; copy it again"

# --- build the new environment completely before removing the old one, so that a failed build does not affect the agent
new=$home.new
rm -rf "$new"
"$python" -m venv --without-pip --prompt meterhouse "$new"
pip=$(echo "$here"/pip-*.whl)/pip
"$new/bin/python" "$pip" install -q --disable-pip-version-check --no-index --no-deps --require-hashes \
    --root-user-action ignore --find-links "$here/wheels" -r "$here/requirements.txt"
"$new/bin/python" -I -c 'import agent.cli.run' || fail "the libraries of this bundle do not run on this system; nothing was changed"
grep -rlI "$new" "$new/bin" "$new/pyvenv.cfg" | xargs sed -i "s|$new|$home|g"
rm -rf "$home.old"
[ ! -e "$home" ] || mv "$home" "$home.old"
mv "$new" "$home"
rm -rf "$home.old"
mkdir -p "$home/doc/examples" /usr/local/bin
ln -sf "$home/bin/meterhouse" /usr/local/bin/meterhouse
cp "$here"/docs/*.md "$home/doc/"
cp "$here/systemd/agent.toml" "$home/doc/examples/"

install -D -m 644 "$here/systemd/meterhouse.sysusers" /etc/sysusers.d/meterhouse.conf
install -D -m 644 "$here/systemd/meterhouse.tmpfiles" /etc/tmpfiles.d/meterhouse.conf
install -D -m 644 "$here/systemd/meterhouse.modules" /etc/modules-load.d/meterhouse.conf
install -D -m 644 "$here/systemd/meterhouse.udev" /etc/udev/rules.d/61-meterhouse.rules
[ -e /etc/default/meterhouse ] || install -D -m 644 "$here/systemd/meterhouse.default" /etc/default/meterhouse
for unit in $units; do
    sed "s|/usr/bin/meterhouse|$home/bin/meterhouse|; s|/usr/share/doc/meterhouse|$home/doc|" "$here/systemd/$unit" \
        >"/etc/systemd/system/$unit"
done
systemd-sysusers meterhouse.conf
systemd-tmpfiles --create meterhouse.conf
if [ -d /run/systemd/system ]; then
    udevadm control --reload 2>/dev/null || true
    systemctl restart systemd-modules-load.service || true
    systemctl daemon-reload
    systemctl enable -q --now meterhouse-certificates.timer
    systemctl enable -q meterhouse.service
    systemctl try-restart meterhouse.service meterhouse-web.service
fi
# Remove folders of old versions, which took requests as files instead of over the control socket. This comes after the
# restart, because an older agent uses the folders as long as it runs.
rm -rf /run/meterhouse/requests /run/meterhouse/leases /run/meterhouse/lock
if [ ! -e /etc/meterhouse/agent.toml ]; then
    echo "meterhouse: next: sudo meterhouse init, sudo meterhouse scan --line ... --add, sudo systemctl start meterhouse"
    echo "  (documents: $home/doc, begin with field-guide.md; an example of a configuration: examples/agent.toml)"
fi
