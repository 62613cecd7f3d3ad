#!/bin/sh
# Mounts the filesystem of a disk until its input ends, says "open" then, and logs each
# write and flush of the disk.
#
# Arguments: the disk, the log, an empty directory for what that takes, where to mount it.
set -eu
disk=$1 log=$2 dir=$3 at=$4
cd "$dir"
: >view
: >"$log"
qemu-storage-daemon --blockdev driver=blklogwrites,node-name=disk,file.driver=file,file.filename="$disk",log.driver=file,log.filename="$log" \
  --export type=fuse,id=view,node-name=disk,mountpoint="$dir/view",writable=on </dev/null >&2 &
daemon=$!
# Who had the last file open is waited for, and the loop device lets go of the daemon's
# file before that ends.
close() {
  for _ in $(seq 150); do
    if mountpoint -q "$at"; then umount "$at" || true; fi
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
echo open
cat >/dev/null
