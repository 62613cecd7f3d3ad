#!/bin/sh
# Works with lxcboot, and says what it begins and what is done:
#
#   begin VERB NAME FACT
#   done VERB NAME FACT    when the command has returned
#
# Arguments: the file for what is said, rounds, an image with busybox, what names begin with.
# What is printed was written to the file before, past all caches but the disk's own.
set -u
said=$1 rounds=$2 image=$3 prefix=$4 n=0

say() {
  printf '%-511s\n' "powercut $n $*" | dd of="$said" bs=512 seek=$n conv=notrunc iflag=fullblock oflag=direct status=none || exit 1
  n=$((n + 1))
  echo "$*"
}

# step VERB NAME FACT COMMAND...
step() {
  what="$1 $2 $3"
  shift 3
  say "begin $what"
  "$@" >/dev/null || exit 1
  say "done $what"
}

# Blocks that have their place on the disk: to write them anew changes nothing else.
dd if=/dev/zero of="$said" bs=4096 count=64 conv=fsync status=none
data=$(mktemp)
trap 'rm -f "$data"' EXIT
round=0
while [ $round -lt "$rounds" ]; do
  round=$((round + 1))
  i=$prefix-i$round v=$prefix-v$round s=$prefix-s$round b=$prefix-b$round
  head -c 3M /dev/urandom >"$data"
  sum=$(sha256sum <"$data" | cut -c 1-64)
  step image $i $sum lxcboot image import "$data" --name $i
  step volume $v $sum lxcboot volume create --image $i --size 1 $v
  step grow $v 2 lxcboot volume extend $v --size 2
  step snapshot $s $sum lxcboot snapshot create $s --volume $v
  step instance $b - lxcboot boot -q --flavor m1.tiny --nic none --image $image --boot-from-volume 1 --delete-on-termination $b
  step attach $v $b lxcboot volume attach -q $b $v
  step write $b $sum lxcboot exec $b -- sh -c 'echo $1 | dd of=/said conv=fsync 2>/dev/null' sh $sum
  step stop $b - lxcboot stop -q $b
  step detach $v $b lxcboot volume detach -q $b $v
  step start $b - lxcboot start -q $b
  # Every other round is left as it is.
  [ $((round % 2)) = 0 ] || continue
  step no-snapshot $s - lxcboot snapshot delete -q $s
  step no-volume $v - lxcboot volume delete -q $v
  step no-image $i - lxcboot image delete -q $i
  step no-instance $b - lxcboot delete -q $b
done
