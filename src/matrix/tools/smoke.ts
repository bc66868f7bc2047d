/**
 * What any VMM must make true of any guest, as a part of a shell script that prints TAP: the same points whoever boots
 * the guest. The machine has one CPU, 256 MiB, a PCI bus and a virtio device on it.
 */
export function smokeScript(release: string): string {
  return `n=0
smoke() {
  n=$((n + 1))
  name=$1
  shift
  if said=$("$@" 2>&1); then echo "ok $n - $name"; else echo "# $said"; echo "not ok $n - $name"; fi
}
sees() { grep -q "$1" "$2" || { head -c 400 "$2"; false; }; }
smoke "the kernel is the one that was asked for" test "$(uname -r)" = "${release}"
smoke "the CPU says that there is a hypervisor" sees '\\bhypervisor\\b' /proc/cpuinfo
smoke "kvm-clock is a clock source" sees kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource
smoke "the clock goes on while the guest sleeps" sh -c 'a=$(cut -d. -f1 /proc/uptime); sleep 2; b=$(cut -d. -f1 /proc/uptime); test $((b - a)) -ge 1'
smoke "interrupts of the timer come" sh -c 'grep -q "LOC:  *[1-9]" /proc/interrupts'
smoke "there is a virtio device on PCI" sh -c 'grep -q 0x1af4 /sys/bus/pci/devices/*/vendor'
smoke "memory holds what was written" sh -c 'head -c 16777216 /dev/urandom >/tmp/a; cp /tmp/a /tmp/b; cmp /tmp/a /tmp/b'
echo "1..$n"
`
}
