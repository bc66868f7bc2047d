/**
 * A plan as the configuration of a CI system: https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax,
 * https://docs.gitlab.com/ci/yaml/, https://kubernetes.io/docs/concepts/workloads/controllers/job/ (batch/v1).
 */
import { stringify } from 'yaml'
import { shellWord } from '../../report/rerun.ts'
import type { Plan, PlannedJob } from './jobs.ts'

export interface FormatOptions {
  /** Container image of the jobs. */
  image: string
}

/** Debian 12 with Node: what `npm run setup` starts from. */
export const DEFAULT_IMAGE = 'node:24-bookworm'

export const formats = { github, gitlab, k8s } as const

const RESULTS = 'test-results/'

function yaml(plan: Plan, lines: string[], ...documents: unknown[]): string {
  const seconds = plan.jobs.map(({ estimate }) => `${Math.round(estimate / 1000)} s`).join(', ')
  const head = [`Made by 'kvitest plan'. Estimated: ${seconds}.`, ...lines]
    .map((line) => `# ${line}\n`)
    .join('')
  // No anchors and no folded lines: what a person reads is what runs.
  const options = { lineWidth: 0, aliasDuplicateObjects: false }
  return head + documents.map((one) => stringify(one, options)).join('---\n')
}

/** One that GitHub puts its value in for. */
function expression(text: string): string {
  return `\${{ ${text} }}`
}

/** A workflow of GitHub Actions. */
function github(plan: Plan, { image }: FormatOptions): string {
  const begin = [{ uses: 'actions/checkout@v4' }, { run: 'npm run setup' }]
  const keep = (name: string, path: string) => ({
    // A red cell is what the report is about.
    if: expression('!cancelled()'),
    uses: 'actions/upload-artifact@v4',
    with: { name, path, 'if-no-files-found': 'error' },
  })
  return yaml(plan, [`Goes to .github/workflows/${plan.name}.yml`], {
    name: plan.name,
    on: ['push', 'workflow_dispatch'],
    jobs: {
      cells: {
        name: `cells ${expression('matrix.shard')}`,
        'runs-on': 'ubuntu-latest',
        container: image,
        strategy: {
          'fail-fast': false,
          matrix: { include: plan.jobs.map(({ shard, command, blob }) => ({ shard, blob, command })) },
        },
        // Through the environment: an expression within a script would be put in before the shell reads it.
        steps: [
          ...begin,
          { run: 'eval "$COMMAND"', env: { COMMAND: expression('matrix.command') } },
          keep(`${plan.name}-cells-${expression('matrix.shard')}`, expression('matrix.blob')),
        ],
      },
      report: {
        needs: 'cells',
        if: expression('!cancelled()'),
        'runs-on': 'ubuntu-latest',
        container: image,
        steps: [
          ...begin,
          {
            uses: 'actions/download-artifact@v4',
            with: { pattern: `${plan.name}-cells-*`, path: plan.blobs, 'merge-multiple': true },
          },
          { run: plan.merge },
          keep(`${plan.name}-report`, RESULTS),
        ],
      },
    },
  })
}

/** A pipeline of GitLab. */
function gitlab(plan: Plan, { image }: FormatOptions): string {
  const jobName = ({ shard }: PlannedJob) => `${plan.name} ${shard}`
  const common = { image, before_script: ['npm run setup'] }
  const kept = (path: string) => ({ when: 'always', paths: [path] })
  return yaml(plan, ['Goes to .gitlab-ci.yml, or is included there'], {
    stages: ['cells', 'report'],
    ...Object.fromEntries(
      plan.jobs.map((job) => [
        jobName(job),
        { stage: 'cells', ...common, script: [job.command], artifacts: kept(job.blob) },
      ]),
    ),
    [`${plan.name} report`]: {
      stage: 'report',
      ...common,
      when: 'always',
      needs: plan.jobs.map((job) => ({ job: jobName(job), artifacts: true })),
      script: [plan.merge],
      artifacts: { ...kept(RESULTS), reports: { junit: `${RESULTS}junit.xml` } },
    },
  })
}

/** An indexed Job, a claim for the reports, and a Job that is resumed when the first is complete. */
function k8s(plan: Plan, { image }: FormatOptions): string {
  const name =
    plan.name
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, '-')
      .replace(/^-+|-+$/g, '')
      .slice(0, 40) || 'matrix'
  const script = [
    'case "$JOB_COMPLETION_INDEX" in',
    // What is red is told by the merged report; an index fails when it left none.
    ...plan.jobs.map(
      ({ shard, command, blob }) =>
        `${shard - 1}) rm -f ${shellWord(blob)}; ${command} || test -s ${shellWord(blob)} ;;`,
    ),
    'esac',
  ].join('\n')
  // `part` of the claim: what a run empties when it starts is no other pod's.
  const pod = (text: string, part: string) => ({
    metadata: { labels: { app: name } },
    spec: {
      restartPolicy: 'Never',
      containers: [
        {
          name: 'kvitest',
          image,
          command: ['/bin/sh', '-c', text],
          volumeMounts: [{ name: 'results', mountPath: `/kvitest/${RESULTS}${part}`, subPath: part }],
          workingDir: '/kvitest',
          resources: { requests: { cpu: '2', memory: '4Gi' } },
        },
      ],
      volumes: [{ name: 'results', persistentVolumeClaim: { claimName: name } }],
    },
  })
  const completions = plan.jobs.length
  return yaml(
    plan,
    [
      'The image has the project in /kvitest, set up. The claim must be one that several nodes can write to.',
      `kubectl apply -f FILE; kubectl wait --for=condition=complete --timeout=1h job/${name}`,
      `kubectl patch job/${name}-report --type=merge -p '{"spec":{"suspend":false}}'`,
    ],
    {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { name },
      spec: { accessModes: ['ReadWriteMany'], resources: { requests: { storage: '1Gi' } } },
    },
    {
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name },
      spec: {
        completionMode: 'Indexed',
        completions,
        parallelism: completions,
        backoffLimitPerIndex: 1,
        template: pod(script, 'blobs'),
      },
    },
    {
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: `${name}-report` },
      spec: { suspend: true, backoffLimit: 0, template: pod(plan.merge, '') },
    },
  )
}
