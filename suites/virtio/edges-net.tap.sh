#!/bin/sh
# virtio-net at its limits, on each transport and kind of ring: frames around the smallest, the usual and the largest, an
# empty datagram, frames in many pieces, rings that are full.
# guest:
#   transport: [pci, mmio]
#   ring: [split, packed]
#   files:
#     /bin/talk: ../../build/Release/programs/talk
#     /bin/blocks: ../../build/Release/programs/blocks
#     /lib/edges.sh: edges.sh
#   devices:
#     - virtio-rng
#     - { type: virtio-balloon, withoutFeatures: [page_reporting] }
#     - { type: virtio-blk, memory: 8M, serial: sectors, queueSize: 16 }
#     - { type: virtio-blk, memory: 8M, serial: direct, blockSize: 4096, queueSize: 16, withoutFeatures: [indirect_desc] }
#     - type: virtio-scsi
#       queueSize: 16
#       luns: [{ memory: 8M, serial: sectors }, { memory: 8M, serial: blocks, lun: 3, blockSize: 4096 }]
#     - { type: virtio-net, mac: '02:00:00:00:00:d0', mtu: 65535 }
#     - { type: virtio-net, mac: '02:00:00:00:00:d1', withoutFeatures: [mrg_rxbuf, guest_csum, csum, indirect_desc] }
#     - { type: virtio-vsock, cid: 80 }
#   ports:
#     - { name: test.machine, peer: machine }
#     - { name: test.echo, peer: echo }
#     - { name: test.source, peer: source }
#     - { name: test.hash, peer: sha256 }
#     - { name: test.hold, peer: hold }
# timeout: 600s
. /lib/kvitest/tap.sh
. /lib/edges.sh

peer=$KVITEST_PEER_ADDRESS
head -c 1000000 /dev/urandom >"$work/noise"
for path in /sys/class/net/*; do
  case $(cat "$path/address") in
    02:00:00:00:00:d0) large=${path##*/} ;;
    02:00:00:00:00:d1) plain=${path##*/} ;;
  esac
done
[ -n "$large" ] && [ -n "$plain" ] || bail_out "an interface is missing: $(ip -o link)"
use() {
  for other in "$large" "$plain"; do
    ip addr flush dev "$other"
    ip link set "$other" down
  done
  ip link set "$1" up
  ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$1"
}
# udp_sizes SIZE...: of the datagrams' payload, which has 42 bytes of headers before it
udp_sizes() {
  for size in "$@"; do
    timeout 60 talk udp "$peer" 7 "$size" 1 || { echo "$size bytes" && return 1; }
  done
}
counter() { cat "/sys/class/net/$1/statistics/$2"; }
at_once() {
  pids=
  for n in 1 2 3 4; do
    timeout 60 talk burst "$peer" 7 "$1" "$2" & pids="$pids $!"
  done
  bursts $pids
}
echoes() { timeout 60 talk tcp "$peer" 7 <"$work/noise" | cmp - "$work/noise"; }

# --- mergeable buffers, offloads, an MTU of 65535 ---

use "$large"
is "the MTU is the largest there is" "$(cat "/sys/class/net/$large/mtu")" 65535
point "an empty datagram, and frames around 60 bytes" udp_sizes 0 1 17 18 19
point "frames around 1514 bytes" udp_sizes 1471 1472 1473 1476
point "frames around one, two and three buffers" udp_sizes 1481 1482 1483 1494 1495 3017 3018 3019 4042 4054 4055
point "frames around 9014 bytes" udp_sizes 8971 8972 8973 9014
point "the largest IP packet there is" udp_sizes 32768 65494 65506 65507
is "one byte more is none" "$(talk udp "$peer" 7 65508 1 2>&1)" "talk: send: Message too long"
ip link set "$large" mtu 68
point "the smallest MTU: frames around 82 bytes" udp_sizes 0 39 40
ip link set "$large" mtu 65535
point "a stream in pieces of 1 to 1000 bytes, each from a page of its own" timeout 60 talk scatter "$peer" 7 "$work/noise" 500
point "more datagrams on their way than the rings have room for" timeout 60 talk burst "$peer" 7 64 900
point "large ones, of which a ring holds six" timeout 60 talk burst "$peer" 7 60000 30
point "four senders at once" at_once 1000 200
is "no frame was broken on the way in" "$(counter "$large" rx_errors) $(counter "$large" rx_length_errors)" "0 0"
is "none was lost on the way out" "$(counter "$large" tx_dropped) $(counter "$large" tx_errors)" "0 0"

# --- neither mergeable buffers nor offloads nor indirect descriptors ---

use "$plain"
point "plain: an empty datagram, and frames around 60 bytes" udp_sizes 0 1 17 18 19
point "plain: frames around 1514 bytes" udp_sizes 1470 1471 1472
ip link set "$plain" mtu 2000
# What Linux gives has room for a frame of 1514 bytes and a VLAN tag.
is "plain: an answer that no buffer has room for does not come" "$(timeout 2 talk udp "$peer" 7 1900 1 2>&1)" ""
point "plain: those behind it do" udp_sizes 1472 18
ip link set "$plain" mtu 1500
point "plain: a stream in pieces of 1 to 1000 bytes" timeout 60 talk scatter "$peer" 7 "$work/noise" 300
point "plain: more datagrams on their way than the rings have room for" timeout 60 talk burst "$peer" 7 1400 600
point "plain: a megabyte there and back" echoes
finish
