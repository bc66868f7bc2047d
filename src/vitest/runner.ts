import { type RunnerTestCase, type RunnerTestFile, TestRunner, type VitestTestRunner } from 'vitest'
import { asHolder, processHolder, setProcessPause } from '../budget/holder.ts'
import { noteCollecting, registerRunner } from './runner-link.ts'
import { settleTask } from './settle-task.ts'
import { pauseDeadline } from './test-deadline.ts'

type Retry = Parameters<TestRunner['onAfterRetryTask']>

/**
 * vitest's own runner, made known to the sessions so that they can append points found at run time. What is expected of
 * a test decides what each of its attempts comes to. What a test waits for its guests does not count against its
 * time-out: each test is a holder of its own.
 */
export default class KvitestRunner extends TestRunner {
  constructor(config: ConstructorParameters<typeof TestRunner>[0]) {
    super(config)
    registerRunner(this as VitestTestRunner)
    setProcessPause(() => pauseDeadline(this.#deadline))
  }

  override onCollectStart(file: RunnerTestFile): void {
    super.onCollectStart(file)
    noteCollecting(file)
  }

  async runTask(test: RunnerTestCase): Promise<void> {
    const run = TestRunner.getTestFn(test)
    const before = this.#deadline
    let mine: unknown
    const holder = {
      id: `test ${test.id}`,
      // What a hook holds is kept for the tests.
      within: processHolder,
      pause: () => pauseDeadline(mine),
      signal: test.context.signal,
    }
    await asHolder(holder, () => {
      const running = run()
      // Set before the test's first await, if it has a time-out at all.
      if (this.#deadline !== before) mine = this.#deadline
      return running
    })
  }

  /** Of the test or hook that began last. */
  get #deadline(): unknown {
    return (this as unknown as { _deadline?: unknown })._deadline
  }

  // The last moment of an attempt at which its fixtures have ended and nothing is recorded: a retry, --bail and every
  // reporter then see what we make of it.
  override async onAfterRetryTask(...[test, options]: Retry): Promise<void> {
    await super.onAfterRetryTask(test, options)
    await settleTask(test)
  }
}
