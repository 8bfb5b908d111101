#!/bin/sh
# Makes the root tree of the test hosts, once, and prints where it is. Run by the tests and by `cargo xtask setup`; two at
# a time wait for each other. The tree is of this machine's own release and mirror: programs built here must run in it.
set -eu

packages=systemd,systemd-sysv,dbus,nftables,ufw,iproute2,iputils-ping,procps,git,ca-certificates,python3,openssh-server,curl

[ "$(id -u)" = 0 ] || { echo "base.sh: the root tree of the test hosts needs root" >&2; exit 1; }
. /etc/os-release
components=main
[ "$ID" != ubuntu ] || components=main,universe
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
    sed -n "s/^$VERSION_CODENAME //p" | sed -n 1p)
: "${mirror:=http://deb.debian.org/debian}"

key=$(printf '%s %s %s' "$VERSION_CODENAME" "$(uname -m)" "$packages" | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/agentd-test-hosts
tree=$cache/$VERSION_CODENAME-$key
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ ! -d "$tree" ]; then
    new=$tree.new
    rm -rf "$new"
    echo "base.sh: making $tree from $mirror, which takes minutes" >&2
    debootstrap --variant=minbase --components=$components --include=$packages "$VERSION_CODENAME" "$new" "$mirror" >"$tree.log" 2>&1 9>&- || {
        tail -n 20 "$tree.log" >&2
        echo "base.sh: debootstrap failed; all it said is in $tree.log" >&2
        exit 1
    }
    rm -rf "$new"/var/cache/apt/*.bin "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/*_*
    # A host whose clock and journal are its own; nothing that wakes up during a test.
    : >"$new/etc/machine-id"
    mkdir -p "$new/var/log/journal"
    for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
        e2scrub_reap.service systemd-timesyncd.service; do
        ln -sf /dev/null "$new/etc/systemd/system/$unit"
    done
    mv "$new" "$tree"
fi
echo "$tree"
