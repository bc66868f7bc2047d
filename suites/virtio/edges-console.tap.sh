#!/bin/sh
# virtio-console at its limits, on each transport and kind of ring: sizes around the driver's buffers and around a whole ring
# of them, both ways; a host that takes nothing; ports side by side.
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

head -c 1048576 /dev/urandom >"$work/noise"
for name in echo source hash hold hold.control; do
  for try in $(seq 100); do
    [ ! -e /dev/virtio-ports/test.$name ] || break
    sleep 0.05
  done
done
cat >"$work/echo" <<'SCRIPT'
exec 3<>/dev/virtio-ports/test.echo
cat "$1" >&3 &
head -c "$(wc -c <"$1")" <&3 >"$1.back"
cmp "$1.back" "$1" || { od -A d -t x1 -N 32 "$1.back" && od -A d -t x1 -N 32 "$1" && exit 1; }
SCRIPT
cat >"$work/receive" <<'SCRIPT'
exec 3<>/dev/virtio-ports/test.source
echo "$1 $2" >&3
read -r expected <&3
sleep "$3"
actual=$(head -c "$1" <&3 | sha256sum | cut -d ' ' -f 1)
[ "$actual" = "$expected" ] || { echo "$1 bytes: the host sent $expected, got $actual" && exit 1; }
SCRIPT
cat >"$work/hash" <<'SCRIPT'
exec 3<>/dev/virtio-ports/test.hash
echo "$1" >&3
dd if="$3" bs="$2" count="$1" iflag=count_bytes 2>/dev/null >&3
read -r answer <&3
[ "$answer" = "$(head -c "$1" "$3" | sha256sum | cut -d ' ' -f 1)" ] || { echo "$1 bytes by $2" && exit 1; }
SCRIPT
echo_sizes() {
  for size in "$@"; do
    head -c "$size" "$work/noise" >"$work/part"
    timeout 30 sh "$work/echo" "$work/part" || { echo "$size bytes" && return 1; }
  done
}
# receive_sizes SECONDS SIZE...: waits that long before it reads
receive_sizes() {
  seconds=$1
  shift
  for size in "$@"; do timeout 60 sh "$work/receive" "$size" "seed$size" "$seconds" || return 1; done
}
# hash_sizes WRITE SIZE...: in writes of so many bytes
hash_sizes() {
  write=$1
  shift
  for size in "$@"; do timeout 60 sh "$work/hash" "$size" "$write" "$work/noise" || return 1; done
}
digest() { sha256sum | cut -d ' ' -f 1; }

# Linux gives buffers of a page for what comes, and takes 32 KiB at most for what goes; a ring has 128.
point "to the host and back, sizes around a page" echo_sizes 1 2 4095 4096 4097 8191 8192 8193
point "to the host and back, sizes around the largest buffer" echo_sizes 32767 32768 32769 65536 65537
point "from the host, sizes around a page" receive_sizes 0 1 4095 4096 4097
point "from the host, sizes around a whole ring, into buffers that are not fetched" receive_sizes 0.5 524287 524288 524289
point "to the host, sizes around the largest buffer in one write" hash_sizes 1048576 32767 32768 32769 262144
point "to the host, more writes than a ring has room for" hash_sizes 24 6144

dd if="$work/noise" of=/dev/virtio-ports/test.hold bs=1000 2>/dev/null &
writer=$!
written() { awk '$1 == "wchar:" { print $2 }' "/proc/$writer/io" 2>/dev/null; }
halted() {
  for try in $(seq 40); do
    last=$(written)
    sleep 0.5
    [ "$last" -gt 0 ] && [ "$(written)" = "$last" ] && return
  done
  return 1
}
point "a writer halts where the host takes nothing and the ring is full" halted
point "the other ports go on meanwhile" echo_sizes 100000
is "the host takes a byte: the first" "$(ask test.hold.control 'take 1')" "1 $(head -c 1 "$work/noise" | digest)"
is "and the rest, in order" "$(ask test.hold.control 'take 1048575')" "1048575 $(tail -c +2 "$work/noise" | digest)"
wait $writer
is "the writer ended well" $? 0

together() {
  echo_sizes 200000 & pids=$!
  receive_sizes 0 200001 & pids="$pids $!"
  hash_sizes 777 200002 & pids="$pids $!"
  all_end $pids
}
point "three ports at once, both ways" together
finish
