#!/bin/sh
# virtio-blk and virtio-scsi at their limits, on each transport and kind of ring: rings that are full, requests in many pieces,
# misaligned, around every limit that the driver has, at the end and behind it, of nothing.
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

blk() {
  for path in /sys/block/vd*; do
    [ "$(cat "$path/serial")" != "$1" ] || echo "${path##*/}"
  done
}
unit() {
  for path in /sys/block/sd*; do
    case "$(readlink -f "$path/device")" in *":0:$1") echo "${path##*/}" ;; esac
  done
}
for try in $(seq 200); do
  [ -z "$(unit 0)" ] || [ -z "$(unit 3)" ] || break
  sleep 0.05
done
queue() { cat "/sys/block/$1/queue/$2"; }

head -c 4194304 /dev/urandom >"$work/noise"
# carry DISK OFFSET BYTES...: so much there and back
carry() {
  disk=$1
  offset=$2
  shift 2
  for bytes in "$@"; do
    head -c "$bytes" "$work/noise" >"$work/out"
    dd if="$work/out" of="/dev/$disk" bs="$bytes" seek="$offset" oflag=direct,seek_bytes conv=notrunc 2>"$work/log" &&
      dd if="/dev/$disk" of="$work/in" bs="$bytes" skip="$offset" count=1 iflag=direct,skip_bytes 2>"$work/log" &&
      cmp "$work/out" "$work/in" || { echo "$bytes bytes at $offset" && return 1; }
  done
}
# The lengths are of pieces in memory: COUNT of them, of STEP bytes and three times that in turn
pieces() {
  disk=$1
  step=$2
  shift 2
  for count in "$@"; do
    lengths=$(for n in $(seq "$count"); do echo $((step * (1 + n % 2 * 2))); done)
    blocks scatter "/dev/$disk" 65536 $lengths || { echo "$count pieces" && return 1; }
  done
}
both_at_once() {
  blocks queue "/dev/$1" 60 "$2" 0 & first=$!
  blocks queue "/dev/$1" 60 "$2" 2097152 && wait $first
}
behind_the_end() {
  ! dd if="$work/noise" of="/dev/$1" bs=4096 seek=8388608 oflag=direct,seek_bytes count=1 conv=notrunc 2>/dev/null &&
    [ "$(dd if="/dev/$1" bs=4096 skip=8388608 iflag=direct,skip_bytes count=1 2>/dev/null | wc -c)" = 0 ]
}

all() {
  echo "blk $(blk sectors) 512 disk disk0 digest"
  echo "blk-direct $(blk direct) 4096 disk disk1 digest"
  echo "scsi $(unit 0) 512 scsi scsi0 digest lun0"
  echo "scsi-blocks $(unit 3) 4096 scsi scsi0 digest lun1"
}
is "two disks and two units" "$(all | grep -c ' [sv]d[a-z] ')" 4
all >"$work/all"
# What the host is asked for its digest stands last.
while read -r name disk block host <&4; do
  point "$name: 200 requests of a block at once on a ring of 16" blocks queue "/dev/$disk" 200 "$block" 0
  point "$name: 40 requests of 64 KiB at once" blocks queue "/dev/$disk" 40 65536 0
  point "$name: by two programs at once" both_at_once "$disk" 8192
  # 14 segments a request is what the ring allows.
  point "$name: a request in 1, 2, 13, 14, 15, 28, 29 and 100 pieces" pieces "$disk" "$block" 1 2 13 14 15 28 29 100
  largest=$(($(queue "$disk" max_sectors_kb) * 1024))
  [ $largest -le 2097152 ] || largest=2097152
  point "$name: around the largest request" carry "$disk" "$block" $((largest - block)) $largest $((largest + block))
  point "$name: around pages, misaligned" carry "$disk" $((block * 7)) 4096 $((4096 + block)) 12288 $((65536 - block)) 65536
  point "$name: the last block" carry "$disk" $((8388608 - block)) "$block"
  point "$name: the last 1 MiB" carry "$disk" 7340032 1048576
  point "$name: behind the end" behind_the_end "$disk"
  dd if="$work/noise" of="/dev/$disk" bs=1M count=4 oflag=direct conv=notrunc 2>/dev/null
  is "$name: the host finds what was written" "$(ask test.machine "$host 0 4194304")" "$(sha256sum <"$work/noise" | cut -d ' ' -f 1)"
done 4<"$work/all"

# --- SCSI: commands that the block layer does not make ---

disk=$(unit 0)
host=$(ls -d "$(readlink -f "/sys/block/$disk/device/../..")"/../scsi_host/host* 2>/dev/null)
[ -d "$host" ] || host=$(ls -d /sys/class/scsi_host/host*)
is "the driver has 16 commands under way, of 14 segments" "$(cat "$host/can_queue") $(cat "$host/sg_tablesize")" "16 14"
is "16 for a unit, though it takes 128" "$(cat "$host/cmd_per_lun")" 16
is "a transfer has 65535 sectors at most" "$(queue "$disk" max_hw_sectors_kb)" 32767
scsi() { blocks scsi "/dev/$disk" "$@"; }
good="status=0 sense=0/00/00 residual=0"
is "TEST UNIT READY" "$(scsi 000000000000 in 0)" "$good"
is "a READ(10) of no block" "$(scsi 28000000000000000000 in 0)" "$good"
is "a WRITE(10) of no block" "$(scsi 2a000000000000000000 out 0)" "$good"
is "a READ(16) of no block behind the last" "$(scsi 88000000000000004000000000000000 in 0)" "$good"
is "a READ(10) of the last block" "$(scsi 280000003fff00000100 in 512)" "$good"
is "a READ(10) of a block into room for two" "$(scsi 28000000000000000100 in 1024)" "status=0 sense=0/00/00 residual=512"
like "a READ(10) of the block behind the last" "$(scsi 28000000400000000100 in 512)" "status=2 sense=5/21/00"
like "a WRITE(10) across the end" "$(scsi 2a0000003fff00000200 out 1024)" "status=2 sense=5/21/00"
is "an UNMAP of nothing" "$(scsi 42000000000000000000 out 0)" "$good"
is "an INQUIRY with no room" "$(scsi 120000000000 in 0)" "$good"
is "an INQUIRY of 36 bytes" "$(scsi 120000002400 in 36)" "$good"
like "a command there is not" "$(scsi ff0000000000 in 0)" "status=2 sense=5/20/00"
is "the unit is as it was" "$(ask test.machine "scsi scsi0 digest lun0 0 4194304")" "$(sha256sum <"$work/noise" | cut -d ' ' -f 1)"
is "the kernel log has no complaint of a disk" "$(dmesg | grep -E 'virtio_blk|virtio_scsi|scsi host|\[sd[a-z]|I/O error' |
  grep -iE 'error|fail|bad|bug|timed? ?out|abort')" ""
finish
