/** The public face of kvitest: exports only. */
export { KvitestError } from './native/error.ts'
