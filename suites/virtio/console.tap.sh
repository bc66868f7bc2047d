#!/bin/sh
# virtio-console (virtio 1.3, 5.3) with several ports, through Linux's virtio_console driver. The ports' other ends
# are peers on the host (docs/tap-scripts.md).
# guest:
#   memory: 256M
#   ports:
#     - { name: test.echo, peer: echo }
#     - { name: test.hash, peer: sha256 }
#     - { name: test.source, peer: source }
#     - { name: test.count, peer: count }
#     - { name: test.hold, peer: hold }
#     - { name: test.door, peer: door }
#     - { name: test.hvc, peer: terminal, console: true }
# timeout: 600s
. /lib/kvitest/tap.sh

names="test.count test.door test.door.control test.echo test.hash test.hold test.hold.control test.hvc"
names="$names test.hvc.control test.source"
class=/sys/class/virtio-ports
work=$(mktemp -d)
noise=$work/noise
head -c 4194304 /dev/urandom >"$noise"

# port NAME: its directory in sysfs, as soon as the device has named it; within 5 s.
port() {
  for try in $(seq 100); do
    for path in $class/*; do
      # Without a process: an emulated host takes milliseconds for one.
      { read -r name <"$path/name"; } 2>/dev/null && [ "$name" = "$1" ] && echo "$path" && return
    done
    sleep 0.05
  done
  return 1
}
# Its character device. Not through /dev/virtio-ports: the driver makes new ones below.
node() {
  node=$(port "$1") && echo "/dev/${node##*/}"
}

# ask PORT LINE: the line of text that the peer answers.
ask() {
  answer=
  { echo "$2" >&3 && read -t 20 -r answer <&3; } 3<>"$(node "$1")"
  echo "$answer"
}

# Scripts of their own, so that `timeout` can end them; around a command that has the port already, busybox timeout
# would keep the port open for up to a second more, in the process that watches.
cat >"$work/echo" <<'SCRIPT'
cat "$2" >&3 &
head -c "$3" <&3 >"$4"
wait
SCRIPT
cat >"$work/receive" <<'SCRIPT'
echo "$2 $3" >&3
read -r expected <&3
sleep "$4"
actual=$(head -c "$2" <&3 | sha256sum | cut -d ' ' -f 1)
[ "$actual" = "$expected" ] || { echo "the host sent $expected, got $actual" && exit 1; }
SCRIPT
sed -i '1i exec 3<>"$1"' "$work/echo" "$work/receive"

# echoes FILE: through the echo port there and back, byte for byte.
echoes() {
  timeout 20 sh "$work/echo" "$(node test.echo)" "$1" "$(wc -c <"$1")" "$work/echoed"
  cmp "$1" "$work/echoed"
}
echoes_size() {
  head -c "$1" "$noise" >"$work/part" && echoes "$work/part"
}
echoes_sizes() {
  for size in "$@"; do
    echoes_size "$size" || { echo "$size bytes differ" && return 1; }
  done
}
echoes_line() { [ "$(ask test.echo "$1")" = "$1" ]; }

# ask_with PORT LINE FILE: sends the file behind the line.
ask_with() {
  answer=
  { echo "$2" && cat "$3"; } >&3 && read -t 60 -r answer <&3
  echo "$answer"
} 3<>"$(node "$1")"

digest() { sha256sum | cut -d ' ' -f 1; }
# uptime in hundredths of a second
now() { tr -d . </proc/uptime | cut -d ' ' -f 1; }
# until COMMAND...: tried for 10 s.
until_true() {
  for try in $(seq 100); do
    "$@" && return
    sleep 0.1
  done
  return 1
}
alive() { kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status"; }

# --- the ports are there ---

device=$(port test.echo) || bail_out "no port test.echo"
device=$(basename "$(readlink -f "$device/device")")
agent=$(basename "$(readlink -f "$(port org.kvitest.agent)/device")")
# The driver gets the ports one after the other.
port test.source >/dev/null
of_device() {
  for path in /sys/bus/virtio/devices/"$device"/virtio-ports/*; do cat "$path/name"; done | sort | tr '\n' ' '
}

is "the device has the ports that were asked for, under their names" "$(of_device)" "$names "
isnt "the agent's port is on another device" "$device" "$agent"
is "virtio_console drives the device" \
  "$(basename "$(readlink "/sys/bus/virtio/devices/$device/driver")")" virtio_console
is "SIZE and MULTIPORT are negotiated" "$(cut -c 1-2 "/sys/bus/virtio/devices/$device/features")" 11
is "every port has a character device" "$(for path in $class/*; do
  [ -c "/dev/${path##*/}" ] || echo "${path##*/}"
done)" ""
is "/dev/virtio-ports leads to each by name" "$(for name in $names; do
  link=$(readlink -f "/dev/virtio-ports/$name")
  [ "$link" = "$(node "$name")" ] || echo "$name: $link"
done)" ""

# --- bytes come back as they went ---

point "one line comes back" echoes_line "a line of text"
point "one byte comes back" echoes_size 1
printf "$(awk 'BEGIN { for (i = 0; i < 256; i++) printf "\\%03o", i }')" >"$work/values"
point "each of the 256 byte values comes back" echoes "$work/values"
point "odd sizes around cache lines come back" echoes_sizes 2 3 31 33 63 64 65 127 129
point "odd sizes around a page come back" echoes_sizes 4093 4095 4096 4097 8191 8193
# Linux hands over 32 KiB at most with one buffer.
point "odd sizes around the driver's largest buffer come back" echoes_sizes 32767 32768 32769 65535 65537
point "a size around the host's window comes back" echoes_sizes 262143 262145
point "1 MiB comes back while it is still being sent" echoes_size 1048576

# counted: what the host has, and a newline more.
counted() {
  answer=
  { printf '\n?\n' >&3 && read -t 20 -r answer <&3; } 3<>"$(node test.count)"
  echo "$answer"
}
send_small() {
  for byte in $(seq 500); do printf x; done >"$(node test.count)"
  answer=$(counted)
  [ "$answer" = 501 ] || { echo "the host counted $answer" && return 1; }
}
point "500 writes of one byte are 500 bytes" send_small

# --- much, to the host ---

# A clock would tell how busy the host is; the interrupts tell how the device works.
interrupts() {
  awk '/virtio/ { for (at = 2; $at ~ /^[0-9]+$/; at++) sum += $at } END { print sum + 0 }' /proc/interrupts
}

# hashes COUNT COMMAND...: the command's output reaches the sha256 peer as COUNT bytes with the right digest.
hashes() {
  bytes=$1
  shift
  expected=$("$@" 2>/dev/null | digest)
  answer=
  {
    echo "$bytes" >&3
    "$@" 2>/dev/null >&3
    read -t 60 -r answer <&3
  } 3<>"$(node test.hash)"
  [ "$answer" = "$expected" ] || { echo "sent $expected, the host has $answer" && return 1; }
}
point "1 MiB in one write reaches the host" hashes 1048576 dd if="$noise" bs=1048576 count=1
point "1 MiB in writes of 61 KiB + 7 reaches the host" hashes 1048576 dd if="$noise" bs=62471 count=1048576 \
  iflag=count_bytes
point "64 KiB in writes of 16 bytes reach the host" hashes 65536 dd if="$noise" bs=16 count=4096
expected=$(digest <"$noise")
begin=$(now)
before=$(interrupts)
is "4 MiB reach the host" "$(ask_with test.hash 4194304 "$noise")" "$expected"
to_host=$((4194304 / ($(now) - begin + 1) / 10))
diag "to the host: $to_host KB/s, the host's digest included"
at_most "4 MiB to the host cost interrupts by the buffer, not by the byte" $(($(interrupts) - before)) 8192

# --- much, from the host ---

# receives BYTES SEED SECONDS: waits that long before it reads.
receives() { timeout 60 sh "$work/receive" "$(node test.source)" "$@"; }
point "an odd number of bytes comes from the host" receives 12345 odd 0
point "1 MiB comes from the host" receives 1048576 one 0
begin=$(now)
before=$(interrupts)
point "4 MiB come from the host" receives 4194304 four 0
from_host=$((4194304 / ($(now) - begin + 1) / 10))
diag "from the host: $from_host KB/s, the guest's digest included"
at_most "4 MiB from the host cost interrupts by the buffer, not by the byte" $(($(interrupts) - before)) 8192
point "nothing is lost while the guest does not read for a second" receives 2097152 slow 1

# --- flow control to the host ---

# Small buffers, so that the ring fills before much memory is taken: 512 bytes x ring + the host's window.
head -c 2097152 "$noise" >"$work/held"
dd if="$work/held" of="$(node test.hold)" bs=512 2>/dev/null &
writer=$!
written() { awk '$1 == "wchar:" { print $2 }' "/proc/$writer/io" 2>/dev/null; }
stalled() {
  last=$(written)
  sleep 0.5
  [ "$last" -gt 0 ] && [ "$(written)" = "$last" ]
}
point "a writer comes to a halt while the host takes nothing" until_true stalled
held=$(written)
diag "$held bytes were accepted meanwhile"
at_most "what is on its way is bounded" "${held:-none}" 1048576
point "the writer waits, it did not fail" alive "$writer"
point "other ports work while one is held up" echoes_line "past the held port"
point "other ports carry much while one is held up" hashes 262144 head -c 262144 "$noise"
is "the host takes 1000 bytes: the first 1000" "$(ask test.hold.control 'take 1000')" \
  "1000 $(head -c 1000 "$work/held" | digest)"
is "the host takes the rest: all of it, in order" "$(ask test.hold.control 'take 2096152')" \
  "2096152 $(tail -c +1001 "$work/held" | digest)"
finished() { ! alive "$writer"; }
until_true finished
wait "$writer" && status=0 || status=$?
is "the writer ended well" "$status" 0

# --- open and close ---

busy=$(node test.echo)
# sh says "Resource busy" where glibc's text would be "Device or resource busy".
like "a port opens once at a time" "$(sh -c "exec 4<>$busy" 2>&1 3<>"$busy")" '[Bb]usy'
reopens=0
while [ $reopens -lt 30 ] && echoes_line "open $reopens"; do
  reopens=$((reopens + 1))
done
is "the echo answers after each of 30 reopens" $reopens 30
for bytes in $(seq 20); do
  head -c $((bytes * 97)) /dev/zero >"$(node test.count)"
done
is "bytes written just before a close arrive" "$(counted)" 20371

is "the host sees the guest's end closed" "$(ask test.door.control 'wait closed')" closed
seen_open() { [ "$(ask test.door.control 'wait open')" = open ]; }
point "the host sees the guest open it" seen_open 3<>"$(node test.door)"
is "the host sees the guest close it" "$(ask test.door.control 'wait closed')" closed

# The host's end, while the guest's is open.
closed_end() {
  echo before >&4
  sleep 0.5
  is "the host closes its end" "$(ask test.door.control close)" closed
  rest=$(timeout 10 cat <&4) && status=0 || status=$?
  is "what came before the close can still be read" "$rest" before
  is "then a reader sees the end of the file" "$status" 0
  echo late >&4 &
  late=$!
  sleep 0.5
  point "a writer waits while the host's end is closed" alive "$late"
  is "the host opens its end again" "$(ask test.door.control open)" opened
  answer=
  read -t 10 -r answer <&4
  is "then the writer goes on and the echo comes" "$answer" late
  kill "$late" 2>/dev/null
  wait "$late" 2>/dev/null
}
closed_end 4<>"$(node test.door)"

# --- the console port is a terminal ---

terminal() {
  stty -echo -onlcr <&4
  point "the console port is a terminal" test -t 4
  is "the host's window has the size it set" "$(ask test.hvc.control 'resize 132 50')" resized
  point "the terminal takes the size of the host's window" until_true has_numbers 50 132
  ask test.hvc.control 'resize 80 25' >/dev/null
  point "the terminal takes a second size" until_true has_numbers 25 80
  # 5.3.6.2 says columns, then rows; most releases of Linux read rows first.
  todo "columns and rows are not swapped" "Linux reads RESIZE as rows, columns" has_size "25 80"

  echo "to the host" >&4
  is "a line goes to the host" "$(ask test.hvc.control line)" "to the host"
  seq -s ' ' 500 >&4
  is "a long line goes to the host" "$(ask test.hvc.control line)" "$(seq -s ' ' 500)"
  is "the host types" "$(ask test.hvc.control 'type from the host')" typed
  answer=
  read -t 10 -r answer <&4
  is "what it typed is read" "$answer" "from the host"
}
has_numbers() { has_size "$1 $2" || has_size "$2 $1"; }
has_size() { [ "$(stty size <&4 2>/dev/null)" = "$1" ]; }
terminal 4<>/dev/hvc0

cat >"$work/foreground" <<'SCRIPT'
trap 'stty size >"$1/size"; exit' WINCH
echo >"$1/ready"
while :; do sleep 0.1; done
SCRIPT
setsid -c sh "$work/foreground" "$work" <>/dev/hvc0 2>/dev/null &
foreground=$!
until_true test -e "$work/ready"
ask test.hvc.control 'resize 100 30' >/dev/null
until_true test -s "$work/size"
like "the foreground process gets SIGWINCH and the new size" "$(cat "$work/size" 2>/dev/null)" '^(30 100|100 30)$'
kill -KILL "$foreground" 2>/dev/null
wait "$foreground" 2>/dev/null

# --- the driver leaves and returns ---

driver=/sys/bus/virtio/drivers/virtio_console
unbind() { echo "$device" >$driver/unbind; }
bind() { echo "$device" >$driver/bind; }

cat "$(node test.hold)" >/dev/null 2>&1 &
reader=$!
sleep 0.3
point "a reader waits while there is nothing to read" alive "$reader"
point "the driver lets go of the device" unbind
gone() { ! alive "$reader"; }
point "a reader ends when its port goes" until_true gone
wait "$reader" 2>/dev/null
is "the ports are gone" "$(ls "/sys/bus/virtio/devices/$device/virtio-ports" 2>/dev/null)" ""
point "the driver takes the device again" bind
port test.source >/dev/null
is "the ports are back under their names" "$(of_device)" "$names "
point "the echo answers after a rebind" echoes_line "after a rebind"
rebinds=0
while [ $rebinds -lt 10 ] && unbind && bind && echoes_line "rebind $rebinds"; do
  rebinds=$((rebinds + 1))
done
is "the echo answers after each of 10 rebinds" $rebinds 10
point "much goes to the host after them" hashes 1048576 head -c 1048576 "$noise"
point "much comes from the host after them" receives 1048576 again 0

is "the kernel log has no complaint of the driver" "$(dmesg | grep -iE 'virtio_console|virtio-ports|vport|hvc' |
  grep -iE 'error|fail|warn|bug|timed? ?out|unable|could not')" ""

rm -r "$work"
done_testing
