#!/bin/sh
# The PCI transport (virtio 1.3, 4.1) as Linux sees it: configuration space, capabilities, BAR, MSI-X, negotiated
# features, and what happens when drivers come and go.
# guest:
#   cpus: 2
#   devices: [virtio-rng]
#   ports: [{ name: test.echo, peer: echo }]
# timeout: 600s
# skips: [a function reset is done, random bytes come after a function reset]
. /lib/kvitest/tap.sh

pci=/sys/bus/pci/devices
work=$(mktemp -d)

# config FUNCTION OFFSET SIZE: a little-endian value of the configuration space, decimal.
config() {
  od -An -v -t u1 -j "$2" -N "$3" "$pci/$1/config" |
    awk '{ for (i = NF; i > 0; i--) v = v * 256 + $i } END { printf "%.0f\n", v }'
}

# poke FUNCTION OFFSET BYTE...: writes configuration space; bytes are octal.
poke() {
  poke_function=$1
  poke_offset=$2
  shift 2
  printf "$(printf '\\%s' "$@")" |
    dd of="$pci/$poke_function/config" bs=$# seek="$poke_offset" oflag=seek_bytes conv=notrunc 2>/dev/null
}

# The PCI function of a virtio device and the other way round: 0000:00:03.0, virtio2.
function_of() { basename "$(readlink -f "/sys/bus/virtio/devices/$1/..")"; }
virtio_of() { basename "$pci/$1"/virtio*; }

# feature VIRTIO BIT: 1 when the driver negotiated it. The attribute is one digit a bit, bit 0 first.
feature() { cut -c $(($2 + 1)) "/sys/bus/virtio/devices/$1/features"; }

# capabilities FUNCTION: a line "OFFSET ID" each, in the order of the list, and behind a vendor capability the fields
# of struct virtio_pci_cap (4.1.4): "TYPE BAR OFFSET LENGTH CAP_LEN". A broken list ends with "loop" or "stray".
capabilities() {
  od -An -v -t u1 -w1 -N 256 "$pci/$1/config" | awk '
    function dword(at) { return byte[at] + 256 * (byte[at + 1] + 256 * (byte[at + 2] + 256 * byte[at + 3])) }
    { byte[NR - 1] = $1 + 0 }
    END {
      for (at = byte[52]; at >= 4; at = byte[at + 1]) {
        at -= at % 4
        if (seen[at]++) { print "loop"; exit }
        if (at < 64) { print "stray"; exit }
        printf "%d %d", at, byte[at]
        if (byte[at] == 9) printf " %d %d %.0f %.0f %d", byte[at + 3], byte[at + 4], dword(at + 8), dword(at + 12), byte[at + 2]
        print ""
      }
    }'
}

# structures FUNCTION: a line "TYPE BAR OFFSET LENGTH CAP_LEN AT" for each virtio capability.
structures() { capabilities "$1" | awk '$2 == 9 { print $3, $4, $5, $6, $7, $1 }'; }

# structure FUNCTION TYPE FIELD: a field (1..6, as above) of the first structure of that type.
structure() { structures "$1" | awk -v type="$2" -v field="$3" '$1 == type { print $field; exit }'; }

# through_window FUNCTION OFFSET SIZE: reads the BAR of common through the PCI configuration access capability
# (4.1.4.9).
through_window() {
  at=$(structure "$1" 5 6)
  poke "$1" $((at + 4)) "$(structure "$1" 1 2)"
  poke "$1" $((at + 8)) "$(printf %o $(($2 & 255)))" "$(printf %o $(($2 >> 8 & 255)))" "$(printf %o $(($2 >> 16)))" 0
  poke "$1" $((at + 12)) "$3" 0 0 0
  config "$1" $((at + 16)) "$3"
}

# interrupts VIRTIO [CPU]: of all its vectors, on all CPUs or one.
interrupts() {
  awk -v name="$1-" -v cpu="${2-}" 'index($NF, name) == 1 {
      for (i = 2; $i ~ /^[0-9]+$/; i++) if (cpu == "" || i == cpu + 2) n += $i
    } END { print n + 0 }' /proc/interrupts
}

# The first line of `resource` is BAR 0: first address, last address, flags.
bar_start() { echo $(($(head -n 1 "$pci/$1/resource" | cut -d ' ' -f 1))); }
bar_size() { echo $(($(head -n 1 "$pci/$1/resource" | cut -d ' ' -f 2) - $(bar_start "$1") + 1)); }
# The character device of a port, as soon as the device has named it; within 5 s.
port_device() {
  for try in $(seq 100); do
    for path in /sys/class/virtio-ports/*; do
      { read -r name <"$path/name"; } 2>/dev/null && [ "$name" = "$1" ] && echo "/dev/${path##*/}" && return
    done
    sleep 0.05
  done
  return 1
}

# The echo peer answers; TEXT must differ from call to call, so that an old answer does not pass.
echoes() {
  port=$(port_device test.echo) || return 1
  answer=
  { echo "$1" >&3 && read -t 10 -r answer <&3; } 3<>"$port"
  [ "$answer" = "$1" ]
}
random() { timeout 20 head -c 256 /dev/hwrng | wc -c | grep -qx 256; }

# --- who is there ---

rng=
console=
for path in /sys/bus/virtio/devices/*; do
  case $(cat "$path/device") in
    0x0004) rng=${path##*/} ;;
    # Not the device of the agent's port: its driver must stay.
    0x0003) grep -qx test.echo "$path"/virtio-ports/*/name 2>/dev/null && console=${path##*/} ;;
  esac
done
[ -n "$rng" ] || bail_out "no virtio-rng device"
[ -n "$console" ] || bail_out "no virtio-console device with a port test.echo"
rng_function=$(function_of "$rng")
console_function=$(function_of "$console")

is "a host bridge is at 00:00.0" "$(cat $pci/0000:00:00.0/class)" 0x060000
is "two consoles and an entropy source, all modern" "$(for path in $pci/*; do
  [ "$(cat "$path/vendor")" != 0x1af4 ] || cat "$path/device"
done | sort | tr '\n' ' ')" "0x1043 0x1043 0x1044 "
is "one function a device" "$(ls $pci | grep -v '\.0$')" ""
# 4.1.2.1: a modern-only device has revision 1 or higher.
at_least "the revision says modern" "$(config "$rng_function" 8 1)" 1
is "the header is type 0 and of one function" "$(config "$rng_function" 14 1)" 0
is "the device's modalias is virtio's" "$(cat /sys/bus/virtio/devices/$rng/modalias)" virtio:d00000004v00001AF4

# --- configuration space ---

# The kernel makes a read of one byte a byte access.
is "byte accesses give what dword accesses give" \
  "$(dd if="$pci/$rng_function/config" bs=1 count=64 2>/dev/null | od -An -v -t u1)" \
  "$(dd if="$pci/$rng_function/config" bs=64 count=1 2>/dev/null | od -An -v -t u1)"
poke "$rng_function" 0 377 377 377 377
is "vendor and device id cannot be written" "$(config "$rng_function" 0 4)" $((0x10441af4))
is "memory decoding and bus mastering are on" $(($(config "$rng_function" 4 2) & 6)) 6
is "I/O decoding is off: there is no I/O BAR" $(($(config "$rng_function" 4 2) & 1)) 0
is "the status register announces capabilities" $(($(config "$rng_function" 6 2) & 16)) 16
is "an interrupt pin is wired" "$(config "$rng_function" 61 1)" 1

# --- capabilities ---

# Each of these prints what is wrong with a function, and nothing when all is well.
broken_list() { capabilities "$1" | grep -v '^[0-9]'; }
absent_structures() {
  # 4.1.4.6: a device-specific structure is there for types that have a configuration; the entropy source has none.
  present=" $(structures "$1" | cut -d ' ' -f 1 | tr '\n' ' ')"
  for type in 1 2 3 5 $([ "$1" = "$rng_function" ] || echo 4); do
    case $present in *" $type "*) ;; *) echo "no structure of type $type" ;; esac
  done
}
outside_bar() { structures "$1" | awk -v size="$(bar_size "$1")" '$1 < 5 && ($2 != 0 || $3 + $4 > size || $4 == 0)'; }
overlapping() {
  structures "$1" | awk '$1 < 5 { print $3, $3 + $4 }' | sort -n | awk '$1 < end { print } { end = $2 }'
}
wrong_length() { structures "$1" | awk '$5 != ($1 == 2 || $1 == 5 ? 20 : 16)'; }
wrong_alignment() { structures "$1" | awk '$1 == 1 && $3 % 4 || $1 == 2 && $3 % 2 || $1 == 4 && $3 % 4'; }
short_common() { structures "$1" | awk '$1 == 1 && $4 < 56'; }
wrong_multiplier() {
  multiplier=$(config "$1" $(($(structure "$1" 2 6) + 16)) 4)
  [ $((multiplier & (multiplier - 1) | multiplier & 1)) -eq 0 ] || echo "multiplier $multiplier"
}
wrong_msix() {
  count=$(capabilities "$1" | grep -c ' 17$')
  [ "$count" -eq 1 ] || echo "$count MSI-X capabilities"
}
of_both() {
  "$1" "$rng_function" | sed 's/^/entropy: /'
  "$1" "$console_function" | sed 's/^/console: /'
}

is "the capability lists end, without loop or stray pointer" "$(of_both broken_list)" ""
is "common, notify, ISR, device and PCI access structures are announced" "$(of_both absent_structures)" ""
is "every structure lies in BAR 0" "$(of_both outside_bar)" ""
is "no structures overlap" "$(of_both overlapping)" ""
is "each capability has the length of its type" "$(of_both wrong_length)" ""
# 4.1.4.3.1, 4.1.4.4.1, 4.1.4.6.1
is "common and device are aligned to 4, notify to 2" "$(of_both wrong_alignment)" ""
is "common holds every field up to queue_device" "$(of_both short_common)" ""
is "the notify multiplier is 0 or a power of two above 1" "$(of_both wrong_multiplier)" ""
is "MSI-X is announced once" "$(of_both wrong_msix)" ""

# --- the BAR ---

is "BAR 0 is a 64-bit memory BAR" $(($(config "$rng_function" 16 4) & 7)) 4
is "BAR 0 has 512 KiB" "$(bar_size "$rng_function")" 524288
is "BAR 0 lies at a multiple of its size" $(($(bar_start "$rng_function") % 524288)) 0
is "no two BARs overlap" "$(awk '$2 != "0x0000000000000000" { print $1, $2 }' $pci/*/resource | sort |
  awk '$1 <= end { print } { end = $2 }')" ""

# --- negotiation ---

is "VERSION_1 is negotiated" "$(feature "$rng" 32)$(feature "$console" 32)" 11
is "RING_INDIRECT_DESC is negotiated" "$(feature "$rng" 28)$(feature "$console" 28)" 11
is "RING_EVENT_IDX is negotiated" "$(feature "$rng" 29)$(feature "$console" 29)" 11
is "nothing of legacy virtio is negotiated" \
  "$(feature "$rng" 24)$(feature "$rng" 27)$(feature "$rng" 30)$(feature "$console" 24)$(feature "$console" 27)" 00000
is "the entropy device has no feature of its own" "$(cut -c 1-24 /sys/bus/virtio/devices/$rng/features)" \
  000000000000000000000000
is "the console has MULTIPORT" "$(feature "$console" 1)" 1
is "both drivers finished: status 0xf" \
  "$(cat /sys/bus/virtio/devices/$rng/status) $(cat /sys/bus/virtio/devices/$console/status)" "0x0000000f 0x0000000f"

# --- the same through the configuration access window ---

common=$(structure "$rng_function" 1 3)
is "the window shows the device status" "$(through_window "$rng_function" $((common + 20)) 1)" 15
is "the window shows the number of queues" "$(through_window "$rng_function" $((common + 18)) 2)" 1
poke "$rng_function" $(($(structure "$rng_function" 5 6) + 12)) 3 0 0 0
point "a window of a wrong length does no harm" config "$rng_function" $(($(structure "$rng_function" 5 6) + 16)) 4
is "the window is right again after it" "$(through_window "$rng_function" $((common + 20)) 1)" 15

# --- MSI-X ---

msix() { capabilities "$1" | awk '$2 == 17 { print $1 }'; }
vectors() { echo $((($(config "$1" $(($(msix "$1") + 2)) 2) & 2047) + 1)); }

is "MSI-X is enabled and not masked" $(($(config "$rng_function" $(($(msix "$rng_function") + 2)) 2) >> 14)) 2
is "the entropy device has a vector for its queue and one for changes" "$(vectors "$rng_function")" 2
console_common=$(structure "$console_function" 1 3)
is "the console has a vector for each queue and one for changes" "$(vectors "$console_function")" \
  $(($(through_window "$console_function" $((console_common + 18)) 2) + 1))
is "the driver took both vectors of the entropy device" "$(ls "$pci/$rng_function/msi_irqs" | wc -l)" 2
is "each vector it took has a line in /proc/interrupts" "$(for irq in $(ls "$pci/$rng_function/msi_irqs" \
  "$pci/$console_function/msi_irqs" | grep '^[0-9]*$'); do grep -q "^ *$irq:" /proc/interrupts || echo "$irq"; done)" ""

before=$(interrupts "$rng")
point "random bytes come" random
at_least "interrupts of the entropy device grow with them" $(($(interrupts "$rng") - before)) 1
before=$(interrupts "$console")
point "the echo port answers" echoes one
at_least "interrupts of the console grow with it" $(($(interrupts "$console") - before)) 1

# Moving a vector rewrites its table entry while the device runs.
for cpu in 1 0 1; do
  for irq in $(ls "$pci/$rng_function/msi_irqs"); do
    echo $cpu >/proc/irq/$irq/smp_affinity_list
  done
  # The kernel moves a vector when its next interrupt comes.
  random
  before=$(interrupts "$rng" $cpu)
  random
  echo $(($(interrupts "$rng" $cpu) - before)) >>"$work/moved"
done
is "interrupts follow their vector from CPU to CPU, three times" "$(awk '$1 > 0' "$work/moved" | wc -l)" 3

# --- the driver leaves and returns ---

driver=/sys/bus/pci/drivers/virtio-pci
unbind() { echo "$1" >$driver/unbind; }
bind() { echo "$1" >$driver/bind; }

point "virtio-pci lets go of the entropy device" unbind "$rng_function"
is "its virtio device is gone" "$(ls -d "$pci/$rng_function"/virtio* 2>/dev/null)" ""
is "MSI-X is disabled then" $(($(config "$rng_function" $(($(msix "$rng_function") + 2)) 2) >> 15)) 0
# Reading the BAR needs memory decoding only. Linux sets ACKNOWLEDGE again after the reset.
is "the device was reset: no driver's bit is in its status" "$(through_window "$rng_function" $((common + 20)) 1)" 1
is "the reset disabled its queue" "$(through_window "$rng_function" $((common + 28)) 2)" 0

poke "$rng_function" 4 0 0
low=$(config "$rng_function" 16 4)
poke "$rng_function" 16 377 377 377 377
is "BAR 0 tells its size" "$(config "$rng_function" 16 4)" $((0xfff80004))
poke "$rng_function" 16 $(printf '%o %o %o %o' $((low & 255)) $((low >> 8 & 255)) $((low >> 16 & 255)) $((low >> 24)))
is "BAR 0 is as it was after that" "$(config "$rng_function" 16 4)" "$low"

point "virtio-pci takes the entropy device again" bind "$rng_function"
point "random bytes come after a rebind" random
rebinds=0
while [ $rebinds -lt 10 ] && unbind "$rng_function" && bind "$rng_function" && random; do
  rebinds=$((rebinds + 1))
done
is "random bytes come after each of 10 rebinds" $rebinds 10

rebinds=0
while [ $rebinds -lt 10 ] && unbind "$console_function" && bind "$console_function" && echoes "rebind $rebinds"; do
  rebinds=$((rebinds + 1))
done
is "the echo port answers after each of 10 rebinds" $rebinds 10

# --- the device leaves and returns ---

identity() { od -An -v -t x1 -N 16 "$pci/$1/config"; }
before=$(identity "$rng_function")
echo 1 >"$pci/$rng_function/remove"
point "a removed device is gone" test ! -e "$pci/$rng_function"
echo 1 >/sys/bus/pci/rescan
point "a rescan finds it again" test -e "$pci/$rng_function"
is "it is the same device" "$(identity "$rng_function")" "$before"
is "virtio_rng drives it" \
  "$(basename "$(readlink "/sys/bus/virtio/devices/$(virtio_of "$rng_function")/driver")")" virtio_rng
point "random bytes come after the rescan" random

if [ -e "$pci/$rng_function/reset" ]; then
  unbind "$rng_function"
  point "a function reset is done" sh -c "echo 1 >$pci/$rng_function/reset"
  bind "$rng_function"
  point "random bytes come after a function reset" random
else
  skip "a function reset is done" "the device has no function-level reset, and needs none"
  skip "random bytes come after a function reset" "the device has no function-level reset, and needs none"
fi

is "the kernel log has no complaint about PCI or virtio" "$(dmesg | grep -iE '^(\[[^]]*\] )?(pci|virtio|genirq|irq)' |
  grep -iE "error|fail|can't|cannot|conflict|nobody cared|invalid|timed? ?out")" ""

rm -r "$work"
done_testing
