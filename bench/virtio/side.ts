/**
 * Runs in the lab, under Node in the pack: both guests on one of the two VMMs, and reads the host kernel's counters around
 * each load. Prints a JSON line for each. Types only are imported: nothing else of the project is in the pack.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { closeSync, existsSync, ftruncateSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createConnection } from 'node:net'
import type { DeviceSpec, MachineSpec, NativeAddon, NativeMachine } from '../../src/native/contract.ts'
import type { LoadResult, SideRequest } from './request.ts'

const request = JSON.parse(process.argv[2]!) as SideRequest
const megabytes = 192
const diskBytes = 256 * 2 ** 20
const disk = '/tmp/disk'
const vsockPort = 9
const vsockPath = '/run/vsock'
const mac = (last: number) => `02:00:00:00:00:0${last}`

const cmdline = (role: string) =>
  [
    'console=ttyS0 quiet loglevel=1 panic=-1 cryptomgr.notests tsc=reliable no_timer_check',
    `role=${role} ms=${request.ms}`,
    ...(request.only === undefined ? [] : [`"only=${request.only}"`]),
  ].join(' ')

const stats = '/sys/kernel/debug/kvm'

/** Of all virtual machines that there are, which are ours alone. */
function counters(): Record<string, number> {
  const names = [
    'exits',
    'io_exits',
    'mmio_exits',
    'halt_exits',
    'irq_exits',
    'irq_injections',
    'irq_window_exits',
  ]
  return Object.fromEntries(names.map((name) => [name, Number(readFileSync(`${stats}/${name}`, 'utf8'))]))
}

/** Follows the client's serial line. */
class Loads {
  #text = ''
  #name = ''
  #before: Record<string, number> = {}
  readonly done = Promise.withResolvers<void>()

  take(data: Uint8Array): void {
    this.#text += Buffer.from(data).toString('latin1')
    for (let at = this.#text.indexOf('\n'); at >= 0; at = this.#text.indexOf('\n')) {
      this.#line(this.#text.slice(0, at).trim())
      this.#text = this.#text.slice(at + 1)
    }
  }

  #line(line: string): void {
    if (line.startsWith('LOAD ')) this.#name = line.slice(5)
    else if (line === 'BEGIN') {
      this.#before = counters()
      // Whoever reads it counts the lab's CPU time from here.
      console.log(JSON.stringify({ begin: this.#name }))
    } else if (line === 'DONE') this.done.resolve()
    else if (line.startsWith('END ')) {
      const now = counters()
      const [requests, bytes, nanoseconds] = line.split(' ').slice(1).map(Number)
      const counts = Object.fromEntries(Object.entries(now).map(([key, n]) => [key, n - this.#before[key]!]))
      const result: LoadResult = {
        load: this.#name,
        requests: requests!,
        bytes: bytes!,
        seconds: nanoseconds! / 1e9,
        counts,
      }
      console.log(JSON.stringify(result))
    } else if (line !== '') console.error(`${this.#name}: ${line}`)
  }
}

const sinkOf = (...argv: string[]) => spawn('/usr/bin/virtio_bench', argv, { stdio: 'inherit' })
const kernelSink = () => sinkOf('vsock-sink', String(vsockPort))

async function ours(loads: Loads): Promise<void> {
  const addon = createRequire(import.meta.url)('/kvitest.node') as NativeAddon
  const withFeatures = request.packed ? { withFeatures: ['ring_packed'] } : {}
  const net = (last: number): DeviceSpec => ({
    type: 'virtio-net',
    name: 'net',
    mac: mac(last),
    backend: { kind: 'switch', network: 'bench' },
    ...withFeatures,
  })
  const machine = async (name: string, devices: DeviceSpec[], take: (data: Uint8Array) => void) => {
    const spec: MachineSpec = {
      name,
      cpus: 1,
      memory: megabytes * 2 ** 20,
      payload: {
        kind: 'linux',
        kernel: '/guest/vmlinux',
        initramfs: '/guest/initramfs',
        cmdline: cmdline(name),
      },
      devices,
    }
    let running: NativeMachine
    const one = await addon.createMachine(spec, (event) => {
      if (event.type === 'data') {
        if (event.channel === 'serial') take(event.data)
        running.consumed(event.channel, event.data.length)
      }
      if (event.type === 'vsock' && event.event === 'end') void running.vsockClose(event.channel, true)
      if (event.type === 'end' && !isDone) fail(`${name} ended: ${event.end.detail}`)
    })
    running = one
    return one
  }
  let isDone = false
  const fail = (detail: string) => loads.done.reject(new Error(detail))
  const server = await machine('server', [net(2)], (data) => process.stderr.write(data))
  const client = await machine(
    'client',
    [
      {
        type: 'virtio-blk',
        name: 'disk',
        backing: request.disk === 'memory' ? { memory: diskBytes } : { file: disk },
        ...withFeatures,
      },
      net(1),
      { type: 'virtio-console', ports: [{ name: 'bench' }], ...withFeatures },
      {
        type: 'virtio-vsock',
        name: 'vsock',
        cid: 77,
        ...(request.vsock === 'vhost' ? { backend: { kind: 'vhost' } } : withFeatures),
        ...(request.vsock === 'unix' ? { backend: { kind: 'unix', path: vsockPath } } : {}),
      },
      { type: 'virtio-rng', ...withFeatures },
    ],
    (data) => loads.take(data),
  )
  // A program of the host listens, as with QEMU, or Node does.
  const sinks = {
    streams: () => undefined,
    unix: () => sinkOf('unix-sink', `${vsockPath}_${vsockPort}`),
    vhost: kernelSink,
  }
  const sink = sinks[request.vsock]()
  if (!sink) await client.vsockListen('vsock', vsockPort, true)
  await server.start()
  await client.start()
  await loads.done.promise
  isDone = true
  await client.stop()
  await server.stop()
  sink?.kill('SIGKILL')
}

function qemu(role: string, last: number, devices: string[]): ChildProcess {
  const modern = request.packed ? 'disable-legacy=on,packed=on' : 'disable-legacy=on'
  const socket = (n: number) => `/run/net${n}`
  const argv = [
    ...['-accel', 'kvm', '-cpu', 'host', '-smp', '1', '-m', `${megabytes}M`],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-kernel', '/guest/vmlinux', '-initrd', '/guest/initramfs', '-append', cmdline(role)],
    ...['-serial', 'stdio'],
    '-netdev',
    `dgram,id=n,local.type=unix,local.path=${socket(last)},remote.type=unix,remote.path=${socket(3 - last)}`,
    ...['-device', `virtio-net-pci,netdev=n,mac=${mac(last)},romfile=,${modern}`],
    ...devices.map((one) =>
      one.startsWith('virtio-') || one.startsWith('vhost-') ? `${one},${modern}` : one,
    ),
  ]
  return spawn('/usr/bin/qemu-system-x86_64', argv, { stdio: ['ignore', 'pipe', 'inherit'] })
}

async function theirs(loads: Loads): Promise<void> {
  const sink = kernelSink()
  const server = qemu('server', 2, [])
  server.stdout!.pipe(process.stderr)
  const client = qemu('client', 1, [
    ...['-drive', `if=none,id=d,file=${disk},format=raw`, '-device', 'virtio-blk-pci,drive=d'],
    ...['-chardev', 'socket,id=p,path=/run/port,server=on,wait=off'],
    ...['-device', 'virtio-serial-pci', '-device', 'virtserialport,chardev=p,name=bench'],
    ...['-device', 'vhost-vsock-pci,guest-cid=77', '-device', 'virtio-rng-pci'],
  ])
  client.stdout!.on('data', (data: Buffer) => loads.take(data))
  client.on('exit', (status) => loads.done.reject(new Error(`QEMU ended with status ${status}`)))
  server.on('exit', (status) =>
    loads.done.reject(new Error(`QEMU of the server ended with status ${status}`)),
  )
  while (!existsSync('/run/port')) await new Promise((resolve) => setTimeout(resolve, 50))
  createConnection('/run/port').resume()
  await loads.done.promise
  const gone = [client, server, sink].map((one) => new Promise((resolve) => one.once('exit', resolve)))
  for (const one of [client, server, sink]) one.kill('SIGKILL')
  await Promise.all(gone)
}

for (const module of readdirSync('/modules').sort()) {
  try {
    execFileSync('/usr/bin/busybox', ['insmod', `/modules/${module}`], { stdio: 'pipe' })
  } catch (error) {
    if (!/File exists/.test(String(error))) throw error
  }
}
if (!existsSync(stats))
  execFileSync('/usr/bin/busybox', ['mount', '-t', 'debugfs', 'none', '/sys/kernel/debug'])
// Written once: no block of it is made when a guest comes to it.
const file = openSync(disk, 'w')
ftruncateSync(file, diskBytes)
const zeros = Buffer.alloc(2 ** 20)
for (let at = 0; at < diskBytes; at += zeros.length) writeSync(file, zeros, 0, zeros.length, at)
closeSync(file)
const loads = new Loads()
await (request.vmm === 'kvitest' ? ours(loads) : theirs(loads))
process.exit(0)
