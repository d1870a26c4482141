# Boots one node and takes it away again. Runs as the first process of its own pid and mount namespaces,
# so that whatever it mounted or started is gone when it is. Its standard input is held open by whoever
# wanted the node: when that ends, however it ended, the node ends.
#
# $1 directory of the node, $2 lower directories of its root, $3 name, $4 "memory" or "disk" for containerd's data
set -eu
exec 8>"$1/lock"
flock 8

mount --make-rprivate /
# systemd 258 and newer refuse to start on a host with cgroup v1.
if mountpoint -q /sys/fs/cgroup; then umount -R /sys/fs/cgroup; fi
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cgroup=/sys/fs/cgroup/$3
mkdir "$cgroup"
echo $$ >"$cgroup/cgroup.procs"

mkdir "$1/upper" "$1/work" "$1/root" "$1/containerd" "$1/docker"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work,volatile" "$1/root"
# containerd's overlayfs snapshotter cannot stack on an overlay. In memory it need not wait for the disk at
# every step of its database.
if [ "$4" = memory ]; then
    mount -t tmpfs -o size=6g tmpfs "$1/containerd"
    mount -t tmpfs -o size=1g tmpfs "$1/docker"
fi
systemd-nspawn --quiet --boot --directory="$1/root" --machine="$3" --register=no --keep-unit \
    --private-network --capability=all --system-call-filter=@known --console=pipe \
    --bind="$1/containerd:/var/lib/containerd" --bind="$1/docker:/var/lib/docker" \
    </dev/null >"$1/console" 2>&1 8>&- &
nspawn=$!

read -r _ || true

kill -KILL "$nspawn" 2>/dev/null || true
wait "$nspawn" 2>/dev/null || true
echo $$ >/sys/fs/cgroup/cgroup.procs
echo 1 >"$cgroup/cgroup.kill"
# The kernel lets go of the last process a moment after it was reaped.
for _ in $(seq 200); do
    if find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null; then break; fi
    sleep 0.02
done
umount -R "$1/root"
if [ "$4" = memory ]; then umount "$1/containerd" "$1/docker"; fi
rm -rf "$1"
