const all = ['debian:6.12-cloud', 'debian:6.1-cloud']

/** What the lab tests run guests of. `npm test` has time for the first (scripts/test.ts), `npm run test:long` runs both. */
export const guestKernels = process.env.KVITEST_SUITE === 'short' ? all.slice(0, 1) : all
