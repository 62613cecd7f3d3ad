#!/bin/sh
# Mounts the filesystem of a disk until its input ends, and says "open" then.
#
# Arguments: the disk, an empty directory for what that takes, where to mount it, and, for
# a disk with a host's root directory, a directory with the socket of a libvirtd.
set -eu
disk=$1 dir=$2 at=$3 libvirt=$4
cd "$dir"
: >view
qemu-img create -q -f qcow2 -b "$disk" -F raw aside
qemu-storage-daemon --blockdev driver=qcow2,node-name=disk,file.driver=file,file.filename=aside \
  --export type=fuse,id=view,node-name=disk,mountpoint="$dir/view",writable=on </dev/null >&2 &
daemon=$!
# Who had the last file open is waited for, and the loop device lets go of the daemon's
# file before that ends.
close() {
  for _ in $(seq 150); do
    if mountpoint -q "$at"; then umount -R "$at" || true; fi
    losetup --noheadings --associated view | grep -q . || break
    sleep 0.1
  done
  kill $daemon
  wait $daemon || true
}
trap close EXIT
until [ "$(stat -c %s view)" != 0 ]; do
  kill -0 $daemon
  sleep 0.05
done
mount -o loop view "$at"
if [ -n "$libvirt" ]; then
  for own in proc sys dev; do mount --rbind /$own "$at/$own"; done
  mount -t tmpfs run "$at/run"
  mkdir "$at/run/libvirt"
  mount --bind "$libvirt" "$at/run/libvirt"
else
  cat /proc/sys/kernel/random/uuid >boot_id
  mount --bind boot_id /proc/sys/kernel/random/boot_id
fi
echo open
cat >/dev/null
