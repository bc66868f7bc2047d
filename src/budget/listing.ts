import { connect } from 'node:net'
import { MeetingPlace } from './meeting-place.ts'
import { type ListedLease, readMessages, type ServerMessage, send } from './messages.ts'

/** Milliseconds for whoever keeps the budget to answer; one that is stopped, or older than the question, does not. */
const patience = 2000

/** Who has leases of this machine's budget, or waits for one; undefined when nobody keeps it, or who does is silent. */
export async function listLeases(place = new MeetingPlace()): Promise<ListedLease[] | undefined> {
  const { promise, resolve } = Promise.withResolvers<ListedLease[] | undefined>()
  const socket = connect(place.socket)
  const timer = setTimeout(() => resolve(undefined), patience)
  readMessages<ServerMessage>(socket, (message) => {
    if (message.type === 'leases') resolve(message.leases)
  })
  socket.on('connect', () => send(socket, { type: 'list' }))
  socket.on('error', () => {})
  socket.on('close', () => resolve(undefined))
  try {
    return await promise
  } finally {
    clearTimeout(timer)
    socket.destroy()
  }
}
