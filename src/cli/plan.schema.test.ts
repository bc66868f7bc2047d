/**
 * What `kvitest plan` prints, held to what its readers say of their formats: GitLab's own JSON schema (gitlab-ci-local has
 * it, and checks a pipeline's jobs besides), GitHub's own parser of workflows, the schemas of the Kubernetes API.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire, registerHooks } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Job } from 'kubernetes-models/batch/v1'
import { PersistentVolumeClaim } from 'kubernetes-models/v1'
import { expect, onTestFinished, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { formats } from './plan/formats.ts'
import { planJobs } from './plan/jobs.ts'

// It imports JSON as bundlers do and Node does not.
registerHooks({
  load: (url, context, next) =>
    next(url, url.endsWith('.json') ? { ...context, importAttributes: { type: 'json' } } : context),
})
const { NoOperationTraceWriter, parseWorkflow } = await import('@actions/workflow-parser')

const cells = ['lab:a > probe', "lab:a > it's", 'lab:b > vmm accelerator:tcg machine:smp > debian:6.12-cloud']
const plan = planJobs({
  name: 'm',
  project: 'compat',
  file: 'm.matrix.ts',
  expected: { cells, points: { probe: ['a'] } },
  durations: new Map(),
  shards: 3,
})
const options = { image: 'registry.example/kvitest:1' }

/** What GitLab's schema says of a pipeline; undefined when nothing. */
function gitlabFault(text: string): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'kvitest-gitlab-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  writeFileSync(join(folder, '.gitlab-ci.yml'), text)
  spawnSync('git', ['init', '-q', folder])
  spawnSync('git', ['-C', folder, 'remote', 'add', 'origin', 'git@example.org:group/project.git'])
  const program = createRequire(import.meta.url).resolve('gitlab-ci-local')
  const { status, stderr, stdout } = spawnSync(process.execPath, [program, '--list'], {
    cwd: folder,
    encoding: 'utf8',
    env: { PATH: process.env.PATH, HOME: folder, NO_COLOR: '1' },
  })
  return status === 0 ? undefined : stderr + stdout
}

test('GitLab takes the pipeline, and not one with a job that it does not know', () => {
  const text = formats.gitlab(plan, options)
  expect(gitlabFault(text)).toBeUndefined()
  expect(gitlabFault(text.replace('when: always', 'when: ever'))).toMatch(/when/)
})

const githubFaults = (content: string) =>
  parseWorkflow({ name: 'm.yml', content }, new NoOperationTraceWriter())
    .context.errors.getErrors()
    .map(({ message }) => message)

test('GitHub takes the workflow, and not one with a word that it does not know', () => {
  const text = formats.github(plan, options)
  expect(githubFaults(text)).toEqual([])
  expect(githubFaults(text.replace('runs-on', 'runs_on')).join()).toMatch(/runs_on/)
})

test('Kubernetes takes the claim and the Jobs, and not one without a number of completions', () => {
  const text = formats.k8s(plan, options)
  const documents = parseAllDocuments(text).map((one) => one.toJS())
  const kinds = { Job, PersistentVolumeClaim } as Record<string, new (data: object) => { validate(): void }>
  expect(documents.map(({ kind }) => kind)).toEqual(['PersistentVolumeClaim', 'Job', 'Job'])
  for (const { kind, ...rest } of documents) new kinds[kind]!(rest).validate()
  const { spec, ...job } = documents[1]
  expect(() => new Job({ ...job, spec: { ...spec, completions: 'three' } }).validate()).toThrow(/completions/)
})
