/**
 * The program that a lab runs: serves sessions over the virtio-serial port `org.kvitest.rpc` until the other side
 * is gone. Its standard output and error are the lab's console.
 */
import { readFile } from 'node:fs/promises'
import { availableParallelism, freemem, release } from 'node:os'
import { loadAddon } from '../../native/addon.ts'
import type { NativeCheckpoint } from '../../native/contract.ts'
import { CheckpointStore } from '../checkpoint-store.ts'
import { BlobStore } from './blob-store.ts'
import { HeldCheckpoints } from './held-checkpoints.ts'
import { PortLink } from './port-link.ts'
import {
  type LabContents,
  type LabDescription,
  type OwnerFunctions,
  openRpc,
  protocolVersion,
  type ServerFunctions,
} from './rpc.ts'
import { Session } from './session.ts'

/** The init script opens the port there and pipes what it gives to our standard input. */
const portDescriptor = 3

const addon = loadAddon()
const kvm = await addon.probe()
const free = freemem()
const blobLimit = Math.floor(free / 5)
const checkpointLimit = Math.floor(free / 4)
const description: LabDescription = {
  kernelRelease: release(),
  cpus: availableParallelism(),
  // Node, page tables of the guests and the lab's own kernel need some of the rest.
  memory: free - blobLimit - checkpointLimit - (192 << 20),
  kvm,
}
const blobs = new BlobStore('/run/blobs', blobLimit)
const kept = new CheckpointStore<NativeCheckpoint>(checkpointLimit)
const held = new HeldCheckpoints('/run/checkpoints')
const sessions = new Map<number, Session>()
const link = new PortLink(portDescriptor, (error) => {
  console.error(`kvitest lab: ${error.stack}`)
  process.exit(1)
})

/** What makes this lab worth saving again: whatever else it comes to keep for later sessions is named here too. */
function contents(): LabContents {
  return [
    ...blobs.names().map((sha256) => `blob:${sha256}`),
    ...kept.keys().map((key) => `checkpoint:${key}`),
  ]
}

/** Bits of the kernel's taint (admin-guide/tainted-kernels.rst), a decimal number. */
const readTaint = () => readFile('/proc/sys/kernel/tainted', 'utf8')
const taintAtBoot = await readTaint()
let hasRunPrograms = false

const owner = openRpc<OwnerFunctions, ServerFunctions>(
  {
    hello: async (nonce) => ({ nonce, version: protocolVersion, description }),
    restored: async ({ entropy, now }) => {
      addon.addEntropy(entropy)
      addon.setClock(now)
    },
    status: async () => ({
      sessions: sessions.size,
      counts: addon.counts(),
      isTainted: hasRunPrograms || (await readTaint()) !== taintAtBoot,
      contents: contents(),
    }),
  },
  ['greeting'],
  (message) => link.send(0, message),
)
void owner.rpc.greeting(protocolVersion, description)

await link.receive(process.stdin, (client, payload) => {
  if (client === 0) {
    // An empty one is sent back as it came: the broker sees that this process still runs.
    if (payload.length === 0) link.send(0, payload)
    else owner.receive(payload)
    return
  }
  let session = sessions.get(client)
  if (payload.length === 0) {
    sessions.delete(client)
    session?.end().catch((error: Error) => console.error(`kvitest lab: ${error.stack}`))
    return
  }
  if (!session) {
    session = new Session({
      addon,
      blobs,
      kept,
      held,
      description,
      onProgram: () => {
        hasRunPrograms = true
      },
      post: (message) => link.send(client, message),
    })
    sessions.set(client, session)
  }
  session.receive(payload)
})
process.exit(0)
