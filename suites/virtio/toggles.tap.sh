#!/bin/sh
# Each feature of virtio-blk and virtio-net that can be withheld, withheld by itself: the driver does not negotiate it,
# negotiates the others, and data is right. A feature that needs it goes with it (virtio 1.3, 5.1.3.1 and 5.2.3). Of the other
# devices: toggles-others.tap.sh.
# guest:
#   memory: 320M
#   files: { /bin/talk: ../../build/Release/programs/talk, /lib/toggles.sh: toggles.sh }
#   devices:
#     - { type: virtio-blk, memory: 1M, serial: size_max, withoutFeatures: [size_max] }
#     - { type: virtio-blk, memory: 1M, serial: seg_max, withoutFeatures: [seg_max] }
#     - { type: virtio-blk, memory: 1M, serial: blk_size, withoutFeatures: [blk_size] }
#     - { type: virtio-blk, memory: 1M, serial: flush, withoutFeatures: [flush] }
#     - { type: virtio-blk, memory: 1M, serial: topology, withoutFeatures: [topology] }
#     - { type: virtio-blk, memory: 1M, serial: config_wce, withoutFeatures: [config_wce] }
#     - { type: virtio-blk, memory: 1M, serial: discard, withoutFeatures: [discard] }
#     - { type: virtio-blk, memory: 1M, serial: write_zeroes, withoutFeatures: [write_zeroes] }
#     - { type: virtio-net, name: csum, backend: peer, withoutFeatures: [csum] }
#     - { type: virtio-net, name: guest_csum, backend: peer, withoutFeatures: [guest_csum] }
#     - { type: virtio-net, name: mtu, mtu: 4000, backend: peer, withoutFeatures: [mtu] }
#     - { type: virtio-net, name: mac, backend: peer, withoutFeatures: [mac] }
#     - { type: virtio-net, name: guest_tso4, backend: peer, withoutFeatures: [guest_tso4] }
#     - { type: virtio-net, name: guest_tso6, backend: peer, withoutFeatures: [guest_tso6] }
#     - { type: virtio-net, name: host_tso4, backend: peer, withoutFeatures: [host_tso4] }
#     - { type: virtio-net, name: host_tso6, backend: peer, withoutFeatures: [host_tso6] }
#     - { type: virtio-net, name: mrg_rxbuf, backend: peer, withoutFeatures: [mrg_rxbuf] }
#     - { type: virtio-net, name: status, backend: peer, withoutFeatures: [status] }
#     - { type: virtio-net, name: ctrl_vq, backend: peer, withoutFeatures: [ctrl_vq] }
#     - { type: virtio-net, name: ctrl_rx, backend: peer, withoutFeatures: [ctrl_rx] }
#     - { type: virtio-net, name: ctrl_vlan, backend: peer, withoutFeatures: [ctrl_vlan] }
#     - { type: virtio-net, name: ctrl_rx_extra, backend: peer, withoutFeatures: [ctrl_rx_extra] }
#     - { type: virtio-net, name: guest_announce, backend: peer, withoutFeatures: [guest_announce] }
#     - { type: virtio-net, name: ctrl_mac_addr, backend: peer, withoutFeatures: [ctrl_mac_addr] }
#     - { type: virtio-net, name: mq, queues: 2, backend: peer, withoutFeatures: [mq] }
# timeout: 600s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
head -c 200000 /dev/urandom >"$work/noise"
. /lib/toggles.sh

# --- virtio-blk: disks go by their serial ---

blk="size_max:1 seg_max:2 blk_size:6 flush:9 topology:10 config_wce:11 discard:13 write_zeroes:14"
for path in /sys/block/vd*; do
  read -r serial <"$path/serial"
  is "blk without $serial: the others are negotiated" "$(bits "$path/device/features" $blk)" \
    "$(echo "$blk" | sed 's/:[0-9]*//g' | without "$serial")"
  point "blk without $serial: data is right" carry "${path##*/}"
done

# --- virtio-net: in the order of the header, which is the order of slots ---

net="csum:0 guest_csum:1 mac:5 guest_tso4:7 guest_tso6:8 host_tso4:11 host_tso6:12 mrg_rxbuf:15 status:16 ctrl_vq:17"
# Linux's driver does not know ctrl_rx_extra and never takes it.
net="$net ctrl_rx:18 ctrl_vlan:19 guest_announce:21 ctrl_mac_addr:23"
needing() {
  case $1 in
    csum) echo csum host_tso4 host_tso6 ;;
    guest_csum) echo guest_csum guest_tso4 guest_tso6 ;;
    ctrl_vq) echo ctrl_vq ctrl_rx ctrl_vlan guest_announce ctrl_mac_addr ;;
    *) echo "$1" ;;
  esac
}
set -- $(ls -d /sys/bus/pci/devices/*/virtio*/net/* | sort)
is "seventeen network devices" $# 17
for name in csum guest_csum mtu mac guest_tso4 guest_tso6 host_tso4 host_tso6 mrg_rxbuf status ctrl_vq ctrl_rx ctrl_vlan \
  ctrl_rx_extra guest_announce ctrl_mac_addr mq; do
  features=$1/device/features
  is "net without $name: the others are negotiated" "$(bits "$features" $net mtu:3 ctrl_rx_extra:20 mq:22)" \
    "$(echo "$net" | sed 's/:[0-9]*//g' | without $(needing $name))"
  point "net without $name: data is right" works "${1##*/}"
  shift
done

rm -r "$work"
done_testing
