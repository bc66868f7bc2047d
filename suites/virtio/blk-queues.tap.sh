#!/bin/sh
# virtio-blk with several queues (VIRTIO_BLK_F_MQ; virtio 1.3, 5.2.2).
# guest:
#   cpus: 2
#   devices:
#     - { type: virtio-blk, memory: 16M, serial: two, queues: 2 }
#     - { type: virtio-blk, memory: 16M, serial: eight, queues: 8 }
#     - { type: virtio-blk, memory: 16M, serial: off, queues: 2, withoutFeatures: [mq] }
# timeout: 600s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
disk() {
  for path in /sys/block/vd*; do
    [ "$(cat "$path/serial")" != "$1" ] || echo "${path##*/}"
  done
}
two=$(disk two)
eight=$(disk eight)
off=$(disk off)
[ -n "$two" ] || bail_out "no disk with the serial \"two\""
feature() { cut -c $(($2 + 1)) "/sys/block/$1/device/features"; }

is "negotiated: MQ" "$(feature "$two" 12)" 1
is "two queues" "$(ls "/sys/block/$two/mq" | wc -l)" 2
# The driver takes no more than there are CPUs.
is "of eight queues two for two CPUs" "$(ls "/sys/block/$eight/mq" | wc -l)" 2
is "without MQ one queue" "$(ls "/sys/block/$off/mq" | wc -l) $(feature "$off" 12)" "1 0"

# interrupts DISK QUEUE: of one queue's vector, on all CPUs.
interrupts() {
  awk -v name="$(basename "$(readlink -f "/sys/block/$1/device")")-req.$2" '$NF == name {
      for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i
    } END { print n + 0 }' /proc/interrupts
}
head -c 2097152 /dev/urandom >"$work/noise"
for cpu in 0 1; do
  before=$(interrupts "$two" "$cpu")
  point "CPU $cpu writes" taskset -c "$cpu" dd if="$work/noise" of="/dev/$two" bs=64k seek=$((cpu * 32)) oflag=direct \
    conv=notrunc
  at_least "through a queue of its own: CPU $cpu" $(($(interrupts "$two" "$cpu") - before)) 1
done
point "both wrote what they had" sh -c "
  dd if=/dev/$two bs=2M count=1 iflag=direct 2>/dev/null | cmp -n 2097152 - $work/noise &&
  dd if=/dev/$two bs=2M skip=1 count=1 iflag=direct 2>/dev/null | cmp -n 2097152 - $work/noise"

writers=
for cpu in 0 1; do
  taskset -c $cpu dd if="$work/noise" of="/dev/$eight" bs=16k seek=$((cpu * 128)) oflag=direct conv=notrunc 2>/dev/null &
  writers="$writers $!"
done
ended=0
for pid in $writers; do
  wait "$pid" && ended=$((ended + 1))
done
is "both CPUs write at once" $ended 2
point "what they wrote at once is there" sh -c "
  dd if=/dev/$eight bs=2M count=1 iflag=direct 2>/dev/null | cmp -n 2097152 - $work/noise &&
  dd if=/dev/$eight bs=2M skip=1 count=1 iflag=direct 2>/dev/null | cmp -n 2097152 - $work/noise"

rm -r "$work"
done_testing
