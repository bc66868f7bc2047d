#!/bin/sh
# virtio-vsock at its limits, on each transport and kind of ring: nothing at all, sizes around packets and credit, many small
# writes, many connections.
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

head -c 600000 /dev/urandom >"$work/noise"
echo_sizes() {
  for size in "$@"; do
    head -c "$size" "$work/noise" >"$work/part"
    timeout 30 talk vsock 2 7 <"$work/part" | cmp - "$work/part" || { echo "$size bytes" && return 1; }
  done
}
# late ROOM SIZE...: more than the room waits with the host
late() {
  room=$1
  shift
  for size in "$@"; do
    timeout 30 talk late 2 7 "$size" "$room" || { echo "$size bytes" && return 1; }
  done
}
at_once() {
  pids=
  for n in $(seq "$1"); do
    (head -c "$2" "$work/noise" | timeout 60 talk vsock 2 7 | cmp -n "$2" - "$work/noise") & pids="$pids $!"
  done
  all_end $pids
}

is "the CID is the one that was asked for" "$(talk cid)" 80
point "nothing, and the end of it" echo_sizes 0
# What Linux gives has room for 3732 bytes of a packet, a page with headers and the like taken off.
point "sizes around a packet" echo_sizes 1 3731 3732 3733 4095 4096 4097 7464 65535 65536 65537
point "sizes around the host's credit" echo_sizes 262143 262144 262145 524289
# 6.12 reads from no buffer that is smaller than what it counts for a packet (docs/findings.md).
point "a buffer of two bytes" late 2 0 1 2 3 40
point "a buffer of a page: a byte less, as much, a byte more, much more" late 4096 4095 4096 4097 100000
point "all is sent before any is taken, around the buffer's size" late 262144 262143 262144 262145
point "all is sent before any is taken, and much waits with the host" late 4096 300000
point "500 writes of a byte, and as many of none" timeout 60 talk trickle 2 7 1 500
point "300 writes of 1021 bytes" timeout 60 talk trickle 2 7 1021 300
point "32 connections at once" at_once 32 8000
point "more refusals than a ring has room for" timeout 60 talk knock 2 8 300
point "a connection after them" echo_sizes 100000
finish
