#!/bin/sh
# virtio-balloon (virtio 1.3, 5.5) through Linux's virtio_balloon driver: the host's wishes and memory, statistics, free pages.
# guest:
#   devices: [virtio-balloon]
#   ports: [{ name: test.machine, peer: machine }]
# timeout: 600s
. /lib/kvitest/tap.sh

mib=1048576
work=$(mktemp -d)
driver=/sys/bus/virtio/drivers/virtio_balloon
device=
for path in /sys/bus/virtio/devices/*; do
  [ "$(cat "$path/device")" != 0x0005 ] || device=${path##*/}
done
[ -n "$device" ] || bail_out "no virtio device of type 5"
sys=/sys/bus/virtio/devices/$device

# ask COMMAND: the host's answer
ask() {
  answer=
  { echo "$1" >&3 && read -t 60 -r answer <&3; } 3<>/dev/virtio-ports/test.machine
  echo "$answer"
}
# field NAME ANSWER
field() { echo "$2" | tr ' ' '\n' | sed -n "s/^$1=//p"; }
balloon() { field "$1" "$(ask "balloon balloon0")"; }
memory() { ask memory; }
# reaches MIB: asks for so many and waits until the driver has given them
reaches() {
  ask "balloon balloon0 $(($1 * mib))" >/dev/null
  for try in $(seq 600); do
    [ "$(balloon actual)" != $(($1 * mib)) ] || return 0
    sleep 0.05
  done
  echo "the driver has $(balloon actual) of $(($1 * mib))"
  return 1
}
kib() { awk -v name="$1:" '$1 == name { print $2 }' /proc/meminfo; }
vmstat() { awk -v name="$1" '$1 == name { print $2 }' /proc/vmstat; }
feature() { cut -c $(($1 + 1)) "$sys/features"; }
interrupts() {
  awk -v name="$device-$1" '$NF == name { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts
}
mkdir "$work/ram"
mount -t tmpfs -o size=100% none "$work/ram"
# touch_pages MIB: so much memory of the host is taken, and free again in the guest
touch_pages() {
  dd if=/dev/zero of="$work/ram/touched" bs=1M count="$1" 2>/dev/null
  rm "$work/ram/touched"
}

# --- what the driver found ---

is "virtio_balloon drives the device" "$(basename "$(readlink "$sys/driver")")" virtio_balloon
is "the device status is ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK" "$(cat "$sys/status")" 0x0000000f
for bit in 1:STATS_VQ 2:DEFLATE_ON_OOM 3:FREE_PAGE_HINT 5:PAGE_REPORTING; do
  is "negotiated: ${bit#*:}" "$(feature "${bit%:*}")" 1
done
is "not offered and not negotiated: MUST_TELL_HOST" "$(feature 0)" 0
# A kernel that poisons no free pages says so by leaving the feature out.
is "not negotiated, for this kernel poisons nothing: PAGE_POISON" "$(feature 4)" 0
is "the balloon is empty" "$(balloon actual)" 0

# --- memory that was kept must stay what it is, whatever comes ---

head -c $((2 * mib)) /dev/urandom >"$work/ram/kept"
digest=$(sha256sum <"$work/ram/kept")
kept() { [ "$(sha256sum <"$work/ram/kept")" = "$digest" ]; }

# --- inflate and deflate ---

touch_pages 24
before=$(memory)
free=$(kib MemFree)
inflated=$(vmstat balloon_inflate)
point "the driver gives 32 MiB" reaches 32
at_least "the host has its memory back" $((before - $(memory))) $((12 * mib))
# Pages on the lists of CPUs do not count as free: they are given too.
at_least "the guest has less to use" $((free - $(kib MemFree))) $((8 * 1024))
at_least "the kernel counts the pages" $(($(vmstat balloon_inflate) - inflated)) $((32 * 256))
at_least "all came on the inflate queue" "$(balloon inflated)" $((32 * mib))
is "every page number was one of RAM" "$(balloon ignored)" 0
at_least "with interrupts of the inflate queue" "$(interrupts inflate)" 1
point "what was kept is whole" kept

point "the driver takes 24 MiB back" reaches 8
at_least "they came on the deflate queue" "$(balloon deflated)" $((24 * mib))
at_least "the kernel counts these too" "$(vmstat balloon_deflate)" $((24 * 256))
# Each copy is on other pages.
refilled() {
  for copy in 1 2 3 4 5 6 7 8; do cp "$work/ram/kept" "$work/ram/new$copy" || return 1; done
  for copy in 1 2 3 4 5 6 7 8; do cmp "$work/ram/kept" "$work/ram/new$copy" || return 1; done
}
point "and they can be used" refilled
rm -f "$work"/ram/new*
point "what was kept is whole after that" kept
for step in 1 9 8 0; do
  point "the driver follows to $step MiB" reaches $step || break
done

# --- free page reporting ---

# Linux reports blocks of 2 MiB, while 32 of them above the low watermark are free.
reported=$(balloon reported)
touch_pages 64
full=$(memory)
reports() {
  for try in $(seq 100); do
    [ $((full - $(memory))) -lt $((12 * mib)) ] || return 0
    sleep 0.2
  done
  echo "the host had $full bytes, and has $(memory)"
  return 1
}
point "free pages go back to the host by themselves" reports
at_least "they came on the reporting queue" $(($(balloon reported) - reported)) $((12 * mib))
at_least "with interrupts of the reporting queue" "$(interrupts reporting_vq)" 1
point "what was reported can be used" refilled
rm -f "$work"/ram/new*
point "what was kept is whole after reports" kept

# --- statistics ---

answer=$(ask "balloon balloon0 statistics")
stat() { field "stat$1" "$answer"; }
is "statistics: total memory" "$(stat 5)" $(($(kib MemTotal) * 1024))
# Kernels count as they please between the two looks.
near() { [ $(($1 - $2)) -lt $((8 * mib)) ] && [ $(($2 - $1)) -lt $((8 * mib)) ] || { echo "$1 and $2"; return 1; }; }
point "statistics: free memory" near "$(stat 4)" $(($(kib MemFree) * 1024))
point "statistics: available memory" near "$(stat 6)" $(($(kib MemAvailable) * 1024))
at_least "statistics: minor faults" "$(stat 3)" 1
is "statistics: nothing was swapped" "$(stat 0)/$(stat 1)" 0/0
updates=$(balloon updates)
for round in 1 2 3; do ask "balloon balloon0 statistics" >/dev/null; done
at_least "statistics come each time" $(($(balloon updates) - updates)) 3

# --- free page hints ---

# The kernel clears what it allocates: little is free, so that this is soon done.
dd if=/dev/zero of="$work/ram/hog" bs=1M count=$(($(kib MemAvailable) / 1024 - 44)) 2>/dev/null
free=$(kib MemFree)
answer=$(ask "balloon balloon0 hints")
at_least "hints: the driver names free pages" "$(field hinted "$answer")" $((4 * mib))
is "hints: it ends the round" "$(field rounds "$answer")" 1
released() {
  for try in $(seq 100); do
    [ "$(kib MemFree)" -lt $((free - 8192)) ] || return 0
    sleep 0.1
  done
  return 1
}
point "hints: it lets go of the pages" released
point "what was kept is whole after hints" kept

# --- memory that programs need goes before the balloon ---

point "the driver gives what is free but for a little" reaches $(($(kib MemAvailable) / 1024 - 12))
full=$(balloon actual)
eat() { dd if=/dev/zero bs=20M count=1 2>/dev/null | wc -c; }
is "a program gets more than was left" "$(eat)" $((20 * mib))
at_most "out of the balloon" "$(balloon actual)" $((full - mib))
is "and nobody was killed" "$(dmesg | grep -ciE 'killed process|out of memory')" 0
point "what was kept is whole after that too" kept
rm "$work/ram/hog"

# --- unbind and bind ---

unbind() { echo "$device" >"$driver/unbind"; }
bind() { echo "$device" >"$driver/bind"; }
reaches 16
free=$(kib MemFree)
point "the driver lets go of the device" unbind
at_least "and the guest has its memory again" $(($(kib MemFree) - free)) $((12 * 1024))
is "the balloon is empty then" "$(balloon actual)" 0
point "the driver takes it again" bind
point "and gives what the host still wants" reaches 16
rebinds=0
reaches 1
while [ $rebinds -lt 10 ] && unbind && bind && reaches 1; do
  rebinds=$((rebinds + 1))
done
is "works after each of 10 rebinds" $rebinds 10
point "what was kept is whole at the end" kept
is "the kernel log has no complaint of the driver" "$(dmesg | grep -iE 'balloon|page_reporting' |
  grep -iE 'error|fail|warn|bad|bug|out of puff')" ""

umount "$work/ram"
done_testing
