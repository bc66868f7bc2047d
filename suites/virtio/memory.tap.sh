#!/bin/sh
# Little memory, and more than fits below the PCI hole: the rest begins at 4 GiB.
# guest: { memory: [96M, 3G, 5G], devices: [virtio-rng], ports: [{ name: test.hash, peer: sha256 }] }
# timeout: 600s
. /lib/kvitest/tap.sh

# The memory map that the kernel was given, by address: "START END TYPE", decimal.
work=$(mktemp -d)
for entry in /sys/firmware/memmap/*; do
  echo "$(($(cat "$entry/start"))) $(($(cat "$entry/end"))) $(tr ' ' - <"$entry/type")"
done | sort -n >"$work/map"
sed 's/^/# /' "$work/map"

# The shell's arithmetic has 64 bits.
ram=0
above=0
overlap=
end=-1
while read -r start stop type; do
  [ "$start" -gt "$end" ] || overlap="$overlap $start"
  end=$stop
  [ "$type" = System-RAM ] || continue
  ram=$((ram + stop - start + 1))
  [ "$start" -lt 4294967296 ] || above=$((above + stop - start + 1))
done <"$work/map"

is "the memory map has no overlaps" "$overlap" ""
at_least "the memory map has all RAM but at most 1 MiB" $ram $((KVITEST_MEMORY - 1048576))
at_most "the memory map has no more RAM than the machine" $ram "$KVITEST_MEMORY"
if [ "$KVITEST_MEMORY" -gt 4294967296 ]; then
  at_least "what does not fit below 4 GiB is above" $above $((KVITEST_MEMORY - 4294967296))
else
  is "what does not fit below 4 GiB is above" $above 0
fi
is "no RAM is where PCI devices are" "$(for bar in $(awk '$2 != "0x0000000000000000" { print $1 "+" $2 }' \
  /sys/bus/pci/devices/*/resource); do
  while read -r start stop type; do
    [ "$type" != System-RAM ] || [ $((${bar%+*})) -gt "$stop" ] || [ $((${bar#*+})) -lt "$start" ] || echo "$bar"
  done <"$work/map"
done)" ""
total=$(($(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo) * 1024))
diag "$(((KVITEST_MEMORY - total) / 1048576)) MiB are the kernel's own"
# Image, initramfs and per-CPU areas, and 1/64 for page structures; above 4 GiB the bounce buffers of 64 MiB too.
at_least "the kernel left the rest for use" $total \
  $((KVITEST_MEMORY - KVITEST_MEMORY / 32 - 58720256 - (above > 0 ? 67108864 : 0)))

# The kernel takes the highest pages first: these buffers are above 4 GiB where there is memory.
port=
for try in $(seq 100); do
  for path in /sys/class/virtio-ports/*; do
    [ "$(cat "$path/name" 2>/dev/null)" != test.hash ] || port=/dev/${path##*/}
  done
  [ -z "$port" ] || break
  sleep 0.05
done
head -c 524288 /dev/urandom >"$work/noise"
hash() {
  answer=
  { echo 524288 && cat "$work/noise"; } >&3 && read -t 60 -r answer <&3
  [ "$answer" = "$(sha256sum <"$work/noise" | cut -d ' ' -f 1)" ]
}
[ -n "$port" ] || bail_out "no port test.hash"
point "the host reads the guest's buffers" hash 3<>"$port"
random() { timeout 20 head -c 4096 /dev/hwrng | od -An -v -t x1 -w16 | sort -u | wc -l; }
is "the host writes the guest's buffers" "$(random)" 256
is "the kernel log has no complaint about memory" "$(dmesg | grep -iE 'out of memory|bad page|oom|e820: .*(invalid|overlap)|mtrr.*(wrong|bad)')" ""

rm -r "$work"
done_testing
