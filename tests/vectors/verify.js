// Reads docs/vectors/*.json and recomputes what stands in them. Exits with 1 if anything differs.

import { readFileSync } from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { ed25519 } from '@noble/curves/ed25519'
import { blake3 } from '@noble/hashes/blake3'
import * as c from './lib.js'

const { hex, unhex } = c
const read = (name) => JSON.parse(readFileSync(new URL(`../../docs/vectors/${name}.json`, import.meta.url)))

let passed = 0
let failed = 0

function test(what, body) {
  try {
    body()
    passed++
  } catch (error) {
    failed++
    console.error(`FAILED ${what}: ${error.message}`)
  }
}

function equal(found, expected, what) {
  if (!isDeepStrictEqual(found, expected)) {
    throw new Error(`${what}: found ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`)
  }
}

const isRefused = (body, code) => {
  try {
    body()
  } catch (error) {
    if (!(error instanceof c.Refused)) throw error
    if (code !== undefined) equal(error.message, code, 'code')
    return
  }
  throw new Error('was not refused')
}

const openingOf = ({ device, salt, foreign }) => [unhex(device), unhex(salt), foreign === null ? null : unhex(foreign)]

const records = read('records')
for (const g of records.geneses) {
  test(`genesis ${g.space}`, () => {
    const value = c.genesis(unhex(g.bytes))
    equal([0, 1, 2, 3, 4].map((key) => value.get(key)).map((v) => (v instanceof Uint8Array ? hex(v) : v)), [g.root, g.privacy, g.writers, g.rules, g.nonce], 'fields')
    equal(hex(c.spaceId(unhex(g.bytes))), g.space, 'id')
  })
}
for (const r of records.records) {
  test(`record: ${r.what}`, () => {
    c.record(unhex(r.bytes))
    equal(hex(c.recordId(unhex(records.space), unhex(records.device), unhex(r.bytes))), r.id, 'id')
  })
}

test('root keys of a seed', () => {
  const keys = records.root_keys.keys.map(unhex)
  const founding = records.records.find((r) => r.what === 'identity')
  equal(hex(c.identityId(unhex(founding.bytes))), records.root_keys.identity, 'id')
  const nexts = [new Uint8Array(32)]
  for (const key of keys.slice(1).reverse()) nexts.unshift(c.commitment(key, nexts[0]))
  const [, root, next] = c.record(unhex(founding.bytes))
  equal([hex(root), hex(next)], [hex(keys[0]), hex(nexts[0])], 'founding')
  equal(hex(c.record(unhex(records.records.find((r) => r.what === 'rotation').bytes))[3]), hex(nexts[1]), 'rotation')
})

for (const { entries, head, frontier } of read('merkle').heads) {
  test(`head over ${entries} entries`, () => {
    const ids = Array.from({ length: entries }, (_, at) => blake3(c.uint(at + 1, 8)))
    equal(hex(c.head(ids)), head, 'head')
    const peaks = []
    let from = 0
    for (let size = 2 ** 20; size >= 1; size /= 2) {
      if (entries & size) {
        peaks.push(c.head(ids.slice(from, from + size)))
        from += size
      }
    }
    equal(hex(c.join(c.uint(entries, 8), ...peaks)), frontier, 'frontier')
  })
}

const chains = read('chains')
const [space, doc] = [unhex(chains.space), unhex(chains.doc)]
for (const chain of chains.chains) {
  test(`chain ${chain.chain}`, () => {
    const opening = openingOf(chain.opening)
    equal(hex(c.chainId(space, unhex(chain.doc), opening)), chain.chain, 'id')
    equal(chain.actor, chain.opening.foreign ?? chain.chain, 'actor')
    equal(c.shown(c.cbor(unhex(chain.opening.cbor))), c.shown(opening), 'cbor')
  })
}
for (const tip of chains.tips) {
  test(`tip over ${tip.n} entries`, () => {
    const opening = openingOf(tip.opening)
    const head = c.head(Array.from({ length: tip.n }, (_, at) => blake3(c.uint(at + 1, 8))))
    equal(hex(head), tip.head, 'head')
    const signed = c.tipBytes(space, doc, opening, tip.n, head, tip.rights.map(unhex))
    equal(hex(signed), tip.signed, 'signed bytes')
    equal(hex(ed25519.sign(signed, unhex(chains.secret))), tip.signature, 'signature')
    equal(c.verifies(unhex(tip.signature), signed, opening[0]), true, 'verifies')
    equal(c.verifies(unhex(tip.signature), c.join(signed, [0]), opening[0]), false, 'verifies over other bytes')
    equal(c.shown(c.cbor(unhex(tip.cbor))), c.shown([tip.n, tip.rights.map(unhex), unhex(tip.signature)]), 'cbor')
  })
}

const forks = read('proofs')
for (const proof of forks.proofs) {
  test(`fork proof at ${proof.at}`, () => {
    const [space, doc] = [unhex(forks.space), unhex(forks.doc)]
    const opening = [unhex(forks.device), unhex(forks.salt), null]
    equal(hex(c.chainId(space, doc, opening)), proof.chain, 'chain')
    const [foundDoc, foundOpening, other, shared, ...sides] = c.cbor(unhex(proof.cbor))
    equal([hex(foundDoc), c.shown(foundOpening), other, hex(shared)], [forks.doc, c.shown(opening), null, proof.shared], 'fields')
    equal(Number(c.number(shared.subarray(0, 8))) + 1, proof.at, 'at')
    sides.forEach(([[n, rights, signature], entry, right], at) => {
      const side = proof.sides[at]
      equal([n, rights.length, hex(entry), hex(signature)], [side.n, 0, side.entry, side.signature], 'side')
      const head = c.headWith(shared, entry, right, n)
      equal(c.verifies(signature, c.tipBytes(space, doc, opening, n, head, []), opening[0]), true, 'verifies')
    })
    equal(hex(sides[0][1]) < hex(sides[1][1]), true, 'order')
  })
}

const clocks = read('clocks')
for (const clock of clocks.clocks) {
  test(`clock ${clock.digest}`, () => {
    const chains = clock.chains.map(({ chain, branches, closed }) => [unhex(chain), branches.map(([n, head]) => [n, unhex(head)]), closed])
    equal(hex(c.clockDigest(chains)), clock.digest, 'digest')
    // An odd number of fields: where the chain is closed comes first.
    const ends = (flat) => (flat.length % 2 ? { closed: flat[0], rest: flat.slice(1) } : { closed: null, rest: flat })
    const pairs = (flat) => flat.map((_, at) => flat.slice(at, at + 2)).filter((_, at) => at % 2 === 0)
    const decoded = [...c.cbor(unhex(clock.cbor))].map(([chain, flat]) => [chain, pairs(ends(flat).rest), ends(flat).closed])
    equal(decoded, chains, 'cbor')
  })
}
test('tombstone', () => equal(hex(c.deletedDigest()), clocks.deleted, 'digest'))
for (const { logs, fingerprint } of clocks.fingerprints) {
  test(`fingerprint of ${logs.length} logs`, () => {
    equal(hex(c.fingerprint(logs.map((log) => log.map(unhex)))), fingerprint, 'sum')
  })
}

const tags = read('tags')
for (const tag of tags.tags) {
  test(`tag ${tag.tag}`, () => {
    equal(hex(c.spaceTag(unhex(tags.session), tag.from_dialler, unhex(tag.space))), tag.tag, 'tag')
    equal(c.spacePrefix(unhex(tag.space)), tag.prefix, 'prefix')
  })
}

const discovery = read('discovery')
for (const { day, topic } of discovery.topics) {
  test(`topic of day ${day}`, () => equal(hex(c.topic(unhex(discovery.space), day)), topic, 'topic'))
}
for (const { at_ms, topics } of discovery.around) {
  test(`topics at ${at_ms}`, () => {
    const days = [at_ms, at_ms - 7200000, at_ms + 7200000].map((at) => Math.floor(at / 86400000))
    equal([...new Set(days)].map((day) => hex(c.topic(unhex(discovery.space), day))), topics, 'topics')
  })
}
test('peer record and announce', () => {
  const { device, made_ms, roles, addresses, record, topics, signature } = discovery.announce
  const found = c.cbor(unhex(record))
  equal([hex(found[0]), found[1], found[2], found[3]], [device, made_ms, roles, addresses], 'fields')
  equal(c.verifies(found[4], c.peerBytes(found), found[0]), true, 'signature of the record')
  equal(c.verifies(unhex(signature), c.announceBytes(unhex(record), topics.map(unhex)), found[0]), true, 'signature of the announce')
})

const { messages } = read('messages')
for (const message of messages) {
  test(`message: ${message.what}`, () => {
    const { type, name, value } = c.message(unhex(message.bytes))
    equal(type, message.type, 'type')
    equal(name, message.what.split(',')[0], 'name')
    equal(c.shown(value), message.fields, 'fields')
  })
}
test('receipt', () => {
  const { value } = c.message(unhex(messages.find((m) => m.what === 'Received').bytes))
  const receipt = value[0] ?? value['0'] ?? value.get?.(0)
  equal(c.verifies(receipt[3], c.receiptBytes(receipt), receipt[1]), true, 'signature of the receiver')
})
test('storage receipt', () => {
  const { value } = c.message(unhex(messages.find((m) => m.what === 'Held').bytes))
  const receipt = value[0] ?? value['0'] ?? value.get?.(0)
  equal(c.verifies(receipt[4], c.storageBytes(receipt), receipt[0]), true, 'signature of the holder')
})
test('every type of message has a vector', () => {
  equal([...new Set(messages.map((m) => m.type))].sort((a, b) => a - b), Object.keys(c.MESSAGES).map(Number), 'types')
})

/** A segment as decoded, in a log; throws what is wrong with its tip. */
function checkSegment(space, doc, [, ref, first, [n, rights, signature], entries]) {
  const opening = Array.isArray(ref) ? ref[1] : undefined
  const changes = entries.map(c.change)
  equal(first, 1, 'first')
  equal(entries.length, n, 'numbers')
  const head = c.head(changes.map((change) => change.id))
  const signed = c.tipBytes(space, doc, opening, n, head, rights)
  if (!c.verifies(signature, signed, opening[0])) throw new c.Refused('T2.tip')
  const chain = c.chainId(space, doc, opening)
  changes.forEach((change, at) => {
    if (hex(change.actor) !== hex(opening[2] ?? chain)) throw new c.Refused('S4.actor')
    if (change.seq !== first + at) throw new c.Refused('S4.seq')
    if (at > 0 && !change.deps.some((dep) => hex(dep) === hex(changes[at - 1].id))) throw new c.Refused('S4.past')
  })
  return { opening, changes, head, chain, signed }
}

const segment = read('segment')
test('segment', () => {
  const [space, doc] = [unhex(segment.space), unhex(segment.doc)]
  const wire = c.cbor(unhex(segment.cbor))
  equal(hex(wire[0]), segment.doc, 'document')
  const found = checkSegment(space, doc, wire)
  equal(hex(found.head), segment.head, 'head')
  equal(hex(found.chain), segment.chain, 'chain')
  equal(hex(found.signed), segment.signed, 'signed bytes')
  equal(hex(wire[3][2]), segment.signature, 'signature')
  found.changes.forEach((change, at) => {
    const entry = segment.entries[at]
    equal(hex(wire[4][at]), entry.bytes, 'bytes')
    equal([hex(change.id), hex(change.actor), change.seq, change.startOp], [entry.id, entry.actor, entry.seq, entry.start_op], 'head of a change')
    equal(change.deps.map(hex), entry.deps, 'dependencies')
  })
})

const reconciliation = read('reconciliation')
test('reconciliation', () => {
  const seed = unhex(reconciliation.seed)
  const elements = reconciliation.set.map(({ doc, digest, element }) => {
    const found = c.element(seed, unhex(doc), unhex(digest))
    equal(hex(found), element, 'element')
    return found
  })
  const check = elements.reduce((all, element) => all ^ c.checksum(seed, element), 0n)
  equal(hex(c.uint(check, 8).reverse()), reconciliation.mark.check, 'checksum of the set')
  const all = c.decodeSymbols(unhex(reconciliation.symbols))
  equal([all.len, all.check, all.start], [reconciliation.mark.len, check, 0], 'mark')
  equal(all.symbols, c.symbols(seed, elements, all.symbols.length), 'symbols')
  const tail = c.decodeSymbols(unhex(reconciliation.symbols_from_64))
  equal([tail.start, tail.symbols], [64, all.symbols.slice(64)], 'later symbols')
})

const session = read('session')
test('session', () => {
  const { hash, messages } = c.openSession(session)
  equal(hex(hash), session.session_hash, 'hash')
  const said = { true: [], false: [] }
  messages.forEach((list, at) => {
    const frame = session.frames[at]
    equal(list.map(hex), frame.messages.map((m) => m.bytes), `messages of frame ${at}`)
    list.forEach((bytes, i) => {
      const message = c.message(bytes)
      equal(message.name, frame.messages[i].what, `message of frame ${at}`)
      said[frame.from_dialler].push(message)
    })
  })
  const space = unhex(session.space)
  for (const fromDialler of [true, false]) {
    const all = said[fromDialler]
    equal(all[0].name, 'Hello', 'first message')
    const named = all.filter((m) => m.name === 'Hello' || m.name === 'Spaces').flatMap((m) => m.value.get(m.type === 0 ? 5 : 0))
    const hello = named.find((h) => hex(h.get(2)) === hex(c.spaceTag(hash, fromDialler, space)))
    equal(hello?.get(1), c.spacePrefix(space), 'the space, by its tag')
  }
  const genesis = said.false.find((m) => m.name === 'GenesisOf').value.get(1)
  c.genesis(genesis)
  equal(hex(c.spaceId(genesis)), session.space, 'genesis')
  // What the founder sent makes the document, from its header on.
  const segments = said.false.filter((m) => m.name === 'Data').flatMap((m) => m.value.get(1))
  const [records, changes] = [segments.find((s) => s[0] === null), segments.find((s) => s[0] !== null)]
  const opening = records[1][1]
  equal(hex(c.recordId(space, opening[0], records[4][0])), session.doc, 'document')
  c.record(records[4][0])
  const signed = c.tipBytes(space, space, opening, 1, c.head([unhex(session.doc)]), records[3][1])
  equal(c.verifies(records[3][2], signed, opening[0]), true, 'tip over the header')
  equal(changes[0], 0, 'the document is named by its header')
  if (!Array.isArray(changes[1])) changes[1] = [changes[1], opening]
  checkSegment(space, unhex(session.doc), changes)
  // Both end with the same fingerprint.
  const checks = [true, false].map((side) => said[side].filter((m) => m.name === 'Check').at(-1).value.get(1))
  equal(hex(checks[0]), hex(checks[1]), 'fingerprints')
  const frames = blake3(c.join(...session.frames.map((frame) => unhex(frame.bytes))))
  equal(hex(frames.subarray(0, 8)), session.digest, 'digest of all frames')
})

const decoders = { genesis: c.genesis, record: c.record, message: c.message, symbols: c.decodeSymbols }
for (const { form, what, bytes } of read('refused').refused) {
  test(`refused ${form}: ${what}`, () => isRefused(() => decoders[form](unhex(bytes))))
}
const refusedChanges = read('refused_changes')
test('a change without operations', () => c.change(unhex(refusedChanges.good)))
// Those that the head of a change shows; the rest needs its columns.
const seen = ['S1.magic', 'S1.compressed', 'S1.type', 'S2.checksum', 'S2.length', 'S2.deps', 'S3.deps-order', 'S2.actor-length', 'S4.seq', 'S2.number']
for (const { what, bytes, code } of refusedChanges.refused.filter((r) => seen.includes(r.code))) {
  test(`refused change: ${what}`, () => isRefused(() => c.change(unhex(bytes)), code))
}
const refusedSegments = read('refused_segments')
for (const { what, bytes, code } of refusedSegments.refused.filter((r) => /^T2|^S4/.test(r.code))) {
  test(`refused segment: ${what}`, () => {
    isRefused(() => checkSegment(unhex(refusedSegments.space), unhex(refusedSegments.doc), c.cbor(unhex(bytes))), code)
  })
}

console.log(`vectors: ${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
