# What toggles.tap.sh and toggles-others.tap.sh share. $work/noise has 200000 bytes.

# bits FILE NAME:BIT...: the names of those that are set in a device's `features`, in this order. No process,
# which takes an emulated host milliseconds.
bits() {
  read -r all <"$1"
  shift
  for one in "$@"; do
    [ "${all:${one#*:}:1}" = 1 ] && printf '%s ' "${one%:*}"
  done
}
# without NAME... among those on standard input, which are on one line
without() {
  read -r all
  for one in $all; do
    case " $* " in *" $one "*) ;; *) printf '%s ' "$one" ;; esac
  done
}

# carry DISK: there and back
carry() {
  dd if="$work/noise" of="/dev/$1" bs=65536 count=3 oflag=direct conv=notrunc,fsync 2>/dev/null &&
    dd if="/dev/$1" bs=4096 count=48 iflag=direct 2>/dev/null | cmp -n 196608 - "$work/noise"
}

# works INTERFACE: datagrams and a stream to the peer and back
works() {
  ip link set "$1" up
  ip addr add "$KVITEST_GUEST_ADDRESS/24" dev "$1"
  timeout 20 talk udp "$KVITEST_PEER_ADDRESS" 7 1400 3 &&
    timeout 30 talk tcp "$KVITEST_PEER_ADDRESS" 7 <"$work/noise" | cmp - "$work/noise"
  worked=$?
  ip addr flush dev "$1"
  ip link set "$1" down
  return $worked
}
