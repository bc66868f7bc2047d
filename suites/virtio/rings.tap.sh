#!/bin/sh
# The same devices over each transport, with each kind of ring (virtio 1.3, 2.7, 2.8, 4.1, 4.2): what Linux negotiated, and
# that data is right both ways, also when all of them work at once.
# guest:
#   transport: [pci, mmio]
#   ring: [split, packed]
#   devices:
#     - { type: virtio-rng, withFeatures: [notification_data] }
#     - { type: virtio-blk, memory: 2M, serial: usual, queues: 2, withFeatures: [notification_data] }
#     - { type: virtio-blk, memory: 2M, serial: plain, queueSize: 16, withoutFeatures: [indirect_desc, event_idx] }
#     - { type: virtio-net, mac: '02:00:00:00:00:b0', backend: peer }
#     - { type: virtio-vsock, cid: 78 }
#   ports: [{ name: test.echo, peer: echo }]
#   files: { /bin/talk: ../../build/Release/programs/talk }
# timeout: 600s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
head -c 200000 /dev/urandom >"$work/noise"

# of_type NUMBER: the names of all virtio devices of a type, but the agent's own console
of_type() {
  for path in /sys/bus/virtio/devices/*; do
    case "$(($(cat "$path/device"))) $path" in
      "$1 "*) echo "${path##*/}" ;;
    esac
  done
}
disk() {
  for path in /sys/block/vd*; do
    [ "$(cat "$path/serial")" != "$1" ] || echo "${path##*/}"
  done
}
# bit DEVICE NUMBER: whether a feature was negotiated
bit() { cut -c $(($2 + 1)) "/sys/bus/virtio/devices/$1/features"; }
bits() { for one in $2; do bit "$one" "$1"; done | sort -u; }
transport() {
  case "$(readlink -f "/sys/bus/virtio/devices/$1/..")" in
    */pci*) echo pci ;;
    */LNRO0005:*) echo mmio ;;
  esac
}
transports() { for one in $1; do transport "$one"; done | sort -u; }

usual=$(disk usual)
plain=$(disk plain)
[ -n "$plain" ] || bail_out "no disk with the serial \"plain\""
port=$(basename "$(readlink -f "$(dirname "$(grep -l '^test.echo$' /sys/class/virtio-ports/*/name)")/device")")
all="$port $(of_type 1) $(of_type 2) $(of_type 4) $(of_type 19)"

is "six devices" "$(echo $all | wc -w)" 6
is "all are on the transport that was asked for" "$(transports "$all")" "$KVITEST_TRANSPORT"
is "all have rings of the kind that was asked for" "$(bits 34 "$all")" "$([ "$KVITEST_RING" = packed ] && echo 1 || echo 0)"
is "all negotiated VERSION_1" "$(bits 32 "$all")" 1
is "features that are withheld are not negotiated" "$(bits 28 "$(basename "$(readlink -f "/sys/block/$plain/device")")")" 0
# Linux knows it since 6.4.
release=$(uname -r)
minor=${release#*.}
knows=$([ "${release%%.*}" -gt 6 ] || [ "${minor%%.*}" -ge 4 ] && echo 1 || echo 0)
is "NOTIFICATION_DATA is taken by kernels that know it" "$(bits 38 "$(of_type 4)")" "$knows"

# --- each by itself ---

# blk DISK: a pattern to the whole disk and back, past the caches; small requests at odd places
blk() {
  head -c 2097152 /dev/urandom >"$work/$1" || return 1
  dd if="$work/$1" of="/dev/$1" bs=256k oflag=direct 2>/dev/null || return 1
  dd if="/dev/$1" bs=64k iflag=direct 2>/dev/null | cmp - "$work/$1" || return 1
  for sector in 1 7 4095; do
    dd if="$work/noise" of="/dev/$1" bs=512 count=1 seek=$sector oflag=direct 2>/dev/null || return 1
    dd if="/dev/$1" bs=512 count=1 skip=$sector iflag=direct 2>/dev/null | cmp -n 512 - "$work/noise" || return 1
  done
}
rng() { [ "$(head -c 4096 /dev/hwrng | tr -d '\0' | wc -c)" -gt 4000 ]; }
net() {
  for size in 1 1400 1472; do
    talk udp "$KVITEST_PEER_ADDRESS" 7 "$size" 1 || return 1
  done
  timeout 60 talk tcp "$KVITEST_PEER_ADDRESS" 7 <"$work/noise" | cmp - "$work/noise"
}
vsock() { timeout 60 talk vsock 2 7 <"$work/noise" | cmp - "$work/noise"; }
everything() {
  blk "$usual" & pids=$!
  blk "$plain" & pids="$pids $!"
  rng & pids="$pids $!"
  net & pids="$pids $!"
  vsock & pids="$pids $!"
  for pid in $pids; do wait "$pid" || return 1; done
}

interface=$(basename "$(dirname "$(grep -l 02:00:00:00:00:b0 /sys/class/net/*/address)")")
ip link set "$interface" up
ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$interface"

point "disk with two queues" blk "$usual"
point "disk with a ring of 16, without indirect descriptors and event index" blk "$plain"
point "entropy" rng
point "network" net
point "socket" vsock
# Only one can have it open.
exec 3<>/dev/virtio-ports/test.echo
point "port" sh -c "cat $work/noise >&3 & timeout 60 head -c 200000 <&3 | cmp - $work/noise"
exec 3>&-
point "all at once" everything

# --- the rings made anew ---

# A queue's positions and wrap counters start over.
again() {
  for one in $(of_type 4) $(of_type 19) $(of_type 2); do
    driver=$(readlink -f "/sys/bus/virtio/devices/$one/driver")
    for round in 1 2 3; do
      echo "$one" >"$driver/unbind" && echo "$one" >"$driver/bind" || return 1
    done
  done
}
point "drivers let go and take again, three times" again
usual=$(disk usual)
plain=$(disk plain)
point "all at once, after that" everything
is "the kernel log has no complaint of a virtio driver" "$(dmesg | grep -iE 'virtio|vring|vd[a-c]' |
  grep -iE 'error|fail|bad|bug|timed? ?out|not a head|out of range')" ""

done_testing
