# What edges-*.tap.sh share. Their guests are all the same, so that it boots once. Its balloon reports no free pages: where it
# does, a power-off in the next two seconds may be a WARNING of 6.12 (docs/findings.md).

work=$(mktemp -d)

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

finish() {
  rm -r "$work"
  done_testing
}
