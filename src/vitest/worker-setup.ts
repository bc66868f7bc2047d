/** Setup file of every worker that may hold guests. */
const KEY = Symbol.for('kvitest.worker')
const place = globalThis as { [KEY]?: boolean }

if (!place[KEY]) {
  place[KEY] = true
  // A worker whose vitest is gone has nobody to report to and must not keep guests alive.
  process.once('disconnect', () => process.exit(1))
}
