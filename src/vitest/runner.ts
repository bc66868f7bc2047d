import { TestRunner, type VitestTestRunner } from 'vitest'
import { registerRunner } from './runner-link.ts'

/** vitest's own runner, made known to the sessions so that they can append points found at run time. */
export default class KvitestRunner extends TestRunner {
  constructor(config: ConstructorParameters<typeof TestRunner>[0]) {
    super(config)
    registerRunner(this as VitestTestRunner)
  }
}
