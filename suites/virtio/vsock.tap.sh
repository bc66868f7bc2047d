#!/bin/sh
# virtio-vsock (virtio 1.3, 5.10) through Linux's driver. The host echoes on port 7 and takes all on port 9.
# guest:
#   devices: [{ type: virtio-vsock, cid: 77 }]
#   ports: [{ name: test.machine, peer: machine }]
#   files: { /bin/talk: ../../build/Release/programs/talk }
# timeout: 600s
. /lib/kvitest/tap.sh

work=$(mktemp -d)
driver=/sys/bus/virtio/drivers/vmw_vsock_virtio_transport
[ -d "$driver" ] || driver=/sys/bus/virtio/drivers/virtio_transport
head -c 1000000 /dev/urandom >"$work/noise"

# echo_of BYTES: through the host's echo and back
echo_of() {
  head -c "$1" "$work/noise" >"$work/part"
  timeout 30 talk vsock 2 7 <"$work/part" >"$work/echoed"
  cmp "$work/part" "$work/echoed"
}
echo_sizes() {
  for size in "$@"; do
    echo_of "$size" || { echo "$size bytes" && return 1; }
  done
}
ask() { { echo "$1" >&3 && read -t 20 -r answer <&3; } 3<>/dev/virtio-ports/test.machine; }

device=
for path in /sys/bus/virtio/devices/*; do
  [ "$(cat "$path/device")" != 0x0013 ] || device=${path##*/}
done
[ -n "$device" ] || bail_out "no virtio device of type 19"
driver=$(readlink -f "/sys/bus/virtio/devices/$device/driver")

is "the driver of vsock drives it" "$(basename "$driver")" vmw_vsock_virtio_transport
is "the CID is the one that was asked for" "$(talk cid)" 77
point "bytes come back, sizes around packets and windows" echo_sizes 0 1 4052 4096 65536 262144 262145
point "a megabyte and back" echo_of 1000000
point "the host takes what it does not answer" sh -c "timeout 20 talk vsock 2 9 <$work/noise"
point "a port that nobody listens on is refused" sh -c "talk vsock 2 8 </dev/null 2>&1 | grep -q 'reset by peer'"
point "a CID that is not there is refused" sh -c "! timeout 20 talk vsock 5 7 </dev/null 2>/dev/null"
point "eight connections at once" sh -c "
  for n in 1 2 3 4 5 6 7 8; do head -c 50000 $work/noise | timeout 30 talk vsock 2 7 | cmp -n 50000 - $work/noise & pids=\"\$pids \$!\"; done
  for pid in \$pids; do wait \$pid || exit 1; done"

# --- the host connects ---

echo "from the guest" | timeout 120 talk vsock-listen 4000 >"$work/heard" &
listener=$!
for try in $(seq 300); do
  ask "connect vsock0 4000"
  [ "$answer" != connected ] || break
  sleep 0.1
done
is "the host connects to a port of the guest" "$answer" connected
wait $listener
is "and echoes there" "$(cat "$work/heard")" "from the guest"
ask "connect vsock0 4001"
like "a port of the guest that nobody listens on refuses the host" "$answer" "refused"

# --- again ---

rebind() {
  for n in $(seq "$1"); do
    echo "$device" >"$driver/unbind" && echo "$device" >"$driver/bind" || return 1
  done
}
point "unbound and bound ten times" rebind 10
point "works afterwards" echo_of 100000
(timeout 20 talk vsock 2 7 <"$work/noise" >/dev/null 2>&1 &)
point "unbound and bound with a connection open" rebind 2
point "works after that too" echo_of 100000

done_testing
