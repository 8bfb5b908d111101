#!/bin/sh
# Installs, upgrades or removes agentd on this host. Shows what it would do, asks, then does it; a second run finds
# nothing to do. Everything is in functions: a script that was cut off on its way does nothing.
set -eu
umask 022

usage() {
    cat <<'USAGE'
usage: install.sh [--from URL | --offline DIR] [--join TEXT [--allow-plain-http] | --join-file FILE | --stack FILE] [--mode MODE [--ssh NETWORK]... [--phrase TEXT]] [--dry-run] [--yes]
       install.sh --uninstall [--purge] [--dry-run] [--yes]
  --from URL     control server that has the package; a script that was fetched from one knows it
  --ca-file FILE authority that signed the certificate of that server, where it is none of this system's (PEM)
  --join TEXT    join string, as the control server shows it once: this host takes its stack from there. `-`: from stdin,
                 where no list of processes shows it; or --join-file FILE
  --allow-plain-http
                 speak to a control server on another machine without TLS: anybody on the way reads what is said
  --name NAME    what the control server shall call this host; else its host name
  --offline DIR  folder with the package agentd_VERSION_ARCHITECTURE.deb and, to verify it, SHA256SUMS. What it depends on
                 and is missing here comes from where apt gets packages; the plan names it
  --stack FILE   becomes /etc/agentd/stack.toml; it is checked before anything is changed
  --mode MODE    what this host lets in: open, daemon-port or tunnel (docs/security-modes.md); asked on a terminal. Without
                 a terminal and without this the firewall is left alone. The mode is on trial until it is confirmed
  --ssh NETWORK  may reach SSH in daemon-port; may be given several times
  --phrase TEXT  agrees to the end of SSH sessions; --yes does not. `agentctl security plan` says which phrase
  --accept, --force, --window TIME, --without-check NAME
                 go to `agentctl security apply` as they are; `agentctl help security apply` says what they mean
  --uninstall    stops the services, removes program, units and users; settings (/etc/agentd), data (/var/lib/agentd)
                 and logs (/var/log/agentd) stay
  --purge        with --uninstall: removes those too
  --dry-run      shows the plan, the rules of the firewall included, and changes nothing
  --yes          does not ask
Without a terminal and without --yes nothing is changed.
Exit codes: 0 done, or nothing to do; 1 not done, the message says why; 2 the command line is wrong
USAGE
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

wrong() {
    echo "install.sh: $*" >&2
    exit 2
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

# From a control server. What is fetched is as good as the server and the way to it: SHA256SUMS comes from there too.
fetch_package() {
    architecture=$(dpkg --print-architecture)
    mkdir "$work/fetched"
    fetch SHA256SUMS 1048576
    package=$(sed -n "s/^[0-9a-f]\{64\} [ *]\(agentd_[A-Za-z0-9.+~-]*_$architecture\.deb\)\$/\1/p" "$work/fetched/SHA256SUMS" |
        sort --version-sort | tail -n 1)
    [ -n "$package" ] || fail "$from has no agentd package for $architecture; put one in its packages folder; nothing was changed"
    fetch "$package" 268435456
    offline=$work/fetched
}

# One file of the server's packages, of at most $2 bytes.
fetch() {
    echo "fetching $from/packages/$1" >&2
    curl --fail --silent --show-error --location --proto '=https,http' --proto-redir =https --connect-timeout 15 --max-time 600 --max-filesize "$2" \
        ${ca_file:+--cacert "$ca_file"} --output "$work/fetched/$1" "$from/packages/$1" ||
        fail "$from/packages/$1 cannot be fetched; nothing was changed"
}

# By a file of its own, so that no list of processes shows it; before anything is installed only its form can be checked.
check_join() {
    [ -z "$stack" ] || wrong "--stack and --join: a stack comes from a file or from a control server"
    if [ -n "$join_file" ]; then
        [ -r "$join_file" ] || fail "$join_file cannot be read; nothing was changed"
        join=$(cat "$join_file")
    elif [ "$join" = - ]; then
        read -r join || fail "there is no join string on stdin; nothing was changed"
    fi
    case "$join" in
        agj1_*) ;;
        *) wrong "this is no join string: it starts with agj1_; the control server shows it once, when it is made" ;;
    esac
    if [ -e $identity ]; then
        join=
        echo "this host has joined a control server already; \`agentd leave\` ends that"
        return
    fi
    if [ -e $settings/stack.toml ]; then
        fail "this host has a stack already: $settings/stack.toml; \`agentd leave\` lets go of it, services run on; nothing was changed"
    fi
    (umask 077 && printf '%s\n' "$join" >"$work/join")
}

# The programs of the package itself, which is not installed yet.
unpack() {
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work" ./usr/bin/agentctl ./usr/bin/agentd
}

check_stack() {
    [ -r "$stack" ] || fail "$stack cannot be read; nothing was changed"
    cp "$stack" "$work/stack.toml"
    "$work/usr/bin/agentctl" check "$work/stack.toml" >"$work/said" 2>&1 || {
        cat "$work/said" >&2
        fail "$stack has mistakes; nothing was changed"
    }
}

check_mode() {
    case "$mode" in
        '' | open | daemon-port | tunnel) ;;
        *) wrong "--mode $mode: not one of open, daemon-port, tunnel" ;;
    esac
    [ -z "$ssh" ] || [ "$mode" = daemon-port ] || wrong "--ssh belongs to --mode daemon-port"
}

# Only where nobody has decided yet: neither here, nor in the stack file, nor before.
choose_mode() {
    [ -z "$mode" ] && [ "$dry_run$assume_yes" = nono ] && (: </dev/tty) 2>/dev/null || return 0
    [ -n "$stack" ] && ! grep -q '^ *\[security\]' "$stack" && [ ! -e /var/lib/agentd/firewall/active.json ] || return 0
    cat >/dev/tty <<'MODES'
What may come in to this host?
  open         whatever may now: the firewall is left alone
  daemon-port  the proxy, as plain HTTP, and SSH from networks you name
  tunnel       nothing: for a tunnel such as cloudflared, which this host opens itself
MODES
    printf 'Mode [open]: ' >/dev/tty
    read -r mode </dev/tty || mode=
    mode=${mode:-open}
    if [ "$mode" = daemon-port ] && [ -z "$ssh" ]; then
        printf 'Networks that may reach SSH, with blanks between them [none]: ' >/dev/tty
        read -r ssh </dev/tty || ssh=
    fi
    check_mode
}

# Runs "$@" with the mode's options behind it.
with_mode() {
    set -- "$@" --mode "$mode"
    for network in $ssh; do set -- "$@" --ssh "$network"; done
    "$@"
}

# What is in force is no step. A dry run shows what nft would be given, and this kernel is asked about it.
plan_mode() {
    [ "$(id -u)" = 0 ] || fail "only root can look at the firewall: run this as root; nothing was changed"
    with_mode "$work/usr/bin/agentd" firewall preview ${stack:+--stack "$stack"} \
        ${window:+--window "$window"} >"$work/preview" || fail "the mode $mode cannot be had; nothing was changed"
    if grep -q '^The rules, as nft' "$work/preview"; then
        set_mode=yes
        plan "put the security mode $mode on trial${ssh:+, with SSH from $ssh}"
        [ "$dry_run" = no ] || cat "$work/preview"
    else
        cat "$work/preview"
    fi
}

# A person at a terminal sees the trial to its end; everybody else is told, last of all, that it has one.
apply_mode() {
    set -- $pass ${window:+--window "$window"}
    [ -z "$phrase" ] || set -- "$@" --phrase "$phrase"
    if [ "$assume_yes" = no ]; then
        with_mode agentctl security apply "$@" </dev/tty >/dev/tty || fail "the mode is not in force; everything else is done"
        echo "done; agentctl status shows what runs"
    else
        with_mode agentctl security apply "$@" </dev/null >"$work/applied" ||
            fail "the mode is not in force; everything else is done"
        echo "done; agentctl status shows what runs"
        cat "$work/applied"
    fi
}

# What apt fetches besides, or cannot; nothing is changed and no cache is written.
plan_package() {
    DEBIAN_FRONTEND=noninteractive apt-get --simulate --no-install-recommends -o Dir::Cache::pkgcache= \
        -o Dir::Cache::srcpkgcache= install "$package" >"$work/said" 2>&1 || {
        cat "$work/said" >&2
        fail "apt cannot install what agentd depends on: run apt-get update, or install it first; nothing was changed"
    }
    besides=$(sed -n 's/^Inst \([^ ]*\).*/\1/p' "$work/said" | grep -v '^agentd$' | tr '\n' ' ' || true)
    [ -z "$besides" ] || plan "have apt fetch and install what agentd needs and this host lacks: $besides"
}

install_agentd() {
    [ -d /run/systemd/system ] || fail "this host does not run systemd; agentd runs there by hand: agentd run --home DIR"
    command -v dpkg >/dev/null || fail "this host has no dpkg: only Debian and its relatives are supported"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    [ -z "$join$join_file" ] || check_join
    [ -n "$offline" ] || fetch_package
    find_package
    unpack
    [ -z "$stack" ] || check_stack
    if [ -n "$mode" ] && [ -z "$stack$join" ] && [ ! -e $settings/stack.toml ] && [ ! -e $identity ]; then
        fail "--mode needs agentd to run, and that a stack: add --stack FILE or --join TEXT; nothing was changed"
    fi
    choose_mode
    now=$(installed_version)
    put_package=no put_stack=no start=no set_mode=no
    if [ -z "$now" ]; then
        put_package=yes
        plan "install agentd $version from $package ($verified)"
        plan_package
    elif dpkg --compare-versions "$version" gt "$now"; then
        put_package=yes
        plan "upgrade agentd from $now to $version from $package ($verified); services run on"
        plan_package
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
    [ -z "$join" ] || plan "join the control server: it says from then on what runs here${plain:+; over plain HTTP, which anybody on the way can read}"
    if [ -n "$stack$join" ] || [ -e $settings/stack.toml ] || [ -e $identity ]; then
        if ! systemctl is-active --quiet agentd.service || ! systemctl is-enabled --quiet agentd.service; then
            start=yes
            plan "start agentd, now and at every boot"
        fi
    fi
    [ -z "$mode" ] || plan_mode
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
    if [ -n "$join" ]; then
        agentd join --token-file "$work/join" ${ca_file:+--ca-file "$ca_file"} ${name:+--name "$name"} ${plain:+"$plain"} ||
            fail "this host has not joined; agentd is installed, and nothing runs yet: make a new token, then run this again"
    fi
    if [ $start = yes ]; then
        systemctl enable --quiet agentd.service
        systemctl start agentd.service || fail "agentd does not start; see: journalctl --unit agentd"
    fi
    if [ $set_mode = yes ]; then
        apply_mode
    else
        echo "done; agentctl status shows what runs"
    fi
}

# What the package could not take back is a failure here, with its cure.
taken_back() {
    journal=/var/lib/agentd/firewall/journal.json
    left=
    if [ -e $journal ]; then
        left="ufw still allows what agentd asked of it: delete the rules that \`ufw status numbered\` shows with the comment agentd:"
        left="$left, then: rm -r ${journal%/*}"
    fi
    if command -v nft >/dev/null && nft list table inet agentd >/dev/null 2>&1; then
        left="${left:+$left; }the rules are still in the kernel: nft delete table inet agentd"
    fi
    if grep -q '^# BEGIN agentd' /etc/hosts; then
        left="${left:+$left; }names are still in /etc/hosts: delete the lines from BEGIN agentd to END agentd"
    fi
    [ -z "$left" ] || fail "agentd is removed, but: $left"
}

uninstall_agentd() {
    state=$(dpkg-query --show --showformat='${db:Status-Status}' agentd 2>/dev/null || true)
    case "$state" in
        "" | not-installed) ;;
        config-files) [ "$purge" = no ] || plan "remove settings, data and logs of agentd" ;;
        *)
            plan "remove the firewall's rules of agentd: the host then lets in what others let in"
            plan "drain and stop all services, remove program, units and users"
            [ "$purge" = no ] || plan "remove settings, data and logs of agentd"
            ;;
    esac
    confirm
    if [ "$purge" = yes ]; then
        dpkg --purge agentd >/dev/null || fail "dpkg has not purged agentd; see above"
    else
        dpkg --remove agentd >/dev/null || fail "dpkg has not removed agentd; see above"
    fi
    taken_back
    [ "$purge" = yes ] || echo "kept: /etc/agentd, /var/lib/agentd and /var/log/agentd; --uninstall --purge removes them"
    echo "done; what listens on this host now: ss --listening --tcp --udp --numeric"
}

main() {
    # A control server that hands this script out writes its address here.
    from=''
    offline='' join='' join_file='' ca_file='' plain='' name='' stack='' mode='' ssh='' phrase='' window='' pass='' dry_run=no assume_yes=no act=install purge=no steps=''
    settings=/etc/agentd identity=/var/lib/agentd/identity
    while [ $# -gt 0 ]; do
        case "$1" in
            --from | --ca-file | --join | --join-file | --name | --offline | --stack | --mode | --ssh | --phrase | --window | --without-check)
                [ $# -ge 2 ] || { usage >&2; exit 2; }
                case "$1" in
                    --from) from=${2%/} ;;
                    --ca-file) ca_file=$2 ;;
                    --join) join=$2 ;;
                    --join-file) join_file=$2 ;;
                    --name) name=$2 ;;
                    --offline) offline=$2 ;;
                    --stack) stack=$2 ;;
                    --mode) mode=$2 ;;
                    --ssh) ssh="${ssh:+$ssh }$2" ;;
                    --phrase) phrase=$2 ;;
                    --window) window=$2 ;;
                    --without-check) pass="$pass --without-check $2" ;;
                esac
                shift
                ;;
            --accept | --force) pass="$pass $1" ;;
            --allow-plain-http) plain=$1 ;;
            --dry-run) dry_run=yes ;;
            --yes) assume_yes=yes ;;
            --uninstall) act=uninstall ;;
            --purge) purge=yes ;;
            --help | -h) usage; exit 0 ;;
            *) echo "install.sh: no such option: $1" >&2; usage >&2; exit 2 ;;
        esac
        shift
    done
    check_mode
    case "$join" in
        '' | - | agj1_*) ;;
        *) wrong "--join: this is no join string: it starts with agj1_" ;;
    esac
    if [ $act = uninstall ]; then
        uninstall_agentd
    else
        [ -n "$offline$from" ] || { usage >&2; exit 2; }
        install_agentd
    fi
}

main "$@"
