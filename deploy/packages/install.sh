#!/bin/sh
# Installs Marquee from this archive, for hosts without dpkg. As root:
#   ./install.sh coordinator | worker | cli ...    what this host shall be
#   PREFIX=/usr/local                              where programs go
# Settings that are there already are kept. Nothing is started.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${PREFIX:-/usr/local}

if [ $# = 0 ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 2
fi
for what in "$@"; do
    case $what in
    coordinator | worker | cli) ;;
    *)
        echo "install.sh: \"$what\" is none of coordinator, worker, cli" >&2
        exit 2
        ;;
    esac
done
if [ "$(id -u)" != 0 ]; then
    echo "install.sh: only root can install; try: sudo $0 $*" >&2
    exit 1
fi

# program NAME [FOLDER]
program() {
    to=$prefix/${2:-bin}
    mkdir -p "$to"
    # Aside and renamed: a program that runs keeps the file it was started from.
    cp "$here/bin/$1" "$to/.$1.new"
    chmod 755 "$to/.$1.new"
    mv "$to/.$1.new" "$to/$1"
}

daemon() {
    mkdir -p /etc/systemd/system /etc/sysusers.d /etc/tmpfiles.d
    sed "s|/usr/local/|$prefix/|g" "$here/units/marquee-$1.service" >"/etc/systemd/system/marquee-$1.service"
    [ "$1" != worker ] || for unit in marquee-cage.socket marquee-cage@.service; do
        sed "s|/usr/local/|$prefix/|g" "$here/units/cage/$unit" >"/etc/systemd/system/$unit"
    done
    cp "$here/sysusers.d/marquee-$1.conf" /etc/sysusers.d/
    cp "$here/tmpfiles.d/marquee-$1.conf" /etc/tmpfiles.d/
    systemd-sysusers "marquee-$1.conf"
    systemd-tmpfiles --create "marquee-$1.conf"
    mkdir -p "$prefix/share/man/man8" "$prefix/share/doc/marquee"
    cp "$here/man/marquee-$1.8" "$prefix/share/man/man8/"
    cp "$here"/docs/*.md "$prefix/share/doc/marquee/"
    [ -e "/etc/marquee/$1.toml" ] || cp "$here/$1.toml" "/etc/marquee/$1.toml"
    systemctl daemon-reload 2>/dev/null || true
    with=
    [ "$1" != worker ] || with="marquee-cage.socket "
    echo "marquee-$1: settings in /etc/marquee/$1.toml; start it with: systemctl enable --now ${with}marquee-$1"
}

for what in "$@"; do
    case $what in
    coordinator)
        program marquee-coordinator
        daemon coordinator
        ;;
    worker)
        program marquee-worker
        program marquee-keeper libexec/marquee
        program marquee-prep
        program marquee-trainer
        mkdir -p "$prefix/lib/marquee"
        cp -R "$here/lib/marquee/." "$prefix/lib/marquee/"
        daemon worker
        ;;
    cli)
        program marquee
        mkdir -p "$prefix/share/man/man1" "$prefix/share/bash-completion/completions"
        cp "$here"/man/*.1 "$prefix/share/man/man1/"
        cp "$here/completions/marquee.bash" "$prefix/share/bash-completion/completions/marquee"
        # The pages that its error messages name.
        mkdir -p "$prefix/share/doc/marquee/errors"
        cp "$here"/docs/*.md "$prefix/share/doc/marquee/"
        cp "$here"/docs/errors/*.md "$prefix/share/doc/marquee/errors/"
        ;;
    esac
done
