#!/bin/sh
# virtio-blk (virtio 1.3, 5.2) through Linux's virtio_blk driver: what it finds, data, limits, caches, going and coming.
# guest:
#   files: { /root/content: blk.tap.sh }
#   devices:
#     - { type: virtio-blk, memory: 64M, serial: main }
#     - { type: virtio-blk, memory: 1M, serial: read-only, readOnly: true }
#     - { type: virtio-blk, overlay: blk.tap.sh, serial: twenty-bytes-serial! }
#     - type: virtio-blk
#       memory: 4M
#       serial: plain
#       blockSize: 4096
#       queueSize: 16
#       withoutFeatures: [flush, discard, write_zeroes, config_wce, topology, seg_max, size_max, event_idx, indirect_desc]
# timeout: 600s
. /lib/kvitest/tap.sh

driver=/sys/bus/virtio/drivers/virtio_blk
work=$(mktemp -d)

# disk SERIAL: vda, vdb... of the disk with that serial.
disk() {
  for path in /sys/block/vd*; do
    [ "$(cat "$path/serial")" != "$1" ] || echo "${path##*/}"
  done
}
main=$(disk main)
[ -n "$main" ] || bail_out "no disk with the serial \"main\""
readonly_disk=$(disk read-only)
overlay=$(disk twenty-bytes-serial!)
plain=$(disk plain)
sys=/sys/block/$main

virtio_of() { basename "$(readlink -f "/sys/block/$1/device")"; }
device=$(virtio_of "$main")
# feature DISK BIT: 1 when the driver negotiated it.
feature() { cut -c $(($2 + 1)) "/sys/block/$1/device/features"; }
queue() { cat "/sys/block/$1/queue/$2"; }

# --- what the driver found ---

is "four disks" "$(ls -d /sys/block/vd* | wc -l)" 4
is "virtio_blk drives the disk" "$(basename "$(readlink "$sys/device/driver")")" virtio_blk
is "it is a device of type 2" "$(cat "$sys/device/device")" 0x0002
is "the device status is ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK" "$(cat "$sys/device/status")" 0x0000000f
is "capacity" "$(cat "$sys/size")" 131072
is "a serial of twenty bytes is whole" "$(cat "/sys/block/$overlay/serial")" twenty-bytes-serial!
is "logical blocks of 512 bytes" "$(queue "$main" logical_block_size)" 512
is "physical blocks of 4096 bytes" "$(queue "$main" physical_block_size)" 4096
is "minimum I/O of 4096 bytes" "$(queue "$main" minimum_io_size)" 4096
is "optimal I/O of 64 KiB" "$(queue "$main" optimal_io_size)" 65536
is "a request has 254 segments at most" "$(queue "$main" max_segments)" 254
is "a segment has 1 MiB at most" "$(queue "$main" max_segment_size)" 1048576
is "discards are of 16 MiB at most" "$(queue "$main" discard_max_hw_bytes)" 16777216
is "discards are of whole 4096 bytes" "$(queue "$main" discard_granularity)" 4096
is "write zeroes are of 16 MiB at most" "$(queue "$main" write_zeroes_max_bytes)" 16777216
is "the cache is on" "$(queue "$main" write_cache)" "write back"

for bit in 1:SIZE_MAX 2:SEG_MAX 6:BLK_SIZE 9:FLUSH 10:TOPOLOGY 11:CONFIG_WCE 13:DISCARD 14:WRITE_ZEROES \
  28:INDIRECT_DESC 29:EVENT_IDX; do
  is "negotiated: ${bit#*:}" "$(feature "$main" "${bit%:*}")" 1
  [ "$bit" = 6:BLK_SIZE ] || is "withheld and not negotiated: ${bit#*:}" "$(feature "$plain" "${bit%:*}")" 0
done
is "a writable disk is not read-only" "$(feature "$main" 5)" 0
is "one queue and no MQ" "$(ls "$sys/mq" | wc -l) $(feature "$main" 12)" "1 0"
is "logical blocks of 4096 bytes where the machine says so" "$(queue "$plain" logical_block_size)" 4096
is "without FLUSH the cache is off" "$(queue "$plain" write_cache)" "write through"
is "without DISCARD there is none" "$(queue "$plain" discard_max_bytes)" 0

# --- data, around every limit ---

head -c 6291456 /dev/urandom >"$work/noise"
# carry DISK SECTOR BYTES: so many bytes of noise to the disk and back, past the cache both ways.
carry() {
  head -c "$3" "$work/noise" >"$work/out"
  dd if="$work/out" of="/dev/$1" bs="$3" seek=$(($2 * 512)) oflag=direct,seek_bytes conv=notrunc 2>"$work/log" &&
    dd if="/dev/$1" of="$work/in" bs="$3" skip=$(($2 * 512)) count=1 iflag=direct,skip_bytes 2>"$work/log" &&
    cmp "$work/out" "$work/in"
}
# One sector; around a page; around a segment, 254 pages and 1 MiB; and requests that the driver must cut.
for bytes in 512 1024 3584 4096 4608 65536 1039872 1040384 1040896 1048064 1048576 1049088 4194304; do
  point "$bytes bytes there and back" carry "$main" 1 "$bytes"
done
point "the last sector" carry "$main" 131071 512
point "the last 1 MiB" carry "$main" 129024 1048576
for bytes in 4096 65536 1048576; do
  point "$bytes bytes without indirect descriptors, on a ring of 16" carry "$plain" 0 "$bytes"
done

point "random sectors in any order" sh -c "
  cd $work && : >log
  for at in 4711 13 90001 14 4710 70000 12 131000 4712; do
    dd if=noise of=/dev/$main bs=512 skip=\$((at % 8000)) seek=\$at count=1 oflag=direct conv=notrunc 2>>log || exit 1
  done
  for at in 12 13 14 4710 4711 4712 70000 90001 131000; do
    dd if=noise bs=512 skip=\$((at % 8000)) count=1 of=want 2>>log
    dd if=/dev/$main bs=512 skip=\$at count=1 iflag=direct of=got 2>>log && cmp want got || exit 1
  done"

point "through the page cache" sh -c "
  dd if=$work/noise of=/dev/$main bs=1M seek=8 conv=notrunc,fsync 2>/dev/null
  echo 3 >/proc/sys/vm/drop_caches
  dd if=/dev/$main bs=1M skip=8 count=6 2>/dev/null | cmp - $work/noise"

point "a read behind the end gives nothing" sh -c "[ \$(dd if=/dev/$main bs=512 skip=131072 count=1 2>/dev/null | wc -c) = 0 ]"
point "a write behind the end fails" sh -c "! dd if=$work/noise of=/dev/$main bs=512 seek=131072 count=1 conv=notrunc 2>/dev/null"

writers=
for part in 0 1 2 3; do
  dd if="$work/noise" of="/dev/$main" bs=64k count=16 skip=$((part * 16)) seek=$((512 + part * 16)) oflag=direct conv=notrunc \
    2>/dev/null &
  writers="$writers $!"
done
ended=0
for pid in $writers; do
  wait "$pid" && ended=$((ended + 1))
done
is "four writers at once all end" "$ended" 4
point "each wrote its own" sh -c "dd if=/dev/$main bs=64k skip=512 count=64 iflag=direct 2>/dev/null |
  cmp -n 4194304 - $work/noise"

# --- caches ---

# The 16th number of stat counts flushes.
flushes() { awk '{ print $16 }' "$sys/stat"; }
before=$(flushes)
dd if="$work/noise" of="/dev/$main" bs=4k count=1 conv=notrunc,fsync 2>/dev/null
at_least "fsync reaches the disk as a flush" "$(flushes)" $((before + 1))
echo "write through" >"$sys/cache_type"
is "the cache is turned off" "$(cat "$sys/cache_type")" "write through"
is "the block layer knows" "$(queue "$main" write_cache)" "write through"
point "data with the cache off" carry "$main" 64 65536
echo "write back" >"$sys/cache_type"
is "and on again" "$(cat "$sys/cache_type")" "write back"

# --- discard ---

dd if="$work/noise" of="/dev/$main" bs=1M count=2 oflag=direct conv=notrunc 2>/dev/null
point "blkdiscard of 1 MiB" blkdiscard -o 524288 -l 1048576 "/dev/$main"
point "what was discarded reads as zeros" sh -c "dd if=/dev/$main bs=512k skip=1 count=2 iflag=direct 2>/dev/null |
  cmp -n 1048576 - /dev/zero"
point "its neighbours stay" sh -c "
  dd if=/dev/$main bs=512k count=1 iflag=direct 2>/dev/null | cmp -n 524288 - $work/noise &&
  dd if=/dev/$main bs=512k skip=3 count=1 iflag=direct of=$work/in 2>/dev/null &&
  dd if=$work/noise bs=512k skip=3 count=1 of=$work/out 2>/dev/null && cmp $work/in $work/out"
point "blkdiscard of all, in requests of 16 MiB" blkdiscard "/dev/$main"
point "the disk is empty then" sh -c "dd if=/dev/$main bs=1M count=8 iflag=direct 2>/dev/null | cmp -n 8388608 - /dev/zero"
point "a disk without DISCARD refuses it" sh -c "! blkdiscard /dev/$plain 2>/dev/null"

# --- read-only ---

is "a read-only disk says so" "$(cat "/sys/block/$readonly_disk/ro")" 1
is "negotiated: RO" "$(feature "$readonly_disk" 5)" 1
point "it cannot be written" sh -c "! dd if=/dev/zero of=/dev/$readonly_disk bs=512 count=1 conv=notrunc 2>/dev/null"
point "not by force either" sh -c "blockdev --setrw /dev/$readonly_disk
  ! dd if=$work/noise of=/dev/$readonly_disk bs=512 count=1 oflag=direct conv=notrunc 2>/dev/null"
point "it can be read" sh -c "dd if=/dev/$readonly_disk bs=1M iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero"

# --- over a file of the host ---

size=$(wc -c </root/content)
is "a disk over a file ends with its last sector" "$(cat "/sys/block/$overlay/size")" $(((size + 511) / 512))
point "it has the file's bytes" sh -c "head -c $size /dev/$overlay | cmp - /root/content"
point "it can be written" carry "$overlay" 3 1024

# --- a file system ---

mkdir "$work/mount"
point "mke2fs" mke2fs -q "/dev/$main"
point "mount" mount -t ext4 "/dev/$main" "$work/mount"
cp "$work/noise" "$work/mount/noise"
mkdir "$work/mount/many"
for number in $(seq 100); do
  echo "$number" >"$work/mount/many/$number"
done
point "umount" umount "$work/mount"
mount -t ext4 "/dev/$main" "$work/mount"
point "a file is what was written" cmp "$work/noise" "$work/mount/noise"
is "so are a hundred small ones" "$(cat "$work"/mount/many/* | sort -n | tr '\n' ' ')" "$(seq -s ' ' 100) "
umount "$work/mount"

# --- unbind and bind ---

unbind() { echo "$device" >"$driver/unbind"; }
bind() {
  echo "$device" >"$driver/bind"
  for try in $(seq 100); do
    main=$(disk main)
    [ -z "$main" ] || return 0
    sleep 0.05
  done
  return 1
}
point "the driver lets go of the disk" unbind
is "it is gone then" "$(disk main)" ""
point "the driver takes it again" bind
point "the file system is still there" sh -c "mount -t ext4 /dev/$main $work/mount && cmp $work/noise $work/mount/noise &&
  umount $work/mount"
rebinds=0
while [ $rebinds -lt 5 ] && unbind && bind && carry "$main" 200 4096 2>/dev/null; do
  rebinds=$((rebinds + 1))
done
is "works after each of 5 rebinds" $rebinds 5

dd if=/dev/zero of="/dev/$main" bs=256k oflag=direct conv=notrunc 2>/dev/null &
writer=$!
sleep 0.2
unbind
point "a writer ends when the disk goes" timeout 20 sh -c "while kill -0 $writer 2>/dev/null &&
  ! grep -q '^State:.Z' /proc/$writer/status; do sleep 0.1; done"
kill -KILL "$writer" 2>/dev/null
wait "$writer" 2>/dev/null
bind
point "works after it went under a writer" carry "$main" 0 65536

is "the kernel log has no complaint of the driver" "$(dmesg | grep -i 'virtio_blk' |
  grep -iE 'error|fail|warn|bad|bug|timed? ?out')" ""
rm -r "$work"
done_testing
