#!/bin/sh
# virtio-scsi (virtio 1.3, 5.6) through Linux's virtio_scsi and sd drivers: what they find, data, thin provisioning, units that come and go.
# guest:
#   devices:
#     - type: virtio-scsi
#       luns:
#         - { memory: 16M, serial: main }
#         - { memory: 1M, serial: read-only, readOnly: true }
#         - { memory: 4M, serial: large, lun: 7, blockSize: 4096 }
#         - { memory: 1M, serial: other, lun: 0, target: 2 }
#   ports: [{ name: test.machine, peer: machine }]
# timeout: 600s
. /lib/kvitest/tap.sh

driver=/sys/bus/virtio/drivers/virtio_scsi
work=$(mktemp -d)
device=
for path in /sys/bus/virtio/devices/*; do
  [ "$(cat "$path/device")" != 0x0008 ] || device=${path##*/}
done
[ -n "$device" ] || bail_out "no virtio device of type 8"

# unit TARGET LUN: sda, sdb... of the disk there
unit() {
  for path in /sys/block/sd*; do
    case "$(basename "$(readlink -f "$path/device")")" in
      *":$1:$2") echo "${path##*/}" ;;
    esac
  done
}
# becomes TARGET LUN yes|no: waits until there is such a disk, or none
becomes() {
  for try in $(seq 400); do
    case "$3 $(unit "$1" "$2")" in
      "yes sd"* | "no ") return 0 ;;
    esac
    sleep 0.05
  done
  return 1
}
for where in 0:0 0:1 0:7 2:0; do becomes "${where%:*}" "${where#*:}" yes; done
main=$(unit 0 0)
readonly_disk=$(unit 0 1)
large=$(unit 0 7)
[ -n "$main" ] || bail_out "no disk at 0:0"
# ask COMMAND: the host's answer
ask() {
  answer=
  { echo "$1" >&3 && read -t 60 -r answer <&3; } 3<>/dev/virtio-ports/test.machine
  echo "$answer"
}
queue() { cat "/sys/block/$1/queue/$2"; }
feature() { cut -c $(($1 + 1)) "/sys/bus/virtio/devices/$device/features"; }
# serial DISK: of the page 80 that the kernel asked for
serial() { tail -c +5 "/sys/block/$1/device/vpd_pg80"; }

# --- what the drivers found ---

is "virtio_scsi drives the device" "$(basename "$(readlink "/sys/bus/virtio/devices/$device/driver")")" virtio_scsi
is "the device status is ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK" "$(cat "/sys/bus/virtio/devices/$device/status")" 0x0000000f
is "negotiated: HOTPLUG" "$(feature 1)" 1
is "negotiated: CHANGE" "$(feature 2)" 1
is "four disks, on two targets" "$(ls -d /sys/block/sd* | wc -l)" 4
is "vendor" "$(cat "/sys/block/$main/device/vendor")" "KVITEST "
is "capacity" "$(cat "/sys/block/$main/size")" 32768
is "serial" "$(serial "$main")" main
is "the other target's serial" "$(serial "$(unit 2 0)")" other
is "physical blocks of 4096 bytes" "$(queue "$main" physical_block_size)" 4096
is "logical blocks of 4096 bytes where the machine says so" "$(queue "$large" logical_block_size)" 4096
is "it does not rotate" "$(queue "$main" rotational)" 0
is "the cache is on" "$(queue "$main" write_cache)" "write back"
is "discards are of 16 MiB at most" "$(queue "$main" discard_max_hw_bytes)" 16777216
is "a read-only disk says so" "$(cat "/sys/block/$readonly_disk/ro")" 1
is "and has nothing to discard" "$(queue "$readonly_disk" discard_max_hw_bytes)" 0

# --- data ---

head -c 2097152 /dev/urandom >"$work/noise"
# carry DISK OFFSET BYTES: so many bytes of noise to the disk and back, past the cache both ways.
carry() {
  head -c "$3" "$work/noise" >"$work/out"
  dd if="$work/out" of="/dev/$1" bs="$3" seek="$2" oflag=direct,seek_bytes conv=notrunc 2>"$work/log" &&
    dd if="/dev/$1" of="$work/in" bs="$3" skip="$2" count=1 iflag=direct,skip_bytes 2>"$work/log" && cmp "$work/out" "$work/in"
}
for bytes in 512 4096 65536 524288 1048576; do
  point "$bytes bytes there and back" carry "$main" 512 "$bytes"
done
point "the last sector" carry "$main" 16776704 512
point "blocks of 4096 bytes" carry "$large" 8192 65536
point "a read behind the end gives nothing" sh -c "[ \$(dd if=/dev/$main bs=512 skip=32768 count=1 2>/dev/null | wc -c) = 0 ]"
dd if="$work/noise" of="/dev/$main" bs=64k seek=16 oflag=direct conv=notrunc 2>/dev/null
is "the host finds on the disk what was written" "$(ask "scsi scsi0 digest lun0 1048576 2097152")" \
  "$(sha256sum <"$work/noise" | cut -d ' ' -f 1)"
point "not by force either: a read-only disk" sh -c "blockdev --setrw /dev/$readonly_disk
  ! dd if=$work/noise of=/dev/$readonly_disk bs=512 count=1 oflag=direct conv=notrunc 2>/dev/null"
is "the host finds it as it was" "$(ask "scsi scsi0 digest lun1 0 1048576")" "$(head -c 1048576 /dev/zero | sha256sum | cut -d ' ' -f 1)"
flushes() { awk '{ print $16 }' "/sys/block/$main/stat"; }
before=$(flushes)
dd if="$work/noise" of="/dev/$main" bs=4k count=1 conv=notrunc,fsync 2>/dev/null
at_least "fsync reaches the disk as a flush" "$(flushes)" $((before + 1))
point "blkdiscard of 512 KiB" blkdiscard -o 1048576 -l 524288 "/dev/$main"
zeros=$(head -c 524288 /dev/zero | sha256sum | cut -d ' ' -f 1)
is "the host finds zeros there" "$(ask "scsi scsi0 digest lun0 1048576 524288")" "$zeros"
is "and its neighbour as it was" "$(ask "scsi scsi0 digest lun0 1572864 524288")" \
  "$(dd if="$work/noise" bs=512k skip=1 count=1 2>/dev/null | sha256sum | cut -d ' ' -f 1)"
mkdir "$work/mount"
point "a file system" sh -c "mke2fs -q /dev/$main && mount -t ext4 /dev/$main $work/mount && cp $work/noise $work/mount/noise &&
  umount $work/mount && mount -t ext4 /dev/$main $work/mount && cmp $work/noise $work/mount/noise && umount $work/mount"

# --- units that come, change and go ---

is "the host attaches a unit" "$(ask "scsi scsi0 attach extra 9 1048576")" attached
point "a disk appears" becomes 0 9 yes
point "and carries data" carry "$(unit 0 9)" 0 65536
is "the host makes it larger" "$(ask "scsi scsi0 resize extra 2097152")" resized
sized() {
  for try in $(seq 200); do
    [ "$(cat "/sys/block/$(unit 0 9)/size")" != 4096 ] || return 0
    sleep 0.05
  done
  return 1
}
point "the kernel takes the new size" sized
is "the host detaches it" "$(ask "scsi scsi0 detach extra")" detached
point "the disk goes" becomes 0 9 no
rounds=0
while [ $rounds -lt 5 ] && ask "scsi scsi0 attach again 11 65536" >/dev/null && becomes 0 11 yes &&
  ask "scsi scsi0 detach again" >/dev/null && becomes 0 11 no; do
  rounds=$((rounds + 1))
done
is "five times more" $rounds 5
point "the others work on" carry "$(unit 2 0)" 512 65536

# --- unbind and bind ---

unbind() { echo "$device" >"$driver/unbind"; }
bind() { echo "$device" >"$driver/bind" && becomes 0 0 yes; }
point "the driver lets go of the device" unbind
is "its disks are gone then" "$(ls -d /sys/block/sd* 2>/dev/null)" ""
point "the driver takes it again" bind
main=$(unit 0 0)
point "the file system is still there" sh -c "mount -t ext4 /dev/$main $work/mount && cmp $work/noise $work/mount/noise &&
  umount $work/mount"
rebinds=0
while [ $rebinds -lt 5 ] && unbind && bind && carry "$(unit 0 0)" 4096 4096; do
  rebinds=$((rebinds + 1))
done
is "works after each of 5 rebinds" $rebinds 5
# sd flushes a disk that has gone, and says that nobody answered.
is "the kernel log has no complaint of the drivers" "$(dmesg | grep -E 'virtio_scsi|scsi host|\[sd[a-z]' |
  grep -iE 'error|fail|bad|bug|timed? ?out|abort' | grep -vE '0:0:(9|11): \[sd[a-z]+\] Synchronize Cache\(10\) failed')" ""

done_testing
