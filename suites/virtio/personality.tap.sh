#!/bin/sh
# What Linux drivers do with devices that are odd on purpose (native/virtio/README.md, Personalities): breakages that
# happened, each planted in one device of one guest.
# guest:
#   devices:
#     - { type: virtio-blk, memory: 4M, serial: honest }
#     - { type: virtio-blk, memory: 4M, serial: whole-chain, personality: [used-length-whole-chain] }
#     - { type: virtio-blk, memory: 4M, serial: too-long, personality: [used-length-too-long] }
#     - { type: virtio-blk, memory: 4M, serial: zero, personality: [used-length-zero] }
#     - { type: virtio-blk, memory: 4M, serial: fixed-size, personality: [queue-size-fixed] }
#     - { type: virtio-blk, memory: 4M, serial: odd-size, personality: [queue-size-odd] }
#     - { type: virtio-blk, memory: 4M, serial: status, personality: [pci-status-clears-capabilities] }
#     - { type: virtio-net, mac: '02:00:00:00:00:b0', backend: peer, personality: [used-length-whole-chain] }
#     - { type: virtio-net, mac: '02:00:00:00:00:b1', backend: peer, personality: [used-length-too-long] }
#     - { type: virtio-net, mac: '02:00:00:00:00:b2', backend: peer, personality: [queue-size-fixed] }
#     - { type: virtio-net, mac: '02:00:00:00:00:b3', backend: peer, personality: [queue-size-odd] }
# timeout: 600s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
head -c 65536 /dev/urandom >"$work/content"

# block SERIAL: vda, vdb... of the disk with that serial, nothing when no driver has it
block() {
  for path in /sys/block/vd*; do
    [ "$(cat "$path/serial")" != "$1" ] || echo "${path##*/}"
  done
}
# interface MAC: its name
interface() {
  for path in /sys/class/net/*; do
    [ "$(cat "$path/address")" != "$1" ] || echo "${path##*/}"
  done
}
# keeps SERIAL: what is written to the disk itself is what is read from it
keeps() {
  disk=$(block "$1")
  [ -n "$disk" ] && dd if="$work/content" of="/dev/$disk" bs=64k oflag=direct 2>/dev/null &&
    dd if="/dev/$disk" bs=64k count=1 iflag=direct 2>/dev/null | cmp - "$work/content"
}
# answers MAC: the peer does, over that interface alone
answers() {
  link=$(interface "$1")
  [ -n "$link" ] || return 1
  ip link set "$link" up
  ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$link"
  ping -c 1 -w 2 "$KVITEST_PEER_ADDRESS" >/dev/null
  answer=$?
  ip addr flush dev "$link"
  ip link set "$link" down
  return $answer
}
# status_at FUNCTION: the low byte of its PCI status register, octal; 20 says that there are capabilities
status_at() { od -An -v -t o1 -j 6 -N 1 "$1/config" | tr -d ' '; }

point "an honest disk keeps what is written" keeps honest

# F: kernels that checked used lengths took none of these; the check was reverted (f124034faa91).
point "a disk whose used length counts the whole chain keeps what is written" keeps whole-chain
point "a disk whose used length is one byte too long keeps what is written" keeps too-long
point "a disk whose used length is 0 keeps what is written" keeps zero
point "a network device whose used length counts the whole chain is answered" answers 02:00:00:00:00:b0

# Where the length is the packet's, the driver looks itself.
answers 02:00:00:00:00:b1
isnt "a network device whose used length is too long gets no answer" "$?" 0
at_least "it counts the packets that are too long" \
  "$(cat "/sys/class/net/$(interface 02:00:00:00:00:b1)/statistics/rx_length_errors")" 1

# G: a driver that chose another ring size than the device has (762faee5a267, reverted) shared no ring with it.
point "a disk whose queue size cannot be written keeps what is written" keeps fixed-size
point "a network device whose queue size cannot be written is answered" answers 02:00:00:00:00:b2
is "a disk whose queue size is odd has no driver" "$(block odd-size)" ""
is "a network device whose queue size is odd has no driver" "$(interface 02:00:00:00:00:b3)" ""
case $(uname -r) in
6.1.*) refusal='bad queue size 255' code=-22 ;;
*) refusal='Bad virtqueue length 255' code=-12 ;;
esac
at_least "the kernel says why" "$(dmesg | grep -c "$refusal")" 2
at_least "the probes fail with the error of this kernel" "$(dmesg | grep -c "failed with error $code")" 2

# H: since 6cd514e58f12 a kernel writes all ones to PCI status when it finds a device; here that is done by hand.
disk=$(block status)
point "a disk whose PCI status can be cleared keeps what is written" keeps status
function=$(readlink -f "/sys/block/$disk/device/..")
is "no kernel of Debian has written to it yet" "$(status_at "$function")" 020
echo "${function##*/}" >/sys/bus/pci/drivers/virtio-pci/unbind
printf '\377\377' | dd of="$function/config" bs=2 seek=6 oflag=seek_bytes conv=notrunc 2>/dev/null
is "once it has, the capabilities are gone" "$(status_at "$function")" 000
echo "${function##*/}" >/sys/bus/pci/drivers/virtio-pci/bind 2>/dev/null
isnt "no driver takes the device" "$?" 0
is "the disk is gone" "$(block status)" ""
point "the honest disk is as before" keeps honest
done_testing
