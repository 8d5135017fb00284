// What tests/src/scenario/gateway.rs measures: a stock server, and stock clients. One command as a line of JSON on standard input; the
// answer as one on standard output. A server stays until its input ends.

import { createInterface } from "node:readline"
import { Repo, stringifyAutomergeUrl } from "@automerge/automerge-repo"
import { WebSocketClientAdapter, WebSocketServerAdapter } from "@automerge/automerge-repo-network-websocket"
import { NodeFSStorageAdapter } from "@automerge/automerge-repo-storage-nodefs"
import { WebSocketServer } from "ws"

const answer = value => process.stdout.write(JSON.stringify(value) + "\n")

// Finds all documents at once, and returns when all that was written is in each of them.
async function findAll(repo, ids, edits) {
  const handles = await Promise.all(ids.map(id => repo.find(stringifyAutomergeUrl(Buffer.from(id, "hex")))))
  for (const handle of handles) {
    while (handle.doc().edits !== edits) await new Promise(resolve => handle.once("change", resolve))
  }
}

const commands = {
  // As the stock sync server is: it shows documents to those who ask for them.
  async serve({ folder }) {
    const sockets = new WebSocketServer({ host: "127.0.0.1", port: 0 })
    await new Promise(resolve => sockets.once("listening", resolve))
    new Repo({
      network: [new WebSocketServerAdapter(sockets)],
      storage: new NodeFSStorageAdapter(folder),
      sharePolicy: async () => false,
    })
    answer({ address: `127.0.0.1:${sockets.address().port}` })
  },
  // Keeps all documents of a server in a folder, as stock clients and servers do.
  async fill({ address, folder, ids, edits }) {
    const repo = new Repo({
      network: [new WebSocketClientAdapter(`ws://${address}/`)],
      storage: new NodeFSStorageAdapter(folder),
    })
    await findAll(repo, ids, edits)
    await repo.flush()
    answer({})
    process.exit(0)
  },
  // The seconds from the first connection until a client without storage has all documents, and the processor's.
  async cold({ address, ids, edits }) {
    const [begun, busy] = [performance.now(), process.cpuUsage()]
    const repo = new Repo({ network: [new WebSocketClientAdapter(`ws://${address}/`)] })
    await findAll(repo, ids, edits)
    const seconds = (performance.now() - begun) / 1000
    const { user, system } = process.cpuUsage(busy)
    answer({ seconds, cpu: (user + system) / 1e6 })
    process.exit(0)
  },
}

createInterface({ input: process.stdin })
  .on("line", line => {
    const command = JSON.parse(line)
    commands[command.op](command).catch(error => {
      console.error(error)
      process.exit(1)
    })
  })
  .on("close", () => process.exit(0))
