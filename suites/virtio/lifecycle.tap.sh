#!/bin/sh
# Drivers that leave and return, with work under way: a hundred times unbound and bound, frozen and restored with the whole
# machine, and removed from the bus while requests are in flight. What was written stays, and everything works afterwards.
# guest:
#   transport: [pci, mmio]
#   memory: 224M
#   devices:
#     - { type: virtio-rng }
#     - { type: virtio-blk, memory: 4M, serial: kept }
#     - { type: virtio-net, mac: '02:00:00:00:00:c0', backend: peer }
#     - { type: virtio-vsock, cid: 79 }
#     - { type: virtio-scsi, luns: [{ memory: 2M }] }
#     - { type: virtio-balloon, withoutFeatures: [page_reporting] }
#   ports: [{ name: test.echo, peer: echo }, { name: test.machine, peer: machine }]
#   files: { /bin/talk: ../../build/Release/programs/talk }
# timeout: 1200s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
head -c 1048576 /dev/urandom >"$work/noise"
bus=/sys/bus/virtio/devices

of_type() {
  for path in $bus/*; do
    { read -r number <"$path/device"; } 2>/dev/null && [ "$((number))" = "$1" ] && echo "${path##*/}"
  done
}
# until COMMAND...: tried for 10 s
until_true() {
  for try in $(seq 200); do
    "$@" && return
    sleep 0.05
  done
  return 1
}
block() { ls $bus/"$(of_type 2)"/block 2>/dev/null; }
has_block() { [ -n "$(block)" ] && [ -b "/dev/$(block)" ]; }
unit() {
  for path in /sys/block/sd*; do [ ! -b "/dev/${path##*/}" ] || echo "${path##*/}"; done
}
has_unit() { [ -n "$(unit)" ]; }
interface() { ls $bus/"$(of_type 1)"/net 2>/dev/null; }
has_interface() { [ -n "$(interface)" ]; }
# port NAME
port() {
  for path in /sys/class/virtio-ports/*; do
    { read -r name <"$path/name"; } 2>/dev/null && [ "$name" = "$1" ] && echo "/dev/${path##*/}" && return
  done
  return 1
}
has_port() { port "$1" >/dev/null; }

# --- each by itself ---

# kept block|unit
kept() {
  until_true "has_$1" && dd if="/dev/$("$1")" bs=256k iflag=direct 2>/dev/null | cmp -n 1048576 - "$work/noise"
}
random() { [ "$(timeout 20 head -c 512 /dev/hwrng | wc -c)" = 512 ]; }
network() {
  until_true has_interface || return 1
  ip link set "$(interface)" up
  ip addr show dev "$(interface)" | grep -q "$KVITEST_GUEST_ADDRESS/" ||
    ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$(interface)"
  timeout 20 talk udp "$KVITEST_PEER_ADDRESS" 7 1400 5
}
socket() { head -c 100000 "$work/noise" | timeout 20 talk vsock 2 7 | cmp -n 100000 - "$work/noise"; }
echoes() {
  until_true has_port test.echo || return 1
  answer=
  { echo "$1" >&3 && read -t 20 -r answer <&3; } 3<>"$(port test.echo)"
  [ "$answer" = "$1" ]
}
# The balloon has that many MiB; for one that is asked for anew the driver has to work.
fills() {
  until_true has_port test.machine || return 1
  for try in $(seq 200); do
    { echo "balloon balloon0 $(($1 * 1048576))" >&3 && read -t 20 -r answer <&3; } 3<>"$(port test.machine)"
    case " $answer " in *" actual=$(($1 * 1048576)) "*) return 0 ;; esac
    sleep 0.05
  done
  return 1
}
all_work() {
  kept block || { echo "the disk" && return 1; }
  random || { echo "entropy" && return 1; }
  network || { echo "the network" && return 1; }
  socket || { echo "the socket" && return 1; }
  echoes "$1" || { echo "the port" && return 1; }
  kept unit || { echo "the SCSI disk" && return 1; }
  fills 8 && fills 4 || { echo "the balloon" && return 1; }
}

until_true has_block || bail_out "no disk"
until_true has_port test.echo || bail_out "no port test.echo"
until_true has_unit || bail_out "no SCSI disk"
for disk in $(block) $(unit); do dd if="$work/noise" of="/dev/$disk" bs=256k oflag=direct 2>/dev/null; done
point "all seven devices work" all_work "at the start"

# --- a hundred times ---

# A process costs an emulated host milliseconds: this has none.
rebind_100() {
  cd "$(readlink -f "$bus/$1/driver")" || return 1
  count=0
  while [ $count -lt 100 ] && echo "$1" >unbind && echo "$1" >bind; do
    count=$((count + 1))
  done
  cd /
  [ $count = 100 ] || { echo "$count times" && return 1; }
}
# Without its messages on the serial line, where a character costs an emulated host two exits. What a run looks for there is
# looked for in the log instead.
quietly() {
  read -r level rest </proc/sys/kernel/printk
  dmesg -n 1
  "$@" && ended=0 || ended=1
  dmesg -n "$level"
  ! dmesg | grep -E 'cut here|WARNING:|BUG:|Call Trace|stall' && return $ended
}
# The console's hold ports of the peers' own: the driver of the agent's is another device's.
console=$(basename "$(readlink -f "/sys/class/virtio-ports/$(basename "$(port test.echo)")/device")")
point "the disk: unbound and bound 100 times" rebind_100 "$(of_type 2)"
point "entropy: unbound and bound 100 times" rebind_100 "$(of_type 4)"
point "the network: unbound and bound 100 times" rebind_100 "$(of_type 1)"
point "the socket: unbound and bound 100 times" rebind_100 "$(of_type 19)"
point "the balloon: unbound and bound 100 times" rebind_100 "$(of_type 5)"
point "the SCSI host: unbound and bound 100 times" rebind_100 "$(of_type 8)"
# Each leaves four errors, of buffers that the queues take no more.
point "the console: unbound and bound 100 times" quietly rebind_100 "$console"
point "all work after that, and the disks have what was written" all_work "after rebinds"

# --- load for the next two ---

# writes block|unit, as long as there is the file that says so
writes() {
  while [ -e "$work/loading" ]; do
    # A node of its own: in place of the kernel's, when that has just gone, dd would leave a plain file.
    rm -f "$work/$1"
    mknod "$work/$1" b $(tr : ' ' <"/sys/class/block/$("$1")/dev") &&
      dd if="$work/noise" of="$work/$1" bs=64k seek=16 oflag=direct conv=notrunc || sleep 0.1
  done 2>/dev/null
}
load() {
  : >"$work/loading"
  writes block &
  writes unit &
  while [ -e "$work/loading" ]; do head -c 64 /dev/hwrng >/dev/null 2>&1 || sleep 0.1; done &
  # A datagram that goes with its device has no answer, for which talk would wait 40 s.
  while [ -e "$work/loading" ]; do timeout 3 talk udp "$KVITEST_PEER_ADDRESS" 7 1000 50 2>/dev/null || sleep 0.1; done &
  while [ -e "$work/loading" ]; do timeout 5 talk vsock 2 9 <"$work/noise" 2>/dev/null || sleep 0.1; done &
  sleep 0.3
}
unload() {
  rm -f "$work/loading"
  wait
}

# --- freeze and restore ---

# Debian's kernels have no /sys/power/pm_test (CONFIG_PM_DEBUG is off). Hibernation without a swap device freezes every
# driver, takes its image, fails to write it, and restores every driver: the callbacks are virtio_device_freeze() and
# virtio_device_restore() all the same.
is "what a freeze goes through is hibernation: there is no pm_test, and no swap" \
  "$([ -e /sys/power/pm_test ] && echo pm_test) $(grep -w disk /sys/power/state | wc -w) $(wc -l </proc/swaps)" " 3 1"
hibernate() {
  dmesg -c >"$work/log"
  echo shutdown >/sys/power/disk
  # Else it makes room for its image first, which takes seconds.
  echo 1000000000 >/sys/power/image_size
  echo disk 2>/dev/null >/sys/power/state
  dmesg >"$work/frozen"
  # ENODEV only because there is nowhere to write to.
  grep -q 'Image created' "$work/frozen" && grep -q 'Cannot find swap device' "$work/frozen"
}
load
point "every driver is frozen and restored, under load" hibernate
unload
point "all work after that" all_work "after a freeze"
point "every driver is frozen and restored once more, at rest" hibernate
point "all work after that too" all_work "after a second freeze"
is "no device failed to freeze or to restore" "$(grep -iE 'PM: .*(fail|error)|failed to (freeze|restore)' "$work/frozen")" ""

# --- removed from its bus while requests are in flight ---

# A virtio-mmio device cannot be removed: there its driver lets go of it.
pci=/sys/bus/pci/devices
all=$(for type in 1 2 4 5 8 19; do of_type $type; done)
functions=$(for one in $all; do basename "$(readlink -f "$bus/$one/..")"; done)
drivers=$(for one in $all; do readlink -f "$bus/$one/driver"; done)
leave() {
  if [ "$KVITEST_TRANSPORT" = pci ]; then
    for function in $functions; do echo 1 >"$pci/$function/remove"; done
    for function in $functions; do [ ! -e "$pci/$function" ] || return 1; done
  else
    set -- $drivers
    for one in $all; do
      echo "$one" >"$1/unbind" || return 1
      shift
    done
  fi
}
return_again() {
  [ "$KVITEST_TRANSPORT" != pci ] || { echo 1 >/sys/bus/pci/rescan && return; }
  set -- $drivers
  for one in $all; do
    echo "$one" >"$1/bind" || return 1
    shift
  done
}
for round in 1 2 3; do
  load
  point "six devices leave under load, round $round" leave
  unload
  point "they return, round $round" return_again
  point "all work, round $round" all_work "after round $round"
done

is "the kernel log has no complaint of a virtio driver" "$(cat "$work/log" "$work/frozen" | grep -iE 'virtio|vring' |
  grep -iE 'error|fail|bad|bug|timed? ?out|not a head|out of range')" ""
rm -r "$work"
done_testing
