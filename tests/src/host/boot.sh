# Becomes systemd, as process 1 of namespaces of its own: $1 root tree, $2 the host's folder. Says "mounted", then waits
# for a line: the caller plugs in the network meanwhile.
base=$1 dir=$2
exec 3>>"$dir/console"
cd "$dir/root"
mount -t overlay -o "lowerdir=$base,upperdir=$dir/upper,workdir=$dir/work" overlay .
cd "$dir/root"
mount -t proc -o nosuid,nodev,noexec proc proc
# Only the network's settings are this host's own; the kernel is shared.
mount --bind proc/sys/net proc/sys/net
mount --rbind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
if [ -e proc/sysrq-trigger ]; then
    mount --bind /dev/null proc/sysrq-trigger
fi
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid tmpfs dev
for node in null zero full random urandom tty; do
    : >"dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
# Every boot has its own id, as on a machine.
cat /proc/sys/kernel/random/uuid >dev/.boot-id
mount --bind dev/.boot-id proc/sys/kernel/random/boot_id
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mkdir run/old
pivot_root . run/old
umount -l run/old
rmdir run/old
echo mounted
read -r plugged
exec setpriv --bounding-set -sys_time,-sys_module,-sys_rawio \
    env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --show-status=no >&3 2>&3 </dev/null 3>&-
