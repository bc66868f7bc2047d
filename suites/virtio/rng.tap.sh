#!/bin/sh
# virtio-rng (virtio 1.3, 5.4) through Linux's virtio_rng driver and hw_random.
# guest: { devices: [virtio-rng] }
# timeout: 600s
. /lib/kvitest/tap.sh

hwrng=/sys/class/misc/hw_random
driver=/sys/bus/virtio/drivers/virtio_rng
work=$(mktemp -d)

# The virtio device, e.g. virtio2: the only one of type 4.
device=
for path in /sys/bus/virtio/devices/*; do
  [ "$(cat "$path/device")" != 0x0004 ] || device=${path##*/}
done
[ -n "$device" ] || bail_out "no virtio device of type 4"
generator() { grep -o 'virtio_rng\.[0-9]*' "$hwrng/$1"; }

# take BYTES FILE: exactly that many, within 20 s.
take() { timeout 20 head -c "$1" /dev/hwrng >"$2" && [ "$(wc -c <"$2")" -eq "$1" ]; }

unbind() { echo "$device" >"$driver/unbind"; }
bind() { echo "$device" >"$driver/bind"; }

# The interrupts of the request queue on all CPUs.
interrupts() {
  awk -v name="$device-" 'index($NF, name) && $NF !~ /config/ { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i }
    END { print n + 0 }' /proc/interrupts
}

# --- the driver found the device ---

is "virtio_rng drives the device" "$(basename "$(readlink "/sys/bus/virtio/devices/$device/driver")")" virtio_rng
is "the device status is ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK" \
  "$(cat "/sys/bus/virtio/devices/$device/status")" 0x0000000f
like "hw_random offers it" "$(cat $hwrng/rng_available)" 'virtio_rng\.[0-9]+'
like "hw_random chose it" "$(cat $hwrng/rng_current)" '^virtio_rng\.[0-9]+$'
is "/dev/hwrng is character device 10:183" "$(stat -c %t:%T /dev/hwrng)" a:b7

# --- bytes come, as many as asked ---

point "one byte" take 1 "$work/one"
point "an odd number of bytes" take 4093 "$work/odd"
before=$(interrupts)
point "32 KiB" take 32768 "$work/sample"
# hw_random asks for 64 bytes at a time at least and keeps one buffer.
at_least "an interrupt for each request" $(($(interrupts) - before)) 8

# --- what came looks random; each limit is passed by a true source but once in more than 10^7 runs ---

od -An -v -t u1 -w1 "$work/sample" | awk '
  BEGIN { for (i = 0; i < 256; i++) for (v = i; v > 0; v = int(v / 2)) bits[i] += v % 2 }
  {
    v = $1 + 0
    ones += bits[v]
    count[v]++
    run = (NR > 1 && v == last) ? run + 1 : 1
    if (run > longest) longest = run
    if (NR > 1) products += (v - 127.5) * (last - 127.5)
    squares += (v - 127.5) * (v - 127.5)
    last = v
  }
  END {
    for (i = 0; i < 256; i++) chi += (count[i] - 128) * (count[i] - 128) / 128
    printf "%d %d %d %d\n", ones, chi, 10000 * products / squares, longest
  }' >"$work/statistics"
read -r ones chi correlation longest <"$work/statistics"
diag "bits set: $ones of 262144; chi-square of the byte histogram: $chi; correlation of neighbours: $correlation/10000;" \
  "longest run of one byte: $longest"
# 262144 fair bits: standard deviation 256; six of them.
point "as many ones as zeros" test "$ones" -gt 129536 -a "$ones" -lt 132608
# Chi-square with 255 degrees of freedom: mean 255, standard deviation 22.6.
point "byte values are spread evenly" test "$chi" -gt 130 -a "$chi" -lt 400
# Standard deviation 1/181; six of them.
point "neighbouring bytes do not depend on each other" test "$correlation" -gt -331 -a "$correlation" -lt 331
at_most "no byte comes more than five times in a row" "$longest" 5

# A used length that is too large, or a buffer given twice, shows as a block seen before.
blocks=$(od -An -v -t x1 -w16 "$work/sample" | sort -u | wc -l)
is "no block of 16 bytes comes twice" "$blocks" 2048

gzip -c "$work/sample" >"$work/sample.gz"
at_least "gzip finds nothing to compress" "$(wc -c <"$work/sample.gz")" 32768

take 64 "$work/first"
take 64 "$work/second"
isnt "two reads differ" "$(od -An -v -t x1 "$work/first")" "$(od -An -v -t x1 "$work/second")"

# --- several readers ---

readers=
for reader in 1 2 3 4; do
  timeout 20 head -c 4096 /dev/hwrng >"$work/reader$reader" &
  readers="$readers $!"
done
finished=0
for pid in $readers; do
  wait "$pid" && finished=$((finished + 1))
done
is "four readers at once all end" "$finished" 4
is "no block of one reader comes at another" \
  "$(cat "$work"/reader? | od -An -v -t x1 -w16 | sort -u | wc -l)" 1024

cat /dev/hwrng >/dev/null &
reader=$!
sleep 0.2
kill -KILL "$reader"
wait "$reader" 2>/dev/null
point "works after a reader was killed in the middle" take 256 "$work/after-kill"

# --- choosing ---

# Kernels since 6.2 list "none" among the choices.
name=$(generator rng_available)
case " $(cat $hwrng/rng_available) " in
  *' none '*)
    echo none >$hwrng/rng_current
    is "can be deselected" "$(cat $hwrng/rng_current)" none
    point "a read without a generator fails" sh -c '! timeout 5 head -c 1 /dev/hwrng 2>/dev/null | grep -q .'
    ;;
  *)
    skip "can be deselected" "this kernel's hw_random has no choice \"none\""
    skip "a read without a generator fails" "this kernel's hw_random has no choice \"none\""
    ;;
esac
echo "$name" >$hwrng/rng_current
point "works when selected again" take 256 "$work/selected"

# --- unbind and bind ---

point "the driver lets go of the device" unbind
is "hw_random does not offer it then" "$(generator rng_available)" ""
point "the driver takes it again" bind
like "hw_random chose it again" "$(cat $hwrng/rng_current)" '^virtio_rng\.[0-9]+$'
point "works after a rebind" take 256 "$work/rebind"

rebinds=0
while [ $rebinds -lt 20 ] && unbind && bind && take 16 "$work/loop"; do
  rebinds=$((rebinds + 1))
done
is "works after each of 20 rebinds" "$rebinds" 20

# A request is under way nearly all the time here.
cat /dev/hwrng >/dev/null 2>&1 &
reader=$!
sleep 0.2
unbind
point "a reader ends when the device goes" timeout 10 sh -c "while kill -0 $reader 2>/dev/null &&
  ! grep -q '^State:.Z' /proc/$reader/status; do sleep 0.1; done"
kill -KILL "$reader" 2>/dev/null
wait "$reader" 2>/dev/null
bind
point "works after it went under a reader" take 256 "$work/under-reader"

# --- the kernel's own pool ---

point "the kernel's random pool is ready" timeout 20 dd if=/dev/random of="$work/pool" bs=32 count=1
is "the kernel log has no complaint of the driver" "$(dmesg | grep -iE 'virtio_rng|hw_?rng|hwrng' |
  grep -iE 'error|fail|warn|bad|bug|timed? ?out')" ""

rm -r "$work"
done_testing
