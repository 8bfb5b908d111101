#!/bin/sh
# Installs, upgrades or removes agentd on this host. Shows what it would do, asks, then does it; a second run finds
# nothing to do. Everything is in functions: a script that was cut off on its way does nothing.
set -eu
umask 022

usage() {
    cat <<'USAGE'
usage: install.sh --offline DIR [--stack FILE] [--dry-run] [--yes]
       install.sh --uninstall [--purge] [--dry-run] [--yes]
  --offline DIR  folder with the package agentd_VERSION_ARCHITECTURE.deb and, to verify it, SHA256SUMS
  --stack FILE   becomes /etc/agentd/stack.toml; it is checked before anything is changed
  --uninstall    removes program and units, stops the services; settings, data and logs stay
  --purge        with --uninstall: removes those too
  --dry-run      shows the plan and changes nothing
  --yes          does not ask
Without a terminal and without --yes nothing is changed.
Exit codes: 0 done, or nothing to do; 1 not done, the message says why; 2 the command line is wrong
USAGE
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

plan() {
    steps="$steps
  $*"
}

# A person is asked where there is one, also when this script comes out of a pipe.
confirm() {
    if [ -z "$steps" ]; then
        echo "nothing to do"
        exit 0
    fi
    echo "This will be done:$steps"
    if [ "$dry_run" = yes ]; then
        echo "dry run: nothing was changed"
        exit 0
    fi
    [ "$(id -u)" = 0 ] || fail "run this as root; nothing was changed"
    [ "$assume_yes" = no ] || return 0
    if ! (: </dev/tty) 2>/dev/null; then
        fail "there is no terminal to ask on; give --yes to go on; nothing was changed"
    fi
    printf 'Go on? [y/N] ' >/dev/tty
    read -r answer </dev/tty
    case "$answer" in
        y | Y | yes) ;;
        *) fail "nothing was changed" ;;
    esac
}

installed_version() {
    dpkg-query --show --showformat='${db:Status-Status} ${Version}' agentd 2>/dev/null | sed -n 's/^installed //p'
}

find_package() {
    architecture=$(dpkg --print-architecture)
    package=
    version=
    for file in "$offline"/agentd_*_"$architecture".deb; do
        [ -e "$file" ] || continue
        found=$(dpkg-deb --field "$file" Version)
        if [ -z "$version" ] || dpkg --compare-versions "$found" gt "$version"; then
            package=$file version=$found
        fi
    done
    [ -n "$package" ] || fail "no agentd_*_$architecture.deb in $offline"
    package=$(cd "$(dirname "$package")" && pwd)/$(basename "$package")
    verified="not verified: no SHA256SUMS beside it"
    if [ -e "$offline/SHA256SUMS" ]; then
        (cd "$offline" && grep " [ *]\{0,1\}$(basename "$package")\$" SHA256SUMS | sha256sum --check --status) ||
            fail "$package does not match SHA256SUMS; nothing was changed"
        verified="matches SHA256SUMS"
    fi
}

# By the program of the package itself, which is not installed yet.
check_stack() {
    [ -r "$stack" ] || fail "$stack cannot be read; nothing was changed"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work" ./usr/bin/agentctl
    cp "$stack" "$work/stack.toml"
    "$work/usr/bin/agentctl" check "$work/stack.toml" >"$work/said" 2>&1 || {
        cat "$work/said" >&2
        fail "$stack has mistakes; nothing was changed"
    }
}

install_agentd() {
    [ -d /run/systemd/system ] || fail "this host does not run systemd; agentd runs there by hand: agentd run --home DIR"
    command -v dpkg >/dev/null || fail "this host has no dpkg: only Debian and its relatives are supported"
    find_package
    [ -z "$stack" ] || check_stack
    now=$(installed_version)
    put_package=no put_stack=no start=no
    if [ -z "$now" ]; then
        put_package=yes
        plan "install agentd $version from $package ($verified)"
    elif dpkg --compare-versions "$version" gt "$now"; then
        put_package=yes
        plan "upgrade agentd from $now to $version from $package ($verified); services run on"
    elif [ "$version" != "$now" ]; then
        fail "agentd $now is installed, which is newer than $version; nothing was changed"
    fi
    if [ -n "$stack" ] && ! cmp -s "$stack" $settings/stack.toml; then
        put_stack=yes
        if [ -e $settings/stack.toml ]; then
            plan "replace $settings/stack.toml by $stack; the one of now is kept as stack.toml.before"
        else
            plan "copy $stack to $settings/stack.toml"
        fi
    fi
    if [ -n "$stack" ] || [ -e $settings/stack.toml ]; then
        if ! systemctl is-active --quiet agentd.service || ! systemctl is-enabled --quiet agentd.service; then
            start=yes
            plan "start agentd, now and at every boot"
        fi
    fi
    confirm
    if [ $put_stack = yes ]; then
        mkdir -p $settings
        [ ! -e $settings/stack.toml ] || cp -p $settings/stack.toml $settings/stack.toml.before
        # By rename: a running agentd reads the file at any moment.
        cp "$stack" $settings/stack.toml.new
        mv $settings/stack.toml.new $settings/stack.toml
    fi
    if [ $put_package = yes ]; then
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$package" >/dev/null ||
            fail "the package was not installed; see above"
    fi
    if [ $start = yes ]; then
        systemctl enable --quiet agentd.service
        systemctl start agentd.service || fail "agentd does not start; see: journalctl --unit agentd"
    fi
    echo "done; agentctl status shows what runs"
}

uninstall_agentd() {
    state=$(dpkg-query --show --showformat='${db:Status-Status}' agentd 2>/dev/null || true)
    case "$state" in
        "" | not-installed) ;;
        config-files) [ "$purge" = no ] || plan "remove settings, data and logs of agentd" ;;
        *)
            plan "remove the firewall's rules of agentd: the host then lets in what others let in"
            plan "drain and stop all services, remove program and units"
            [ "$purge" = no ] || plan "remove settings, data and logs of agentd"
            ;;
    esac
    confirm
    if [ "$purge" = yes ]; then
        dpkg --purge agentd >/dev/null
    else
        dpkg --remove agentd >/dev/null
    fi
    echo "done; what listens on this host now: ss --listening --tcp --udp --numeric"
}

main() {
    offline='' stack='' dry_run=no assume_yes=no act=install purge=no steps=''
    settings=/etc/agentd
    while [ $# -gt 0 ]; do
        case "$1" in
            --offline | --stack)
                [ $# -ge 2 ] || { usage >&2; exit 2; }
                if [ "$1" = --offline ]; then offline=$2; else stack=$2; fi
                shift
                ;;
            --dry-run) dry_run=yes ;;
            --yes) assume_yes=yes ;;
            --uninstall) act=uninstall ;;
            --purge) purge=yes ;;
            --help | -h) usage; exit 0 ;;
            *) echo "install.sh: no such option: $1" >&2; usage >&2; exit 2 ;;
        esac
        shift
    done
    if [ $act = uninstall ]; then
        uninstall_agentd
    else
        [ -n "$offline" ] || { usage >&2; exit 2; }
        install_agentd
    fi
}

main "$@"
