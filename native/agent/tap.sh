# The TAP library of kvitest scripts; every guest has it at /lib/kvitest/tap.sh.
#
#   . /lib/kvitest/tap.sh
#   point "the module loads" modprobe virtio_rng
#   is "the kernel chose our device" "$(cat /sys/class/misc/hw_random/rng_current)" virtio_rng.0
#   done_testing
#
# Writes TAP 14 on standard output. Runs in busybox sh and in any other POSIX shell, under `set -e` and `set -u`
# too. Numbers live in this shell: a point made inside `( ... )` or at the end of a pipe is counted there only, and
# the host reports the number that then comes twice.
#
# Every assertion returns 0 when its point is ok (a TODO or SKIP point is) and 1 when it is not, so that
# `point "the device is there" test -e "$device" || bail_out "nothing to test"` reads as it should. With `set -e`
# a failing point therefore ends the script.
#
# With KVITEST_POINT=NAME only the point of that name is made (`fork: point` in a script's header runs it once for
# each point): every other call returns 0, and its command does not run. What stands between the calls runs always.
#
# A script that ends without `plan` and without `done_testing` prints no plan; the host fails it.

_tap_count=0
_tap_failed=0
_tap_planned=
_tap_running=
_tap_file=
# Bytes of a command's output that are kept, from its end.
_tap_keep=65536

printf 'TAP version 14\n'

# plan N: promises N points. At the start, or at the end in place of done_testing's own.
plan() {
  case ${1-} in
    '' | *[!0-9]*) bail_out "plan: want a number of points, got \"${1-}\"" ;;
  esac
  [ -z "$_tap_planned" ] || bail_out "plan: a plan of $_tap_planned was printed before"
  _tap_planned=$1
  # Of a run for one point that is all there is to come.
  [ -z "${KVITEST_POINT-}" ] || _tap_planned=1
  printf '1..%s\n' "$_tap_planned"
}

# point NAME COMMAND [ARGUMENT...]: ok when the command exits 0. What it prints, on stdout or stderr, comes as
# comments before the point, and in the point's YAML block when it fails. A shell function runs in this shell.
point() {
  _tap_wanted "${1-}" || return 0
  _tap_name=${1-}
  [ $# -lt 1 ] || shift
  if [ $# -eq 0 ]; then
    _tap_not_ok "$_tap_name" ''
    _tap_yaml 'message: "no command given to point"'
    return 1
  fi
  if _tap_run "$_tap_name" "$@"; then
    _tap_comment_output
    _tap_ok "$_tap_name" ''
  else
    _tap_status=$?
    _tap_not_ok "$_tap_name" ''
    _tap_yaml_of_run "$_tap_status" "$@"
    return 1
  fi
}

# pass NAME
pass() {
  _tap_wanted "${1-}" || return 0
  _tap_ok "${1-}" ''
}

# fail NAME [TEXT...]: the text is the message of the YAML block.
fail() {
  _tap_wanted "${1-}" || return 0
  _tap_not_ok "${1-}" ''
  if [ $# -gt 1 ]; then
    shift
    _tap_yaml "message: $(_tap_quote "$(_tap_words "$@")")"
  fi
  return 1
}

# is NAME ACTUAL EXPECTED: equal as strings.
is() {
  _tap_wanted "${1-}" || return 0
  if [ "x${2-}" = "x${3-}" ]; then
    _tap_ok "$1" ''
  else
    _tap_differs "$1" "$(_tap_quote "${3-}")" "${2-}"
  fi
}

# isnt NAME ACTUAL UNEXPECTED: different as strings.
isnt() {
  _tap_wanted "${1-}" || return 0
  if [ "x${2-}" != "x${3-}" ]; then
    _tap_ok "$1" ''
  else
    _tap_differs "$1" "$(_tap_quote "anything but ${3-}")" "${2-}"
  fi
}

# like NAME TEXT REGEX: a line of the text matches the extended regular expression.
like() {
  _tap_wanted "${1-}" || return 0
  _tap_grep "${2-}" "${3-}" && _tap_status=0 || _tap_status=$?
  case $_tap_status in
    0) _tap_ok "$1" '' ;;
    1) _tap_differs "$1" "$(_tap_quote "a line that matches ${3-}")" "${2-}" ;;
    *) _tap_bad_regex "$1" "${3-}" ;;
  esac
}

# at_least NAME ACTUAL MINIMUM: numbers, decimal fractions too; anything else is not ok.
at_least() {
  _tap_wanted "${1-}" || return 0
  if _tap_is_number "${2-}" && _tap_is_number "${3-}" && _tap_less_or_equal "$3" "$2"; then
    _tap_ok "$1" ''
  else
    _tap_differs "$1" "$(_tap_quote "at least ${3-}")" "${2-}"
  fi
}

# at_most NAME ACTUAL MAXIMUM
at_most() {
  _tap_wanted "${1-}" || return 0
  if _tap_is_number "${2-}" && _tap_is_number "${3-}" && _tap_less_or_equal "$2" "$3"; then
    _tap_ok "$1" ''
  else
    _tap_differs "$1" "$(_tap_quote "at most ${3-}")" "${2-}"
  fi
}

# skip NAME REASON...
skip() {
  _tap_wanted "${1-}" || return 0
  _tap_name=${1-}
  [ $# -lt 1 ] || shift
  _tap_ok "$_tap_name" "SKIP${1:+ }$(_tap_words "$@")"
}

# todo NAME REASON COMMAND [ARGUMENT...]: a known failure; ok shows that it is none any more. No command: not ok.
todo() {
  _tap_wanted "${1-}" || return 0
  _tap_name=${1-}
  _tap_reason=${2-}
  [ $# -lt 2 ] || shift
  shift
  if [ $# -eq 0 ]; then
    _tap_not_ok "$_tap_name" "TODO${_tap_reason:+ }$_tap_reason"
  elif _tap_run "$_tap_name" "$@"; then
    _tap_comment_output
    _tap_ok "$_tap_name" "TODO${_tap_reason:+ }$_tap_reason"
  else
    _tap_status=$?
    _tap_not_ok "$_tap_name" "TODO${_tap_reason:+ }$_tap_reason"
    _tap_yaml_of_run "$_tap_status" "$@"
  fi
  return 0
}

# diag TEXT...: comment lines.
diag() {
  _tap_words "$@" | _tap_comment
}

# bail_out REASON...: nothing after this makes sense. Ends the script with status 255.
bail_out() {
  printf 'Bail out! %s\n' "$(_tap_line "$(_tap_words "$@")")"
  _tap_clean
  exit 255
}

# skip_all REASON...: before any point; ends the script with status 0.
skip_all() {
  [ "$_tap_count" -eq 0 ] || bail_out "skip_all after $_tap_count points: $(_tap_words "$@")"
  [ -z "$_tap_planned" ] || bail_out "skip_all after a plan of $_tap_planned: $(_tap_words "$@")"
  printf '1..0 # SKIP%s\n' "${1:+ }$(_tap_line "$(_tap_words "$@")")"
  _tap_clean
  exit 0
}

# done_testing: prints the plan if none was printed, ends the script: status 0 when every point was ok and as many
# came as were planned, else 1. No point at all: no plan either.
done_testing() {
  _tap_clean
  if [ "$_tap_count" -eq 0 ]; then
    diag "done_testing: no point was made"
    exit 1
  fi
  [ -n "$_tap_planned" ] || plan "$_tap_count"
  if [ "$_tap_count" -ne "$_tap_planned" ]; then
    diag "planned $_tap_planned points, made $_tap_count"
    exit 1
  fi
  if [ "$_tap_failed" -ne 0 ]; then
    diag "$_tap_failed of $_tap_count points failed"
    exit 1
  fi
  exit 0
}

# --- from here on: not for scripts ---

_tap_wanted() {
  [ -z "${KVITEST_POINT-}" ] || [ "x$1" = "x$KVITEST_POINT" ]
}

# _tap_ok NAME DIRECTIVE
_tap_ok() {
  _tap_result ok "$1" "$2"
}

_tap_not_ok() {
  case $2 in
    TODO*) ;;
    *) _tap_failed=$((_tap_failed + 1)) ;;
  esac
  _tap_result 'not ok' "$1" "$2"
}

_tap_result() {
  _tap_count=$((_tap_count + 1))
  _tap_text="$1 $_tap_count"
  [ -z "$2" ] || _tap_text="$_tap_text - $(_tap_line "$2")"
  [ -z "$3" ] || _tap_text="$_tap_text # $(_tap_line "$3")"
  printf '%s\n' "$_tap_text"
}

# _tap_differs NAME EXPECTED-IN-YAML ACTUAL
_tap_differs() {
  _tap_not_ok "$1" ''
  _tap_yaml "expected: $2" "actual: $(_tap_quote "$3")"
  return 1
}

_tap_bad_regex() {
  _tap_not_ok "$1" ''
  _tap_yaml "message: $(_tap_quote "not an extended regular expression: $2")"
  return 1
}

_tap_grep() {
  printf '%s\n' "$1" | grep -E -q -e "$2" 2>/dev/null
}

# A YAML block of the given lines (TAP 14, "YAML Diagnostics"): indented by two.
_tap_yaml() {
  printf '  ---\n'
  printf '  %s\n' "$@"
  printf '  ...\n'
}

# _tap_yaml_of_run STATUS COMMAND [ARGUMENT...]
_tap_yaml_of_run() {
  _tap_message="exit status $1"
  if [ "$1" -gt 128 ] && _tap_signal=$(kill -l "$(($1 - 128))" 2>/dev/null); then
    _tap_message="killed by SIG${_tap_signal#SIG} (exit status $1)"
  fi
  _tap_status=$1
  shift
  printf '  ---\n'
  printf '  message: "%s"\n' "$_tap_message"
  printf '  status: %s\n' "$_tap_status"
  printf '  command: %s\n' "$(_tap_quote "$(_tap_words "$@")")"
  if [ -s "$_tap_file" ]; then
    # The indentation indicator keeps a first line that begins with spaces; "-" drops the last newline.
    printf '  output: |2-\n'
    _tap_output | sed 's/^/    /'
  fi
  printf '  ...\n'
}

# _tap_run NAME COMMAND [ARGUMENT...]: output into $_tap_file, the command's own status.
_tap_run() {
  if [ -z "$_tap_file" ]; then
    _tap_file=$(mktemp "${TMPDIR:-/tmp}/kvitest-tap.XXXXXX") || bail_out "cannot make a file for a command's output"
  fi
  : >"$_tap_file"
  _tap_running=$1
  shift
  # Appending, so that a process left behind by an earlier point cannot leave a hole of NULs.
  "$@" >>"$_tap_file" 2>&1 && _tap_status=0 || _tap_status=$?
  _tap_running=
  return "$_tap_status"
}

_tap_clean() {
  [ -z "$_tap_file" ] || rm -f "$_tap_file"
  _tap_file=
}

_tap_comment() {
  sed 's/^/# /'
}

_tap_comment_output() {
  [ ! -s "$_tap_file" ] || _tap_output | _tap_comment
}

# The end of the last command's output with what neither YAML nor XML can carry made visible. Every line ends.
_tap_output() {
  _tap_size=$(wc -c <"$_tap_file")
  if [ "$_tap_size" -gt "$_tap_keep" ]; then
    printf '(the first %s of %s bytes left out)\n' "$((_tap_size - _tap_keep))" "$((_tap_size + 0))"
  fi
  tail -c "$_tap_keep" "$_tap_file" | tr '\000' '\001' | LC_ALL=C awk "$_tap_visible"'{ print visible($0) }'
}

# An awk function: control characters but tab as \xNN. A NUL arrives as 1, for awk's sake.
_tap_visible='
function visible(text,    i, c, out) {
  sub(/\r$/, "", text)
  if (text !~ /[\001-\010\013-\037\177]/) return text
  out = ""
  for (i = 1; i <= length(text); i++) {
    c = substr(text, i, 1)
    out = out ((c in code) ? code[c] : c)
  }
  return out
}
BEGIN {
  for (i = 1; i < 32; i++) if (i != 9 && i != 10) code[sprintf("%c", i)] = sprintf("\\x%02x", i)
  code[sprintf("%c", 127)] = "\\x7f"
}
'

# Arguments joined by single spaces, whatever IFS is.
_tap_words() {
  [ $# -gt 0 ] || return 0
  printf '%s' "$1"
  shift
  [ $# -eq 0 ] || printf ' %s' "$@"
  printf '\n'
}

# One line of TAP text: "#" and "\" escaped (TAP 14, "Escaping"), line breaks and control characters as spaces. A
# brace at the end gets its partner: parsers that know node-tap's buffered subtests would take all that follows for
# one, and no escape prevents that.
_tap_line() {
  case $1 in
    *[!A-Za-z0-9\ _.,:\;/+=%@\(\)\<\>\'\"!?*\&-]*)
      printf '%s\n' "$1" | tr '\001-\011\013-\037\177' ' ' | LC_ALL=C awk '
        { gsub(/[\\]/, "&&"); gsub(/#/, "\\\\&"); line = line (NR > 1 ? " " : "") $0 }
        END { sub(/ +$/, "", line); sub(/[{]$/, "{}", line); printf "%s", line }
      '
      ;;
    *) printf '%s' "$1" ;;
  esac
}

# A double-quoted YAML scalar.
_tap_quote() {
  case $1 in
    *[!A-Za-z0-9\ _.,:\;/+=%@\(\)\<\>\'!?*\&-]*)
      printf '%s\n' "$1" | LC_ALL=C awk "$_tap_escape"
      ;;
    *) printf '"%s"' "$1" ;;
  esac
}

_tap_escape='
BEGIN {
  for (i = 1; i < 32; i++) if (i != 10) code[sprintf("%c", i)] = sprintf("\\x%02x", i)
  code[sprintf("%c", 9)] = "\\t"
  code[sprintf("%c", 13)] = "\\r"
  code[sprintf("%c", 127)] = "\\x7f"
  printf "\""
}
{
  text = $0
  gsub(/[\\]/, "&&", text)
  gsub(/"/, "\\\\&", text)
  if (text ~ /[\001-\011\013-\037\177]/) {
    out = ""
    for (i = 1; i <= length(text); i++) {
      c = substr(text, i, 1)
      out = out ((c in code) ? code[c] : c)
    }
    text = out
  }
  printf "%s%s", (NR > 1 ? "\\n" : ""), text
}
END { printf "\"" }
'

_tap_is_number() {
  case $1 in
    '' | - | . | -. | *[!0-9.-]* | ?*-* | *.*.*) return 1 ;;
  esac
}

_tap_less_or_equal() {
  case $1,$2 in
    # The shell's integers are exact where awk's floating point is not; 18 characters always fit 64 bits.
    *.* | ???????????????????*,* | *,???????????????????*) awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 <= b + 0) }' ;;
    *) [ "$1" -le "$2" ] ;;
  esac
}

# The timeout's SIGTERM: say what was running and what it had printed, then die of the signal as asked.
_tap_killed() {
  trap - "$1"
  if [ -n "$_tap_running" ]; then
    diag "SIG$1 while this point ran: $_tap_running"
    [ ! -f "$_tap_file" ] || _tap_comment_output
  fi
  _tap_clean
  kill -s "$1" "$$"
}
# A script's own EXIT trap takes the place of this one; a temporary file is left then.
trap _tap_clean EXIT
trap '_tap_killed TERM' TERM
trap '_tap_killed INT' INT
trap '_tap_killed HUP' HUP
