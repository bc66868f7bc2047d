#!/bin/sh
# virtio-balloon and virtio-rng at their limits, and all devices at once, on each transport and kind of ring: balloons of a page
# and around what one request has room for, random numbers of every size.
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

field() {
  for one in $2; do [ "${one%%=*}" != "$1" ] || echo "${one#*=}"; done
}
balloon() { field "$1" "$(ask test.machine "balloon balloon0")"; }
# reaches PAGES: asks for so many and waits until the driver has given them
reaches() {
  ask test.machine "balloon balloon0 $(($1 * 4096))" >/dev/null
  for try in $(seq 400); do
    [ "$(balloon actual)" != $(($1 * 4096)) ] || return 0
    sleep 0.05
  done
  echo "the driver has $(balloon actual) bytes of $1 pages"
  return 1
}
follows() { for pages in "$@"; do reaches "$pages" || return 1; done; }

# --- the balloon ---

mkdir "$work/ram"
mount -t tmpfs -o size=100% none "$work/ram"
head -c 2097152 /dev/urandom >"$work/ram/kept"
digest=$(sha256sum <"$work/ram/kept")
kept() { [ "$(sha256sum <"$work/ram/kept")" = "$digest" ]; }
# Linux tells 256 pages with one request.
point "a page, and none again" follows 1 0
point "around what one request has room for" follows 255 256 257 0
point "up and down in steps" follows 512 511 1024 3 1500 0
at_least "all came on the inflate queue" "$(balloon inflated)" $(((1 + 257 + 1024 + 1497) * 4096))
is "as many came on the deflate queue" "$(balloon deflated)" "$(balloon inflated)"
is "every page number was one of RAM" "$(balloon ignored)" 0
before=$(balloon updates)
statistics() { for round in 1 2 3 4; do [ -n "$(field stat5 "$(ask test.machine "balloon balloon0 statistics")")" ] || return 1; done; }
point "statistics, four times" statistics
is "each was an update" $(($(balloon updates) - before)) 4
point "what was kept is whole" kept

# --- random numbers ---

random_sizes() {
  for size in "$@"; do
    dd if=/dev/hwrng bs="$size" count=1 iflag=fullblock 2>/dev/null >"$work/random"
    [ "$(wc -c <"$work/random")" = "$size" ] || { echo "$size bytes" && return 1; }
    cat "$work/random" >>"$work/numbers"
  done
}
point "random numbers: sizes around a word, a cache line, a page" random_sizes 1 7 8 9 31 32 33 63 64 65 127 128 129 4095 4096 4097
point "random numbers: sizes around 16 KiB" random_sizes 16383 16384 16385
bytes=$(wc -c <"$work/numbers")
at_least "no 16 bytes came twice" "$(od -An -v -t x1 -w16 "$work/numbers" | sort -u | wc -l)" $((bytes / 16))

# --- all at once ---

head -c 300000 /dev/urandom >"$work/noise"
interface=$(basename "$(dirname "$(grep -l 02:00:00:00:00:d0 /sys/class/net/*/address)")")
ip link set "$interface" up
ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$interface"
blk=$(basename "$(dirname "$(grep -l '^sectors$' /sys/block/vd*/serial)")")
for try in $(seq 200); do
  unit=$(ls -d /sys/block/sd* 2>/dev/null | head -n 1)
  [ -z "$unit" ] || break
  sleep 0.05
done
port() {
  echo 300000 >&3
  cat "$work/noise" >&3
  read -t 60 -r answer <&3
  [ "$answer" = "$(sha256sum <"$work/noise" | cut -d ' ' -f 1)" ]
} 3<>/dev/virtio-ports/test.hash
stream() { timeout 60 talk "$@" <"$work/noise" | cmp - "$work/noise"; }
everything() {
  follows 300 0 200 0 & pids=$!
  random_sizes 4096 4096 & pids="$pids $!"
  blocks queue "/dev/$blk" 100 8192 0 & pids="$pids $!"
  blocks queue "/dev/${unit##*/}" 100 16384 0 & pids="$pids $!"
  stream tcp "$KVITEST_PEER_ADDRESS" 7 & pids="$pids $!"
  timeout 60 talk burst "$KVITEST_PEER_ADDRESS" 7 1400 400 & pids="$pids $!"
  stream vsock 2 7 & pids="$pids $!"
  port & pids="$pids $!"
  all_end $pids
}
point "all devices at once" everything
point "and once more" everything
point "what was kept is whole after that" kept
is "the kernel log has no complaint of a virtio driver" "$(dmesg | grep -iE 'virtio|vring|balloon|hwrng|scsi|vd[a-z]|sd[a-z]' |
  grep -iE 'error|fail|bad|bug|timed? ?out|not a head|out of range|abort')" ""

umount "$work/ram"
finish
