// Stock automerge-repo clients, and Braid's. Commands come as lines of JSON on standard input, each with a number; so do the answers.
// Nothing in here knows what it talks to: the assertions are in server-shim/tests.

import { createInterface } from "node:readline"
import { generateAutomergeUrl, Repo } from "@automerge/automerge-repo"
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket"
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs"
import { fetch as braidFetch } from "braid-http"

// The adapter throws what a connection that is reset reports, outside of anything that could catch it.
process.on("uncaughtException", error => {
  if (!["ECONNRESET", "ECONNREFUSED", "EPIPE"].includes(error.code)) {
    console.error(error)
    process.exit(1)
  }
})

const repos = new Map()
const handles = new Map()
const followed = new Map()

const handleOf = ({ repo, url }) => handles.get(repo + url)

function keep(repo, handle) {
  const known = { handle, heard: [], remote: [] }
  handle.on("ephemeral-message", ({ senderId, message }) => known.heard.push({ senderId, message }))
  handle.on("remote-heads", ({ storageId, heads }) => known.remote.push({ storageId, heads }))
  handles.set(repo + handle.url, known)
  return known
}

// Asks again at each turn of the loop until there is an answer: whoever waits for it has the deadline.
async function until(look) {
  for (;;) {
    const found = look()
    if (found) return found
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

const plain = doc => JSON.parse(JSON.stringify(doc))

const commands = {
  async repo({ repo, address, storage, gossip }) {
    const made = new Repo({
      network: address ? [new WebSocketClientAdapter(address, 100)] : [],
      peerId: repo,
      storage: storage && new NodeFSStorageAdapter(storage),
      enableRemoteHeadsGossiping: gossip,
    })
    repos.set(repo, made)
    if (address) await made.networkSubsystem.whenReady()
    return { storage: await made.storageId() }
  },
  // Returns once all is in its storage.
  async flush({ repo }) {
    await repos.get(repo).flush()
    return {}
  },
  async create({ repo, value }) {
    const { handle } = keep(repo, repos.get(repo).create(value))
    return { url: handle.url, id: handle.documentId }
  },
  async find({ repo, url }) {
    const handle = await repos.get(repo).find(url)
    keep(repo, handle)
    return { value: plain(handle.doc()) }
  },
  // `code` changes `d`.
  async change(command) {
    handleOf(command).handle.change(new Function("d", command.code))
    return {}
  },
  // Appends numbers to a list, one change each.
  async append(command) {
    const { handle } = handleOf(command)
    for (let n = 0; n < command.count; n++) {
      handle.change(d => void d[command.list].push(`${command.repo} ${n}`))
      await new Promise(resolve => setTimeout(resolve, 1))
    }
    return {}
  },
  // Appends numbers to a list, one change each, until `code` says so of `d`; returns how many.
  async appendUntil(command) {
    const { handle } = handleOf(command)
    const holds = new Function("d", `return ${command.code}`)
    let n = 0
    do {
      handle.change(d => void d[command.list].push(`${command.repo} ${n++}`))
      await new Promise(resolve => setTimeout(resolve, 5))
    } while (!holds(handle.doc()))
    return { count: n }
  },
  // Returns the document once `code` says so of `d`.
  async until(command) {
    const { handle } = handleOf(command)
    const holds = new Function("d", `return ${command.code}`)
    await until(() => holds(handle.doc()))
    return { value: plain(handle.doc()), heads: handle.heads() }
  },
  async broadcast(command) {
    handleOf(command).handle.broadcast(command.message)
    return {}
  },
  async heard(command) {
    const { heard } = handleOf(command)
    await until(() => heard.length >= command.count)
    return { heard }
  },
  async follow({ repo, storage }) {
    repos.get(repo).subscribeToRemotes([storage])
    return {}
  },
  // Returns once the client was told that a storage has what this client has.
  async remote(command) {
    const { handle, remote } = handleOf(command)
    const same = heads => JSON.stringify(heads) === JSON.stringify(handle.heads())
    await until(() => remote.some(told => told.storageId === command.storage && same(told.heads)))
    return {}
  },
  async nowhere() {
    return { url: generateAutomergeUrl() }
  },
  // A further server.
  async connect({ repo, address }) {
    repos.get(repo).networkSubsystem.addNetworkAdapter(new WebSocketClientAdapter(address, 100))
    return {}
  },
  // Returns a document that was unavailable, once it is there.
  async comes({ repo, url }) {
    const progress = repos.get(repo).findWithProgress(url)
    await until(() => progress.handle.isReady())
    return { value: plain(progress.handle.doc()) }
  },
  // Braid: subscribes to a resource, as a name, and keeps every update.
  async subscribe({ name, url, accept, parents, retry }) {
    const updates = [], ending = new AbortController()
    followed.set(name, { updates, ending })
    const headers = accept ? { accept } : {}
    const from = parents ?? (() => updates.at(-1)?.version ?? null)
    const answer = await braidFetch(url, { subscribe: true, headers, parents: from, retry, heartbeats: 20, signal: ending.signal })
    answer.subscribe(update => {
      const type = update.content_type ?? update.extra_headers?.["content-type"]
      updates.push({ version: update.version, parents: update.parents, type, text: update.body_text })
    }, () => {})
    return { status: answer.status, current: answer.headers.get("current-version"), beats: answer.headers.get("heartbeats") }
  },
  // Returns the updates once there are so many, or once one of them has this text in it.
  async updates({ name, count, text }) {
    const { updates } = followed.get(name)
    await until(() => (text ? updates.some(update => update.text?.includes(text)) : updates.length >= count))
    return { updates }
  },
  async unsubscribe({ name }) {
    followed.get(name).ending.abort()
    return {}
  },
  async put({ url, version, parents, value }) {
    const answer = await braidFetch(url, {
      method: "PUT", version, parents, body: JSON.stringify(value), headers: { "content-type": "application/json" },
    })
    return { status: answer.status, version: answer.headers.get("version"), merged: answer.headers.get("merged"), value: await answer.json() }
  },
  async server({ repo }) {
    const { peerMetadataByPeerId } = repos.get(repo)
    const [name, metadata] = Object.entries(peerMetadataByPeerId)[0]
    return { name, ...metadata }
  },
}

createInterface({ input: process.stdin }).on("line", async line => {
  const command = JSON.parse(line)
  let answer
  try {
    answer = await commands[command.op](command)
  } catch (error) {
    answer = { error: String(error.message ?? error) }
  }
  process.stdout.write(JSON.stringify({ n: command.n, ...answer }) + "\n")
}).on("close", () => process.exit(0))
