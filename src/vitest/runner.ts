import { TestRunner, type VitestTestRunner } from 'vitest'
import { registerRunner } from './runner-link.ts'
import { settleTask } from './settle-task.ts'

type Retry = Parameters<TestRunner['onAfterRetryTask']>

/**
 * vitest's own runner, made known to the sessions so that they can append points found at run time; and what is
 * expected of a test decides what each of its attempts comes to.
 */
export default class KvitestRunner extends TestRunner {
  constructor(config: ConstructorParameters<typeof TestRunner>[0]) {
    super(config)
    registerRunner(this as VitestTestRunner)
  }

  // The last moment of an attempt at which its fixtures have ended and nothing is recorded: a retry, --bail and every
  // reporter then see what we make of it.
  override async onAfterRetryTask(...[test, options]: Retry): Promise<void> {
    await super.onAfterRetryTask(test, options)
    await settleTask(test)
  }
}
