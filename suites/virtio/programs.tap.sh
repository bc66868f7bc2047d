#!/bin/sh
# Debian's own programs on virtio devices: what they verify themselves. programs.test.ts looks from the host too.
# guest:
#   cpus: 2
#   packages: [fio, iperf3, e2fsprogs, rng-tools5, socat]
#   devices:
#     - { type: virtio-blk, memory: 64M, serial: work, queues: 2 }
#     - virtio-rng
#     - { type: virtio-net }
#     - { type: virtio-net, name: lan, backend: { switch: programs } }
#     - { type: virtio-vsock }
# timeout: 600s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
[ "$(cat /sys/block/vda/serial)" = work ] || bail_out "vda is not the disk to work on"

# --- fio: writes, reads back, compares checksums; all engines at once, each on its own part of the disk ---

cat >"$work/job" <<'END'
[global]
filename=/dev/vda
direct=1
rw=randwrite
size=1m
verify=crc32c
verify_fatal=1
[psync]
ioengine=psync
offset=4m
bs=4k
[libaio]
ioengine=libaio
iodepth=16
offset=8m
bs=512
size=128k
[io_uring]
ioengine=io_uring
iodepth=32
offset=12m
bssplit=512/20:4k/40:24k/20:64k/20
[posixaio]
ioengine=posixaio
iodepth=4
offset=16m
bs=8k
[pvsync2]
ioengine=pvsync2
offset=20m
bs=256k
END
fio --output-format=terse --terse-version=3 "$work/job" >"$work/fio" 2>"$work/said"
diag "$(cat "$work/said")"
# Terse version 3: the name, the error, KiB read and written.
verified() { awk -F';' -v name="$1" '$3 == name { print "error " $5 ", " $47 " KiB" }' "$work/fio"; }
is "fio verifies what it wrote: psync" "$(verified psync)" "error 0, 1024 KiB"
is "fio verifies what it wrote: libaio, 16 requests of a sector" "$(verified libaio)" "error 0, 128 KiB"
is "fio verifies what it wrote: io_uring, 32 requests of many sizes" "$(verified io_uring)" "error 0, 1024 KiB"
is "fio verifies what it wrote: posixaio" "$(verified posixaio)" "error 0, 1024 KiB"
is "fio verifies what it wrote: pvsync2" "$(verified pvsync2)" "error 0, 1024 KiB"
at_least "through the queue of each CPU" "$(awk '/virtio.*-req\.[01]$/ && $2 + $3 > 0 { n++ } END { print n + 0 }' /proc/interrupts)" 2

# --- a file system ---

point "mkfs.ext4" mkfs.ext4 -q -b 1024 /dev/vda
mkdir "$work/mnt"
point "mounts" mount -t ext4 /dev/vda "$work/mnt"
fill() {
  for n in 1 2 3 4 5 6 7 8; do
    mkdir "$work/mnt/$n" && head -c $((n * 65537)) /dev/urandom >"$work/mnt/$n/file" || return 1
  done
  (cd "$work/mnt" && sha256sum ./*/file) >"$work/sums"
}
point "files are written" fill
again() { umount "$work/mnt" && mount -o ro -t ext4 /dev/vda "$work/mnt" && cd "$work/mnt" && sha256sum -c "$work/sums"; }
point "read again from the disk they have their checksums" again
umount "$work/mnt"
point "fsck finds nothing" e2fsck -fn /dev/vda
dd if=/dev/zero of=/dev/vda bs=1024 seek=2 count=8 conv=notrunc,fsync 2>/dev/null
point "fsck finds group descriptors that were wiped" sh -c "! e2fsck -fn /dev/vda"

# --- random numbers ---

# 100 blocks of 20000 bits by FIPS 140-2; in true random numbers one of 1250 fails.
head -c 250004 /dev/hwrng | rngtest -c 100 >"$work/rng" 2>&1
failures=$(sed -n 's/^rngtest: FIPS 140-2 failures: //p' "$work/rng")
successes=$(sed -n 's/^rngtest: FIPS 140-2 successes: //p' "$work/rng")
is "rngtest judged 100 blocks" $((failures + successes)) 100
at_most "rngtest refuses next to none of them" "$failures" 3
zeros=$(head -c 25004 /dev/zero | rngtest -c 10 2>&1 | sed -n 's/^rngtest: FIPS 140-2 failures: //p')
is "rngtest refuses zeros" "$zeros" 10

# --- sockets ---

eth=
for path in /sys/class/net/eth*; do
  # The peer's is the first of the two.
  [ -n "$eth" ] || eth=${path##*/}
done
ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$eth" && ip link set "$eth" up
head -c 300000 /dev/urandom >"$work/noise"
echoed() {
  socat -t 20 - "$1" <"$work/noise" >"$work/echo"
  cmp "$work/noise" "$work/echo"
}
point "socat: TCP and back" echoed "TCP:$KVITEST_PEER_ADDRESS:7"
point "socat: vsock and back" echoed VSOCK-CONNECT:2:7

rm -r "$work"
done_testing
