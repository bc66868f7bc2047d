#!/bin/sh
# Devices with several queues, whose CPUs use all of them at once: virtio-blk, virtio-scsi and virtio-net on packed rings, on each
# transport. blk-queues.tap.sh and net.tap.sh have split ones.
# guest:
#   cpus: 2
#   transport: [pci, mmio]
#   ring: packed
#   files:
#     /bin/talk: ../../build/Release/programs/talk
#     /bin/blocks: ../../build/Release/programs/blocks
#     /lib/edges.sh: edges.sh
#   devices:
#     - { type: virtio-blk, memory: 8M, queues: 2, queueSize: 16 }
#     - { type: virtio-scsi, queues: 2, queueSize: 16, luns: [{ memory: 8M }, { memory: 8M }] }
#     - { type: virtio-net, queues: 2 }
# timeout: 600s
. /lib/kvitest/tap.sh
. /lib/edges.sh

for try in $(seq 400); do
  [ "$(ls -d /sys/block/sd* 2>/dev/null | wc -l)" != 2 ] || break
  sleep 0.05
done
net=$(basename /sys/class/net/eth*)
queues() { ls "/sys/block/$1/mq" | wc -l; }
is "two queues: blk, scsi, net" "$(queues vda) $(queues sda) $(ls -d /sys/class/net/"$net"/queues/tx-* | wc -l)" "2 2 2"

# each COMMAND...: by each CPU at once, with its number behind
each() {
  taskset -c 0 "$@" 0 & first=$!
  taskset -c 1 "$@" 4194304 && wait $first
}
point "blk: both CPUs at once, rings full" each blocks queue /dev/vda 100 8192
point "blk: again, by sectors" each blocks queue /dev/vda 200 512
point "scsi: both CPUs at once, rings full" each blocks queue /dev/sda 100 8192
point "scsi: again, by sectors" each blocks queue /dev/sda 200 512
ip link set "$net" up
ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$net"
# What waits for an address is but a hundred datagrams.
talk udp "$KVITEST_PEER_ADDRESS" 7 1 1
datagrams() {
  taskset -c 0 talk burst "$KVITEST_PEER_ADDRESS" 7 1000 300 & sent=$!
  taskset -c 1 talk burst "$KVITEST_PEER_ADDRESS" 7 64 300 & bursts $sent $!
}
point "net: both CPUs at once" datagrams
all() {
  taskset -c 0 blocks queue /dev/vda 100 4096 0 & pids=$!
  taskset -c 1 blocks queue /dev/vda 100 4096 4194304 & pids="$pids $!"
  taskset -c 1 blocks queue /dev/sda 100 4096 0 & pids="$pids $!"
  taskset -c 0 blocks queue /dev/sdb 100 4096 0 & pids="$pids $!"
  datagrams & pids="$pids $!"
  all_end $pids
}
point "all of them at once, two units with the same queues" all
used() { awk -v name="$1" '$NF ~ name && $2 + $3 > 0 { n++ } END { print n + 0 }' /proc/interrupts; }
# A device of virtio-mmio has one interrupt for all of its queues.
is "queues that had interrupts of their own: blk, scsi, net" \
  "$(used '-req[.][01]$') $(used '-request$') $(used '-output[.][01]$')" \
  "$([ "$KVITEST_TRANSPORT" = pci ] && echo 2 2 2 || echo 0 0 0)"
finish
