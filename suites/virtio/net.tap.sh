#!/bin/sh
# virtio-net (virtio 1.3, 5.1) through Linux's virtio_net driver, with the peer of docs/tap-scripts.md on the wire.
# guest:
#   devices:
#     - { type: virtio-net, name: net0, mac: '02:00:00:00:00:a0', mtu: 4000, backend: peer }
#     - { type: virtio-net, name: plain, mac: '02:00:00:00:00:a1', backend: peer, withoutFeatures: [mrg_rxbuf, guest_csum, csum, ctrl_vq] }
#     - { type: virtio-net, name: multi, mac: '02:00:00:00:00:a2', backend: peer, queues: 2, withFeatures: [ring_reset] }
#   ports: [{ name: test.machine, peer: machine }]
#   modules: [8021q]
#   files: { /bin/talk: ../../build/Release/programs/talk }
#   cpus: 2
# timeout: 600s
. /lib/kvitest/tap.sh

peer=$KVITEST_PEER_ADDRESS
work=$(mktemp -d)
driver=/sys/bus/virtio/drivers/virtio_net

# interface MAC: its name
interface() {
  for path in /sys/class/net/*; do
    [ "$(cat "$path/address")" != "$1" ] || echo "${path##*/}"
  done
}
# feature INTERFACE BIT
feature() { cut -c $(($2 + 1)) "/sys/class/net/$1/device/features"; }
# use INTERFACE: it alone is up, with the guest's address
use() {
  for other in $net $plain $multi; do
    ip addr flush dev "$other"
    ip link set "$other" down
  done
  ip link set "$1" up
  ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$1"
}
# wait_for COMMAND...: tried for 10 s
wait_for() {
  for try in $(seq 100); do
    "$@" && return
    sleep 0.1
  done
  return 1
}
carrier_is() { [ "$(cat "/sys/class/net/$1/carrier")" = "$2" ]; }
cable() { { echo "link net0 $1" >&3 && read -t 20 -r answer <&3; } 3<>/dev/virtio-ports/test.machine; }
pings() { ping -c "${2:-1}" -W 5 -s "${3:-56}" "$1" >"$work/ping" 2>&1 || { cat "$work/ping"; return 1; }; }
pings_sizes() {
  for size in "$@"; do
    pings "$peer" 1 "$size" || { echo "$size bytes" && return 1; }
  done
}
udp() { timeout 20 talk udp "$peer" 7 "$1" "$2"; }
udp_sizes() {
  for size in "$@"; do
    udp "$size" 1 || { echo "$size bytes" && return 1; }
  done
}
# tcp BYTES: through the peer's echo and back
head -c 1000000 /dev/urandom >"$work/noise"
tcp() {
  head -c "$1" "$work/noise" >"$work/part"
  timeout 30 talk tcp "$peer" 7 <"$work/part" >"$work/echoed"
  cmp "$work/part" "$work/echoed"
}
tcp_sizes() {
  for size in "$@"; do
    tcp "$size" || { echo "$size bytes" && return 1; }
  done
}
counter() { cat "/sys/class/net/$1/statistics/$2"; }

net=$(interface 02:00:00:00:00:a0)
plain=$(interface 02:00:00:00:00:a1)
multi=$(interface 02:00:00:00:00:a2)
[ -n "$net" ] && [ -n "$plain" ] && [ -n "$multi" ] || bail_out "an interface is missing: $(ip -o link)"
virtio=$(basename "$(readlink -f "/sys/class/net/$net/device")")

# --- probe and configuration ---

is "virtio_net drives it" "$(basename "$(readlink "$driver/$virtio/driver")")" virtio_net
is "it has the MAC address that was asked for" "$net" "$(interface 02:00:00:00:00:a0)"
is "the MTU is the device's" "$(cat "/sys/class/net/$net/mtu")" 4000
is "without VIRTIO_NET_F_MTU it is Ethernet's" "$(cat "/sys/class/net/$plain/mtu")" 1500
is "MRG_RXBUF is negotiated" "$(feature "$net" 15)" 1
is "MRG_RXBUF is not where it is not offered" "$(feature "$plain" 15)" 0
is "what needs the control queue is not offered without it" \
  "$(for bit in 17 18 19 20 21 22 23; do feature "$plain" $bit; done | tr -d '\n')" 0000000
is "MQ is negotiated with two pairs" "$(feature "$multi" 22)" 1
is "there are two transmit queues" "$(ls -d /sys/class/net/"$multi"/queues/tx-* | wc -l)" 2
is "checksums and segmentation are offloaded" "$(talk offload "$net")" "rx-checksum=1 tx-checksum=1 tso=1"
# rx-checksum says nothing: since Linux 6.11 it is on without GUEST_CSUM too.
like "nothing is sent unfinished without the features" "$(talk offload "$plain")" "tx-checksum=0 tso=0"

# --- frames ---

use "$net"
point "the peer answers ARP and ping" pings "$peer" 3
like "ARP says the peer's MAC address" "$(ip neigh show "$peer")" "$KVITEST_PEER_MAC"
point "ping at sizes around the buffers' and the MTU" pings_sizes 0 1 1000 1472 1473 2000 3900 3971 3972
point "UDP comes back, sizes around the same" udp_sizes 1 18 1000 1472 1473 1514 2048 3971 3972
point "a hundred datagrams in a row" udp 700 100
point "a closed UDP port is refused" sh -c "talk udp $peer 8 10 1 2>&1 | grep -q refused"
point "TCP echoes sizes around segments and buffers" tcp_sizes 1 536 1448 4096 65535 65536 200000
point "a megabyte through TCP and back" tcp 1000000
point "TCP to a closed port is refused" sh -c "! nc -w 5 $peer 8 </dev/null 2>/dev/null"
point "the discard service takes a megabyte" sh -c "head -c 1000000 $work/noise | timeout 20 talk tcp $peer 9"

# --- no offloads, no mergeable buffers ---

use "$plain"
point "without features: ping at sizes around the MTU" pings_sizes 0 1000 1471 1472
point "without features: UDP" udp_sizes 1 1000 1471 1472
point "without features: TCP comes in plain segments" tcp_sizes 1 1460 65536 300000

# --- two pairs of queues ---

use "$multi"
point "two queues: four connections at once" sh -c "
  for n in 1 2 3 4; do head -c 300000 $work/noise | timeout 30 talk tcp $peer 7 | cmp -n 300000 - $work/noise & pids=\"\$pids \$!\"; done
  for pid in \$pids; do wait \$pid || exit 1; done"
point "two queues: UDP" udp 1000 50

# --- each queue reset alone: rings of another size (2.6.1) ---

is "RING_RESET is negotiated" "$(feature "$multi" 40)" 1
is "the rings have the device's size" "$(talk rings "$multi")" "rx=256 tx=256"
resize() {
  for size in 64 256 128; do
    is_size=$(talk rings "$multi" $size)
    [ "$is_size" = "rx=$size tx=$size" ] || { echo "$size: $is_size" && return 1; }
    pings "$peer" || return 1
  done
}
head -c 300000 "$work/noise" >"$work/passing"
(timeout 60 talk tcp "$peer" 7 <"$work/passing" >"$work/passed" 2>&1 &)
point "rings of another size, while frames pass" resize
point "no byte of the connection was lost" wait_for cmp "$work/passing" "$work/passed"
point "rings of another size: TCP" tcp 65536
is "without RING_RESET they stay as they are" "$(talk rings "$net" 64 2>&1 | grep -c ETHTOOL_SRINGPARAM)" 1

# --- link ---

use "$net"
cable down
point "the cable is out: no carrier" wait_for carrier_is "$net" 0
point "the cable is out: nobody answers" sh -c "! ping -c 1 -W 1 $peer >/dev/null"
cable up
point "the cable is in: carrier" wait_for carrier_is "$net" 1
point "the cable is in: ping" pings "$peer"

# --- the control queue ---

point "the MAC address can be changed" ip link set "$net" address 02:00:00:00:00:b0
point "the new address is answered" pings "$peer"
ip link add link "$net" name vlan5 type vlan id 5
ip addr flush dev "$net"
ip addr add "$KVITEST_GUEST_ADDRESS/24" dev vlan5
ip link set vlan5 up
point "a VLAN that the driver added passes" pings "$peer" 1 1000
ip link del vlan5
point "promiscuous mode can be set" ip link set "$net" promisc on
point "all multicast can be set" ifconfig "$net" allmulti

# --- again and again ---

rebind() {
  for n in $(seq "$1"); do
    echo "$virtio" >$driver/unbind && echo "$virtio" >$driver/bind || return 1
  done
}
point "unbound and bound twenty times" rebind 20
net=$(interface 02:00:00:00:00:a0)
isnt "the device has its own address again" "$net" ""
use "$net"
point "works afterwards" pings_sizes 56 3900
(talk udp "$peer" 7 1000 100000 >/dev/null 2>&1 &)
(timeout 20 talk tcp "$peer" 7 <"$work/noise" >/dev/null 2>&1 &)
point "unbound and bound while frames are on their way" rebind 3
killall talk 2>/dev/null
net=$(interface 02:00:00:00:00:a0)
use "$net"
point "works after that too" udp 1000 20
is "no frame was broken on the way in" "$(counter "$net" rx_errors) $(counter "$net" rx_length_errors)" "0 0"

done_testing
