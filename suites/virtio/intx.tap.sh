#!/bin/sh
# The same devices without MSI-X: level-triggered INTx through the I/O APIC, acknowledged by the ISR register
# (virtio 1.3, 4.1.4.5 and 4.1.5.3). What a guest without MSI support, or a crash kernel, uses.
# guest:
#   cpus: 2
#   cmdline: pci=nomsi
#   devices: [virtio-rng]
#   ports: [{ name: test.echo, peer: echo }, { name: test.hash, peer: sha256 }]
# timeout: 600s
. /lib/kvitest/tap.sh

pci=/sys/bus/pci/devices
work=$(mktemp -d)

# node PORT: its character device, as soon as the device has named it; within 5 s.
node() {
  for try in $(seq 100); do
    for path in /sys/class/virtio-ports/*; do
      { read -r name <"$path/name"; } 2>/dev/null && [ "$name" = "$1" ] && echo "/dev/${path##*/}" && return
    done
    sleep 0.05
  done
  return 1
}
ask() {
  answer=
  { echo "$2" >&3 && read -t 20 -r answer <&3; } 3<>"$(node "$1")"
  echo "$answer"
}
random() { timeout 20 head -c "$1" /dev/hwrng >"$work/random" && [ "$(wc -c <"$work/random")" -eq "$1" ]; }

rng=
for path in $pci/*; do
  [ "$(cat "$path/vendor"):$(cat "$path/device")" != 0x1af4:0x1044 ] || rng=${path##*/}
done
[ -n "$rng" ] || bail_out "no virtio-rng device"
irq=$(cat "$pci/$rng/irq")
interrupts() { awk -v name="$irq:" '$1 == name { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' \
  /proc/interrupts; }

like "the kernel was told not to use MSI" "$(cat /proc/cmdline)" '(^| )pci=nomsi( |$)'
is "no device has an MSI vector" "$(ls -d $pci/*/msi_irqs/* 2>/dev/null)" ""
is "each virtio function has an interrupt line" "$(for path in $pci/*; do
  [ "$(cat "$path/vendor")" != 0x1af4 ] || grep -q "^ *$(cat "$path/irq"):" /proc/interrupts || echo "${path##*/}"
done)" ""
like "the line is level-triggered, through the I/O APIC" "$(grep "^ *$irq:" /proc/interrupts)" 'IO-APIC.*fasteoi'

before=$(interrupts)
point "random bytes come" random 4096
at_least "interrupts grow with them" $(($(interrupts) - before)) 1
before=$(interrupts)
sleep 1
at_most "the line is not left asserted: no interrupts while idle" $(($(interrupts) - before)) 20

is "the echo port answers" "$(ask test.echo hello)" hello
head -c 524288 /dev/urandom >"$work/noise"
digest=$(sha256sum <"$work/noise" | cut -d ' ' -f 1)
hash() { { echo 524288 >&3 && cat "$work/noise" >&3 && read -t 60 -r answer <&3; } 3<>"$(node test.hash)"; }
answer=
hash
is "512 KiB reach the host" "$answer" "$digest"

# Both devices busy at once, in case they share a line.
head -c 65536 /dev/hwrng >/dev/null &
reader=$!
echoed=0
for line in $(seq 50); do
  [ "$(ask test.echo "line $line")" != "line $line" ] || echoed=$((echoed + 1))
done
wait "$reader" && status=0 || status=$?
is "the echo port answers while random bytes come" $echoed 50
is "random bytes come while the echo port answers" "$status" 0

driver=/sys/bus/pci/drivers/virtio-pci
rebinds=0
while [ $rebinds -lt 5 ] && echo "$rng" >$driver/unbind && echo "$rng" >$driver/bind && random 64; do
  rebinds=$((rebinds + 1))
done
is "random bytes come after each of 5 rebinds" $rebinds 5

is "nobody disabled an interrupt" "$(dmesg | grep -iE 'nobody cared|disabling irq|spurious')" ""

rm -r "$work"
done_testing
