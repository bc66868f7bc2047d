#!/bin/sh
# What the machine gives a Linux kernel to start with: CPUs, memory map, ACPI tables, interrupts, clocks.
# guest: { cpus: [1, 2], memory: 256M }
# timeout: 600s
. /lib/kvitest/tap.sh

cpus=$KVITEST_CPUS
last=$((cpus - 1))
range=$([ "$cpus" -eq 1 ] && echo 0 || echo "0-$last")
system=/sys/devices/system/cpu
tables=/sys/firmware/acpi/tables
work=$(mktemp -d)
dmesg >"$work/dmesg"

# Each of these prints what is wrong, and nothing when all is well.
for_each_cpu() {
  for cpu in $(seq 0 "$last"); do "$@" "$cpu"; done
}
# count NAME CPU: of a line of /proc/interrupts.
count() { awk -v name="$1:" -v field=$(($2 + 2)) '$1 == name { print $field }' /proc/interrupts; }
# u32 FILE OFFSET
u32() { od -An -v -t u1 -j "$2" -N 4 "$1" | awk '{ printf "%.0f\n", $1 + 256 * ($2 + 256 * ($3 + 256 * $4)) }'; }

# --- CPUs ---

is "as many CPUs are online as the machine has" "$(nproc)" "$cpus"
is "the online CPUs are the first ones" "$(cat $system/online)" "$range"
is "the present CPUs are the same" "$(cat $system/present)" "$range"
like "the kernel brought them up" "$(grep 'smp: Brought up' "$work/dmesg")" "1 node, $cpus CPU"
is "no CPU failed to come up" "$(grep -iE 'do_boot_cpu failed|not responding|CPU.*(stuck|disabled)|APIC.*mismatch' \
  "$work/dmesg")" ""
is "each CPU has an APIC id of its own" \
  "$(awk -F ': ' '/^apicid/ { print $2 }' /proc/cpuinfo | sort -u | wc -l)" "$cpus"
is "each CPU has a place of its own in the topology" "$(for_each_cpu sh -c 'cd /sys/devices/system/cpu/cpu$0/topology &&
  echo "$(cat physical_package_id) $(cat core_id) $(cat thread_siblings_list)"' | sort -u | wc -l)" "$cpus"
is "all CPUs have the same model and the same features" \
  "$(grep -E '^(model name|flags|stepping|clflush size)' /proc/cpuinfo | sort -u | wc -l)" 4
is "all CPUs know that they are virtual" "$(grep -cE '^flags.* hypervisor( |$)' /proc/cpuinfo)" "$cpus"
like "the kernel found KVM" "$(grep 'Hypervisor detected' "$work/dmesg")" ': KVM$'
like "no-execute protection is active" "$(grep 'NX (Execute' "$work/dmesg")" ': active$'

# Field 39 of /proc/PID/stat is the CPU it last ran on.
elsewhere() {
  ran=$(taskset -c "$1" awk '{ print $39 }' /proc/self/stat)
  [ "$ran" = "$1" ] || echo "bound to $1, ran on $ran"
}
is "a process bound to each CPU runs there" "$(for_each_cpu elsewhere 2>&1)" ""

# 355/113 by a sum of floating point numbers, at the same time on all.
compute() {
  taskset -c "$1" awk 'BEGIN { for (i = 0; i < 40000; i++) pi += (i % 2 ? -4 : 4) / (2 * i + 1); printf "%.6f\n", pi }'
}
is "floating point gives the same on all CPUs at once" "$(
  for cpu in $(seq 0 "$last"); do compute "$cpu" & done | sort -u
)" 3.141568

ticks_stand_still() {
  before=$(count LOC "$1")
  taskset -c "$1" sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; sleep 0.1'
  [ "$(count LOC "$1")" -gt "$before" ] || echo "CPU $1 stays at $before"
}
is "the local timer of each CPU interrupts" "$(for_each_cpu ticks_stand_still)" ""

wakeups() { echo $(($(count RES "$1") + $(count CAL "$1") + $(count TLB "$1"))); }
not_woken() {
  other=$((($1 + 1) % cpus))
  before=$(wakeups "$1")
  # A pipe between the two wakes a sleeping CPU with each byte.
  taskset -c $other sh -c 'for i in $(seq 50); do echo; usleep 1000; done' | taskset -c "$1" cat >/dev/null
  [ "$(wakeups "$1")" -gt "$before" ] || echo "CPU $1 stays at $before"
}
if [ "$cpus" -gt 1 ]; then
  is "each CPU gets interrupts from another" "$(for_each_cpu not_woken)" ""
else
  skip "each CPU gets interrupts from another" "one CPU"
fi

# INIT and SIPI once more, on a running machine.
rounds=0
offline_and_online() {
  echo 0 >$system/cpu"$1"/online && [ "$(nproc)" -eq "$last" ] &&
    echo 1 >$system/cpu"$1"/online && [ "$(nproc)" -eq "$cpus" ] && [ -z "$(elsewhere "$1")" ]
}
if [ "$cpus" -gt 1 ]; then
  for cpu in $(seq 1 "$last") $(seq 1 "$last") $(seq 1 "$last"); do
    offline_and_online "$cpu" 2>/dev/null && rounds=$((rounds + 1))
  done
  is "each CPU but the first can be taken offline and online, three times" $rounds $((3 * last))
else
  skip "each CPU but the first can be taken offline and online, three times" "one CPU"
fi

# --- interrupts ---

is "no interrupt was lost or spurious" "$(awk '$1 == "ERR:" || $1 == "MIS:" { print $2 }' /proc/interrupts | tr '\n' ' ')" \
  "0 0 "
is "no local APIC error" "$(grep -E 'APIC error on CPU|spurious .*interrupt' "$work/dmesg")" ""
like "the serial port is a 16550A at its old place" "$(grep '^0:' /proc/tty/driver/serial)" \
  'uart:16550A port:000003F8 irq:[1-9]'
# The driver has its interrupt only while somebody has the port open; the kernel's console polls.
serial_interrupts() { awk '$NF == "ttyS0" { for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts; }
written_by_interrupt() {
  before=$(serial_interrupts)
  echo "a line through the serial driver" >&3
  sleep 0.5
  at_least "the serial port interrupts when it is written to" $(($(serial_interrupts) - before)) 1
}
written_by_interrupt 3>/dev/ttyS0

# --- memory ---

# Hexadecimal of 16 digits is too much for awk; the shell's arithmetic is exact.
ram=0
overlap=
end=-1
for path in $(for entry in /sys/firmware/memmap/*; do echo "$(printf %020d "$(cat "$entry/start")") $entry"; done |
  sort | cut -d ' ' -f 2); do
  start=$(($(cat "$path/start")))
  [ $start -gt $end ] || overlap="$overlap $(cat "$path/start")"
  end=$(($(cat "$path/end")))
  [ "$(cat "$path/type")" != "System RAM" ] || ram=$((ram + end - start + 1))
done
is "the memory map has no overlaps" "$overlap" ""
at_least "the memory map has all RAM but at most 1 MiB" $ram $((KVITEST_MEMORY - 1048576))
at_most "the memory map has no more RAM than the machine" $ram "$KVITEST_MEMORY"
total=$(($(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo) * 1024))
diag "$(((KVITEST_MEMORY - total) / 1048576)) MiB are the kernel's own"
# Image, initramfs and per-CPU areas, and 1/64 for page structures; the line above says how much it is today.
at_least "the kernel left most of it for use" $total $((KVITEST_MEMORY - KVITEST_MEMORY / 32 - 58720256))

# A digest a piece costs an emulated host most of the time; 16 MiB are enough to see pages change places.
head -c 1048576 /dev/urandom >"$work/piece"
mkdir "$work/fill"
mount -t tmpfs none "$work/fill"
for piece in $(seq 16); do
  { echo "$piece" && cat "$work/piece"; } >"$work/fill/$piece"
done
expected=$(md5sum <"$work/piece")
damaged=$(for piece in $(seq 16); do
  { read -r number && [ "$number" = "$piece" ] && [ "$(md5sum)" = "$expected" ]; } <"$work/fill/$piece" || echo "$piece"
done)
umount "$work/fill"
is "16 MiB of memory hold what is written to them" "$damaged" ""

# --- ACPI ---

# sum TABLE: of all bytes, modulo 256.
sum() { od -An -v -t u1 "$1" | awk '{ for (i = 1; i <= NF; i++) s += $i } END { print s % 256 }'; }
absent() {
  for name in APIC FACP DSDT; do [ -s $tables/$name ] || echo $name; done
}
bad_checksum() {
  for table in $tables/*; do
    # FACS has no checksum (ACPI 6.5, 5.2.10).
    [ -d "$table" ] || [ "${table##*/}" = FACS ] || [ "$(sum "$table")" -eq 0 ] || echo "${table##*/}"
  done
}
bad_header() {
  for table in $tables/*; do
    [ -d "$table" ] || { [ "$(head -c 4 "$table")" = "$(echo "${table##*/}" | cut -c 1-4)" ] &&
      [ "$(u32 "$table" 4)" -eq "$(wc -c <"$table")" ]; } || echo "${table##*/}"
  done
}
is "the tables a PC needs are there" "$(absent)" ""
is "every table's checksum is right" "$(bad_checksum)" ""
is "every table has its signature and its length" "$(bad_header)" ""
is "the kernel has no complaint about ACPI" "$(grep -E 'ACPI.*(Error|Exception|Warning|BIOS Bug|BIOS bug)' \
  "$work/dmesg")" ""

# The MADT's entries (ACPI 6.5, 5.2.12): "TYPE ID FLAGS", a local APIC's id or an I/O APIC's.
od -An -v -t u1 -w1 -j 44 $tables/APIC | awk '{ b[NR - 1] = $1 + 0 }
  END { for (i = 0; i < NR && b[i + 1] > 1; i += b[i + 1]) print b[i], (b[i] == 0 ? b[i + 3] : b[i + 2]), b[i + 4] }' \
  >"$work/madt"
is "the MADT has an enabled local APIC for each CPU" "$(awk '$1 == 0 && $3 % 2' "$work/madt" | wc -l)" "$cpus"
is "the MADT's local APIC ids are the CPUs' own" "$(awk '$1 == 0 && $3 % 2 { print $2 }' "$work/madt" | sort -n | tr '\n' ' ')" \
  "$(awk -F ': ' '/^apicid/ { print $2 }' /proc/cpuinfo | sort -n | tr '\n' ' ')"
is "the MADT has one I/O APIC" "$(awk '$1 == 1' "$work/madt" | wc -l)" 1

# --- clocks ---

clock=/sys/devices/system/clocksource/clocksource0
like "the clock source is one for virtual machines" "$(cat $clock/current_clocksource)" '^(kvm-clock|tsc)$'
like "kvm-clock is to be had" "$(cat $clock/available_clocksource)" '(^| )kvm-clock( |$)'
# Without a constant TSC on the host the kernel distrusts the TSCs of several CPUs from the start, and rightly.
expected_distrust=$(grep -q '^flags.* constant_tsc ' /proc/cpuinfo && echo none || echo 'due to TSCs unsynchronized')
is "no clock source was found unstable" "$(grep -iE 'clocksource.*(unstable|skew|wrapped)|tsc.*(unstable|warp)' \
  "$work/dmesg" | grep -v "$expected_distrust")" ""
at_least "the CPUs' frequency is known" "$(awk -F ': ' '/^cpu MHz/ { print int($2); exit }' /proc/cpuinfo)" 100

# How late a vCPU may come to run: emulated hosts run several guests on one CPU. In hundredths of a second.
case $KVITEST_ACCELERATOR in
  native | nested) late=100 ;;
  *) late=1000 ;;
esac
hundredths() { tr -d . </proc/uptime | cut -d ' ' -f 1; }
before=$(hundredths)
sleep 1
elapsed=$(($(hundredths) - before))
at_least "a second of sleep is a second at least" $elapsed 99
at_most "a second of sleep is not much more" $elapsed $((100 + late))
seconds=$(date +%s)
before=$(hundredths)
sleep 2
drift=$((($(date +%s) - seconds) * 100 - ($(hundredths) - before)))
point "wall clock and uptime advance together" test $drift -ge $((-100 - late / 4)) -a $drift -le $((100 + late / 4))
at_least "the wall clock knows the year" "$(date +%Y)" 2024

# Nanoseconds of the monotonic clock, read on one CPU after the other.
backwards() {
  for round in $(seq 15); do
    for cpu in $(seq 0 "$last"); do taskset -c "$cpu" awk '/^now at/ { print $3; exit }' /proc/timer_list; done
  done | awk '$1 + 0 <= last { print last, "then", $1 } { last = $1 + 0 } END { if (NR < 15) print "only", NR, "readings" }'
}
is "time does not go backwards from CPU to CPU" "$(backwards)" ""

before=$(hundredths)
for nap in $(seq 50); do usleep 10000; done
elapsed=$(($(hundredths) - before))
diag "50 naps of 10 ms took $elapsed hundredths of a second"
at_least "fifty short sleeps are as long as they should" $elapsed 50
at_most "fifty short sleeps do not miss their timers" $elapsed $((500 + 2 * late))

# --- the kernel is content ---

dmesg >"$work/dmesg"
is "no splat is in the kernel log" "$(grep -E 'BUG:|WARNING:|Oops|general protection|Call Trace|KASAN|UBSAN|lockdep|rcu.*stall|soft lockup|hard LOCKUP|hung_task|blocked for more than|Kernel panic|unhandled|double fault|NMI received|Bad page|invalid opcode|segfault' \
  "$work/dmesg")" ""
is "no access to an unknown MSR" "$(grep -E 'unchecked MSR access' "$work/dmesg")" ""
is "no bug of the firmware was found" "$(grep -E '\[Firmware (Bug|Warn)\]' "$work/dmesg")" ""
is "the kernel is not tainted" "$(cat /proc/sys/kernel/tainted)" 0

rm -r "$work"
done_testing
