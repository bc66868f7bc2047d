#!/bin/sh
# Each feature of virtio-console, virtio-scsi and virtio-rng that can be withheld, withheld by itself, and the transport's own of
# virtio-blk and virtio-net: as toggles.tap.sh, which has the rest. toggles.test.ts has the devices of which a guest has one.
# guest:
#   memory: 320M
#   files: { /bin/talk: ../../build/Release/programs/talk, /lib/toggles.sh: toggles.sh }
#   devices:
#     - { type: virtio-rng, withoutFeatures: [indirect_desc] }
#     - { type: virtio-rng, withoutFeatures: [event_idx] }
#     - { type: virtio-console, withoutFeatures: [size], ports: [{ name: without.size, peer: echo }] }
#     - { type: virtio-console, withoutFeatures: [emerg_write], ports: [{ name: without.emerg_write, peer: echo }] }
#     - { type: virtio-console, withoutFeatures: [indirect_desc], ports: [{ name: without.indirect_desc, peer: echo }] }
#     - { type: virtio-console, withoutFeatures: [event_idx], ports: [{ name: without.event_idx, peer: echo }] }
#     - { type: virtio-console, withoutFeatures: [multiport], ports: [{ name: without.multiport, peer: echo, console: true }] }
#     - { type: virtio-scsi, luns: [{ memory: 1M, serial: hotplug }], withoutFeatures: [hotplug] }
#     - { type: virtio-scsi, luns: [{ memory: 1M, serial: change }], withoutFeatures: [change] }
#     - { type: virtio-scsi, luns: [{ memory: 1M, serial: indirect_desc }], withoutFeatures: [indirect_desc] }
#     - { type: virtio-scsi, luns: [{ memory: 1M, serial: event_idx }], withoutFeatures: [event_idx] }
#     - { type: virtio-blk, memory: 1M, serial: indirect_desc, withoutFeatures: [indirect_desc] }
#     - { type: virtio-blk, memory: 1M, serial: event_idx, withoutFeatures: [event_idx] }
#     - { type: virtio-net, name: indirect_desc, backend: peer, withoutFeatures: [indirect_desc] }
#     - { type: virtio-net, name: event_idx, backend: peer, withoutFeatures: [event_idx] }
#   ports: [{ name: test.machine, peer: machine }]
# timeout: 600s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
head -c 200000 /dev/urandom >"$work/noise"
. /lib/toggles.sh
bus=/sys/bus/virtio/devices

# others NAME FROM...: those but the one
others() {
  left_out=$1
  shift
  echo "$@" | without "$left_out"
}
virtio_of() { basename "$(readlink -f "$1")"; }
of_type() {
  for path in $(ls -d $bus/* | sort -V); do
    [ "$(($(cat "$path/device")))" != "$1" ] || echo "${path##*/}"
  done
}
ask() {
  answer=
  { echo "$1" >&3 && read -t 60 -r answer <&3; } 3<>/dev/virtio-ports/test.machine
  echo "$answer"
}
ring="indirect_desc:28 event_idx:29"

# --- virtio-rng: in the order of the header ---

random() {
  echo "virtio_rng.$1" >/sys/class/misc/hw_random/rng_current &&
    [ "$(timeout 20 head -c 512 /dev/hwrng | od -An -v -t x1 -w16 | sort -u | wc -l)" = 32 ]
}
set -- $(of_type 4)
is "rng without indirect_desc: the other is negotiated" "$(bits "$bus/$1/features" $ring)" "event_idx "
is "rng without event_idx: the other is negotiated" "$(bits "$bus/$2/features" $ring)" "indirect_desc "
point "rng without indirect_desc: bytes come" random 0
point "rng without event_idx: bytes come" random 1

# --- virtio-console: by the names of their ports ---

cat >"$work/echo" <<'SCRIPT'
exec 3<>"$1"
cat "$2" >&3 &
head -c 200000 <&3 | cmp - "$2"
SCRIPT
console="size:0 multiport:1 $ring"
for name in size emerg_write indirect_desc event_idx; do
  port=$(readlink -f "/dev/virtio-ports/without.$name")
  device=$(virtio_of "/sys/class/virtio-ports/${port##*/}/device")
  # Linux's driver does not know emerg_write and never takes it.
  is "console without $name: the others are negotiated" "$(bits "$bus/$device/features" $console emerg_write:2)" \
    "$(others $name size multiport indirect_desc event_idx)"
  point "console without $name: bytes come back" timeout 30 sh "$work/echo" "$port" "$work/noise"
done
# Without names there is one port, and it is a terminal.
single=
for device in $(of_type 3); do
  [ "$(bits "$bus/$device/features" multiport:1)" ] || single=$device
done
is "console without multiport: the others are negotiated" "$(bits "$bus/$single/features" $console)" "size indirect_desc event_idx "
is "console without multiport: one port, without a name" "$(ls "$bus/$single/virtio-ports" | wc -l) $(cat "$bus/$single"/virtio-ports/*/name)" "1 "
terminal() {
  stty raw -echo <&4
  for line in one "$(seq -s ' ' 300)" three; do
    echo "$line" >&4
    answer=
    read -t 20 -r answer <&4
    [ "$answer" = "$line" ] || { echo "got $answer" && return 1; }
  done
}
point "console without multiport: lines come back" terminal 4<>/dev/hvc0

# --- virtio-scsi: by the serials of their units ---

serial() { tail -c +5 "/sys/block/$1/device/vpd_pg80" 2>/dev/null; }
by_serial() {
  for try in $(seq 200); do
    for path in /sys/block/sd*; do
      [ "$(serial "${path##*/}")" != "$1" ] || { echo "${path##*/}" && return; }
    done
    sleep 0.05
  done
}
number=0
for name in hotplug change indirect_desc event_idx; do
  disk=$(by_serial $name)
  device=$(virtio_of "/sys/block/$disk/device/../../..")
  is "scsi without $name: the others are negotiated" "$(bits "$bus/$device/features" hotplug:1 change:2 $ring)" \
    "$(others $name hotplug change indirect_desc event_idx)"
  point "scsi without $name: data is right" carry "$disk"
  # appears: whether a unit that the host attaches does, and whether its new size is seen
  ask "scsi scsi$number attach late$number 9 1048576" >/dev/null
  late=
  for try in $(seq 40); do
    for path in /sys/block/sd*; do
      case "$(readlink -f "$path/device")" in */"$device"/*:9) late=${path##*/} ;; esac
    done
    [ -z "$late" ] || break
    sleep 0.05
  done
  is "scsi without $name: the guest sees a new unit" "$([ -n "$late" ] && echo yes || echo no)" \
    "$([ $name = hotplug ] && echo no || echo yes)"
  if [ -n "$late" ]; then
    ask "scsi scsi$number resize late$number 2097152" >/dev/null
    for try in $(seq 40); do
      size=$(cat "/sys/block/$late/size")
      [ "$size" != 4096 ] || break
      sleep 0.05
    done
    is "scsi without $name: the guest sees its new size" "$size" "$([ $name = change ] && echo 2048 || echo 4096)"
  fi
  number=$((number + 1))
done

# --- virtio-blk by serial, virtio-net in the order of the header ---

for name in indirect_desc event_idx; do
  disk=$(basename "$(dirname "$(grep -l "^$name\$" /sys/block/vd*/serial)")")
  is "blk without $name: the other is negotiated" "$(bits "/sys/block/$disk/device/features" $ring)" \
    "$(others $name indirect_desc event_idx)"
  point "blk without $name: data is right" carry "$disk"
done
set -- $(ls -d /sys/bus/pci/devices/*/virtio*/net/* | sort)
for name in indirect_desc event_idx; do
  is "net without $name: the other is negotiated" "$(bits "$1/device/features" $ring)" \
    "$(others $name indirect_desc event_idx)"
  point "net without $name: data is right" works "${1##*/}"
  shift
done

rm -r "$work"
done_testing
