#!/bin/sh
# Installs, upgrades or removes agentd on this machine. `sh install.sh --help` says how.
# Everything stands in functions and the last line calls them: half a file, as a broken download leaves it, does nothing.
set -eu
umask 077

usage() {
    cat <<'TEXT'
usage: sh install.sh --offline DIR [options]
       sh install.sh --uninstall [--purge] [options]

  --offline DIR      folder with agentd_VERSION_ARCH.deb and SHA256SUMS (as `cargo xtask package` leaves it)
  --stack FILE       put FILE in place as /etc/agentd/stack.toml and start agentd
  --mode MODE        what the host lets in: open, daemon-port or tunnel (docs/security-modes.md). Asked on a terminal;
                     without a terminal and without this, the firewall is left alone
  --ssh NETWORK      network that may reach SSH in daemon-port; may be given several times
  --phrase TEXT      agreement to end SSH sessions, as `agentctl security plan` words it
  --yes              do not ask whether to go on; it is no agreement to end SSH
  --dry-run          show everything that would be done, the rules of the firewall included, and change nothing
  --uninstall        take agentd off this machine; its data stays
  --purge            with --uninstall: its data, logs, settings and users as well
  --help             this

Run again, it does only what is missing. Exit codes: 0 done or nothing to do, 1 failed, 2 wrong options, 3 refused by you.
TEXT
}

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
wrong() { printf 'install.sh: %s\n' "$*" >&2; exit 2; }

# One argument quoted for a shell, so that what is shown can be typed.
quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

# Shows a step, or takes it. Plan and deed are one list, gone through twice.
step() {
    count=$((count + 1))
    say "  $count. $1"
    shift
    if [ "$act" = do ]; then
        "$@" || fail "step $count failed; nothing after it was done"
    fi
}

# $1 is the list of steps.
plan_and_do() {
    act=show count=0
    "$1"
    if [ "$dry" = yes ]; then
        say 'Nothing was changed (--dry-run).'
        exit 0
    fi
    go_on 'Go on?'
    act=do count=0
    say 'Doing it:'
    "$1"
}

# Answers are read from the terminal, also when this script itself comes through a pipe.
has_terminal() { (: </dev/tty) 2>/dev/null; }

ask() {
    printf '%s' "$1" >/dev/tty
    IFS= read -r answer </dev/tty || answer=
}

go_on() {
    [ "$yes" = no ] || return 0
    has_terminal || fail "no terminal to ask on; add --yes to go on, or --dry-run to see what would be done"
    ask "$1 [y/N] "
    case "$answer" in y | Y | yes) ;; *) say 'Nothing was changed.'; exit 3 ;; esac
}

need_root() {
    [ "$(id -u)" = 0 ] || fail "this needs root: sudo sh install.sh ..."
}

check_machine() {
    command -v dpkg-deb >/dev/null || fail "this machine has no dpkg: agentd is packaged for Debian and Ubuntu"
    [ -d /run/systemd/system ] || fail "this machine is not run by systemd; run agentd in a folder instead: agentd run --stack FILE --home DIR"
    machine=$(dpkg --print-architecture)
}

find_package() {
    [ -n "$offline" ] || wrong "--offline DIR is needed: the folder with the package"
    [ -d "$offline" ] || fail "$offline is no folder"
    package=
    for candidate in "$offline"/agentd_*_"$machine".deb; do
        [ -e "$candidate" ] || continue
        # The newest version by Debian's own order.
        if [ -z "$package" ] || dpkg --compare-versions "$(version_of "$candidate")" gt "$(version_of "$package")"; then
            package=$candidate
        fi
    done
    [ -n "$package" ] || fail "no agentd_VERSION_$machine.deb in $offline"
    [ -r "$offline/SHA256SUMS" ] || fail "no SHA256SUMS in $offline: without it the package cannot be checked"
    wanted=$(awk -v name="$(basename "$package")" '$2 == name || $2 == "*" name { print $1 }' "$offline/SHA256SUMS")
    [ -n "$wanted" ] || fail "$(basename "$package") is not in SHA256SUMS"
    found=$(sha256sum "$package" | cut -d' ' -f1)
    [ "$wanted" = "$found" ] || fail "$(basename "$package") is not what SHA256SUMS says: damaged, or not ours"
    version=$(version_of "$package")
}

version_of() { dpkg-deb --field "$1" Version; }

installed_version() {
    # shellcheck disable=SC2016  # dpkg-query's own variables
    dpkg-query --show --showformat='${db:Status-Abbrev} ${Version}' agentd 2>/dev/null | awk '$1 == "ii" { print $2 }'
}

# Same version and same files as the package: nothing to install.
is_installed() {
    [ "$(installed_version)" = "$version" ] || return 1
    dpkg-deb --control "$package" "$scratch/control"
    [ -e "$scratch/control/md5sums" ] && (cd / && md5sum --check --status "$scratch/control/md5sums")
}

missing_packages() {
    dpkg-deb --field "$package" Depends | tr ',' '\n' | sed 's/|.*//; s/(.*//; s/ //g' | while read -r name; do
        [ -n "$name" ] || continue
        dpkg-query --show --showformat='${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || printf '%s ' "$name"
    done
}

install_package() {
    if [ -n "$missing" ]; then
        command -v apt-get >/dev/null || fail "missing packages: $missing; install them first"
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$(realpath "$package")"
    else
        dpkg --install "$package"
    fi
}

# The programs of the package that is to be installed, before it is.
unpack() {
    dpkg-deb --extract "$package" "$scratch/package"
    agentd=$scratch/package/usr/bin/agentd
    agentctl=$scratch/package/usr/bin/agentctl
}

check_stack() {
    [ -n "$stack" ] || return 0
    [ -r "$stack" ] || fail "$stack cannot be read"
    "$agentctl" check "$stack" >"$scratch/check" 2>&1 || {
        cat "$scratch/check" >&2
        fail "$stack cannot be used; nothing was changed"
    }
}

place_stack() {
    install -D -m 0644 "$stack" /etc/agentd/stack.toml.new
    mv /etc/agentd/stack.toml.new /etc/agentd/stack.toml
}

start_service() {
    systemctl enable --quiet agentd.service
    systemctl start agentd.service
}

choose_mode() {
    [ -z "$mode" ] && [ "$dry" = no ] && [ "$yes" = no ] && has_terminal || return 0
    [ -n "$stack" ] || [ -e /etc/agentd/stack.toml ] || return 0
    [ ! -e /var/lib/agentd/firewall/active.json ] || return 0
    say ''
    say 'What may come in from outside?'
    say '  open         leave the firewall as it is'
    say '  daemon-port  only the proxy, as plain HTTP, and SSH from networks you name'
    say '  tunnel       nothing; for a tunnel such as cloudflared that this host opens itself'
    ask 'Mode [open]: '
    mode=${answer:-open}
    check_mode
    if [ "$mode" = daemon-port ] && [ -z "$ssh" ]; then
        ask 'Networks that may reach SSH, with blanks between them [none]: '
        ssh=$answer
    fi
}

check_mode() {
    case "$mode" in
        '' | open | daemon-port | tunnel) ;;
        *) wrong "--mode $mode: not one of open, daemon-port, tunnel" ;;
    esac
    [ -z "$ssh" ] || [ "$mode" = daemon-port ] || wrong '--ssh belongs to --mode daemon-port'
}

mode_arguments() {
    set -- --mode "$mode"
    for network in $ssh; do set -- "$@" --ssh "$network"; done
    [ -z "$phrase" ] || set -- "$@" --phrase "$phrase"
    printf '%s\n' "$@"
}

current_mode() {
    "$agentctl" security status --json 2>/dev/null | sed -n 's/^ *"mode": *"\([a-z-]*\)".*/\1/p' | head -n 1
}

apply_mode() {
    agentctl=/usr/bin/agentctl
    # Arguments one a line: none of them can hold a line end.
    old=$IFS
    IFS='
'
    # shellcheck disable=SC2046
    set -- $(mode_arguments)
    IFS=$old
    if [ "$yes" = no ] && has_terminal; then
        "$agentctl" security apply "$@" </dev/tty >/dev/tty
    else
        "$agentctl" security apply "$@" </dev/null
        say "     the mode is on trial: keep it with \`agentctl security confirm\` from a NEW connection, or it ends by itself"
    fi
}

show_rules() {
    [ "$dry" = yes ] && [ "$mode" != open ] || return 0
    port=$(sed -n 's/^ *port *= *\([0-9]*\).*/\1/p' "${stack:-/etc/agentd/stack.toml}" 2>/dev/null | head -n 1)
    set -- --mode "$mode" --proxy-port "${port:-8080}"
    for network in $ssh; do set -- "$@" --ssh "$network"; done
    "$agentd" firewall render "$@" >"$scratch/rules" || fail 'the rules cannot be made'
    say '     as one transaction for nft, which this kernel was asked about:'
    sed 's/^/       /' "$scratch/rules"
    if command -v nft >/dev/null; then
        nft --check --json --file - <"$scratch/rules" || fail 'this kernel refuses the rules'
    else
        say '     (not asked: nft is not installed yet)'
    fi
}

install_steps() {
    if [ "$same" = no ]; then
        what="install agentd $version"
        [ -z "$before" ] || what="put agentd $version in the place of $before; services run on"
        step "$what${missing:+, and with it $missing}" install_package
    fi
    [ "$same_stack" = yes ] || step "put $(quoted "$stack") in place as /etc/agentd/stack.toml" place_stack
    [ "$to_start" = no ] || step 'enable and start agentd.service' start_service
    if [ "$same_mode" = no ]; then
        step "put the security mode $mode on trial${ssh:+, with SSH from $ssh}" apply_mode
        show_rules
    fi
}

install_agentd() {
    need_root
    check_machine
    find_package
    unpack
    check_stack
    missing=$(missing_packages)
    choose_mode
    before=$(installed_version)
    same=no same_stack=yes to_start=no same_mode=yes
    ! is_installed || same=yes
    [ -z "$stack" ] || cmp -s "$stack" /etc/agentd/stack.toml || same_stack=no
    if [ -n "$stack" ] || [ -e /etc/agentd/stack.toml ]; then
        systemctl is-active --quiet agentd.service || to_start=yes
    fi
    [ -z "$mode" ] || [ "$(current_mode)" = "$mode" ] || same_mode=no
    say "agentd $version on this machine ($machine):"
    if [ "$same $same_stack $to_start $same_mode" = 'yes yes no yes' ]; then
        say '  nothing to do'
        return 0
    fi
    if [ "$same_mode" = no ] && [ -z "$stack" ] && [ ! -e /etc/agentd/stack.toml ]; then
        fail "--mode needs a running agentd, and that a stack file: add --stack FILE"
    fi
    plan_and_do install_steps
    if [ -e /etc/agentd/stack.toml ]; then
        say 'Done. `agentctl status` shows the services.'
    else
        say 'Done. Put a stack file at /etc/agentd/stack.toml, then: systemctl enable --now agentd'
    fi
}

open_now() {
    # What others reach once our rules are gone, unless another firewall keeps it shut.
    ss -H -lntu 2>/dev/null | awk '{ print $1, $5 }' | grep -v -e ' 127\.' -e ' \[::1\]' | sort -u | sed 's/^/     /'
}

uninstall_steps() {
    if [ -e /var/lib/agentd/firewall ]; then
        step 'take the rules of agentd out of the firewall, and what it allowed in UFW' agentd firewall remove
    fi
    if [ "$purge" = yes ]; then
        step 'drain and stop the services; remove agentd, its settings, data, logs and users' remove_package --purge
    else
        step 'drain and stop the services; remove agentd (settings, data and logs stay; --purge removes them)' \
            remove_package --remove
    fi
}

remove_package() { dpkg "$1" agentd; }

uninstall_agentd() {
    need_root
    check_machine
    before=$(installed_version)
    if [ -z "$before" ] && { [ "$purge" = no ] || ! dpkg-query --status agentd >/dev/null 2>&1; }; then
        say 'agentd is not installed: nothing to do'
        return 0
    fi
    say "taking agentd $before off this machine:"
    plan_and_do uninstall_steps
    listening=$(open_now)
    if [ -n "$listening" ]; then
        say 'Done. These are listened on and no longer shut by agentd:'
        say "$listening"
    else
        say 'Done.'
    fi
}

main() {
    offline= stack= mode= ssh= phrase= yes=no dry=no purge=no verb=install_agentd
    while [ "$#" -gt 0 ]; do
        case "$1" in
            --offline | --stack | --mode | --ssh | --phrase)
                [ "$#" -ge 2 ] || wrong "$1 needs a value"
                case "$1" in
                    --offline) offline=$2 ;;
                    --stack) stack=$2 ;;
                    --mode) mode=$2 ;;
                    --ssh) ssh="${ssh:+$ssh }$2" ;;
                    --phrase) phrase=$2 ;;
                esac
                shift
                ;;
            --yes | -y) yes=yes ;;
            --dry-run) dry=yes ;;
            --uninstall) verb=uninstall_agentd ;;
            --purge) purge=yes ;;
            --join) wrong '--join: this version takes its stack from a file only; use --stack FILE' ;;
            --help | -h) usage; exit 0 ;;
            *) usage >&2; wrong "unknown option $1" ;;
        esac
        shift
    done
    check_mode
    [ "$purge" = no ] || [ "$verb" = uninstall_agentd ] || wrong '--purge belongs to --uninstall'
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 130' INT TERM
    "$verb"
}

main "$@"
