#!/bin/sh
# The first process of both guests, on both VMMs. The kernel's command line says which one it is (role), which loads to run
# (only: a pattern) and for how long (ms). Results go to the first serial port, on which the kernel is quiet.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1
stty -F /dev/ttyS0 -opost
for module in $(cat /etc/kvitest/modules); do insmod "$module"; done
: "${ms:=1500}"

net=$(ls /sys/class/net | grep -v lo)
ip link set "$net" up

if [ "$role" = server ]; then
  ip addr add 10.0.0.2/24 dev "$net"
  virtio_bench tcp-sink 9 &
  exec virtio_bench udp-sink 7
fi

ip addr add 10.0.0.1/24 dev "$net"
port=/dev/$(basename "$(dirname "$(grep -lx bench /sys/class/virtio-ports/*/name)")")

# load NAME ARGUMENTS...
load() {
  name=$1
  shift
  case $name in $only*) ;; *) return ;; esac
  echo "LOAD $name"
  virtio_bench "$@" || echo "FAILED"
}
load "nothing" nothing "$ms"
load "blk 4k random read, 1 at a time" blk /dev/vda read rand 4096 1 "$ms"
load "blk 4k random read, 16 at a time" blk /dev/vda read rand 4096 16 "$ms"
load "blk 4k random write, 1 at a time" blk /dev/vda write rand 4096 1 "$ms"
load "blk 4k random write, 16 at a time" blk /dev/vda write rand 4096 16 "$ms"
load "blk 1M sequential read" blk /dev/vda read seq 1048576 2 "$ms"
load "blk 1M sequential write" blk /dev/vda write seq 1048576 2 "$ms"
load "net UDP there and back, 64 bytes" ping 10.0.0.2 7 64 "$ms"
load "net UDP, 64 bytes" udp 10.0.0.2 7 64 "$ms"
load "net UDP, 1400 bytes" udp 10.0.0.2 7 1400 "$ms"
load "net TCP" tcp 10.0.0.2 9 65536 "$ms"
load "console port" port "$port" 32768 "$ms"
load "vsock" vsock 2 9 65536 "$ms"
load "rng" rng /dev/hwrng 64 "$ms"
echo "DONE"
poweroff -f
