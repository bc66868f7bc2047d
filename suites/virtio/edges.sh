# What edges-*.tap.sh share. The guests of all but one are the same, so that it boots once. Its balloon reports no free pages: where it
# does, a power-off in the next two seconds may be a WARNING of 6.12 (docs/findings.md).

work=$(mktemp -d)
# Debian's choice, fq_codel, drops what has waited long, as on a busy emulated host it may. For interfaces that go up after it.
echo pfifo_fast >/proc/sys/net/core/default_qdisc

# ask PORT QUESTION: its answer, a line
ask() {
  answer=
  { echo "$2" >&3 && read -t 60 -r answer <&3; } 3<>"/dev/virtio-ports/$1"
  echo "$answer"
}

# all_end PID...: each of them well
all_end() {
  for pid in "$@"; do wait "$pid" || return 1; done
}

# bursts PID...: as all_end; else where the guest's own kernel counts what it lost
bursts() {
  all_end "$@" || { grep Udp: /proc/net/snmp; cat /proc/net/dev /proc/net/softnet_stat; return 1; }
}

finish() {
  rm -r "$work"
  done_testing
}
