#!/bin/sh
# Runs the native tests; arguments go to doctest (-tc='guest memory*' chooses cases).
set -eu
tests=$(dirname "$0")/../build/Release/native_tests
if [ ! -x "$tests" ]; then
  echo "native-test: $tests is not built; run: npm run setup" >&2
  exit 1
fi
exec "$tests" "$@"
