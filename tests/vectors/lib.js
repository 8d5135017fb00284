// Everything that docs/protocol.md says, written from that text alone.

import { decode as decodeCbor, encode as encodeCbor } from 'cborg'
import { blake2s } from '@noble/hashes/blake2'
import { blake3 } from '@noble/hashes/blake3'
import { sha256 } from '@noble/hashes/sha2'
import { hmac } from '@noble/hashes/hmac'
import { ed25519, x25519 } from '@noble/curves/ed25519'
import { chacha20poly1305 } from '@noble/ciphers/chacha'

export const hex = (bytes) => Buffer.from(bytes).toString('hex')
export const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'))
export const text = (string) => new TextEncoder().encode(string)
export const join = (...parts) => new Uint8Array(Buffer.concat(parts.map((part) => Uint8Array.from(part))))

/** Something that a peer must not send. */
export class Refused extends Error {}

const refuse = (why) => {
  throw new Refused(why)
}

export function uint(value, bytes) {
  const out = new Uint8Array(bytes)
  let rest = BigInt(value)
  for (let at = bytes - 1; at >= 0; at--, rest >>= 8n) out[at] = Number(rest & 0xffn)
  return out
}

export function number(bytes) {
  return bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n)
}

// ---------------------------------------------------------------- CBOR

const options = { strict: false, useMaps: true, allowIndefinite: false, allowUndefined: false, rejectDuplicateMapKeys: true }

export function cbor(bytes) {
  try {
    return decodeCbor(bytes, options)
  } catch (error) {
    return refuse(error.message)
  }
}

/** Signed statements have one encoding only. */
export function canonical(bytes) {
  let value
  try {
    value = decodeCbor(bytes, { ...options, strict: true })
  } catch (error) {
    return refuse(error.message)
  }
  if (hex(encodeCbor(value)) !== hex(bytes)) refuse('not canonical')
  return value
}

/** The form in which the vectors show decoded CBOR: maps by key, byte strings apart from text. */
export function shown(value) {
  if (value instanceof Uint8Array) return { bytes: hex(value) }
  if (Array.isArray(value)) return value.map(shown)
  if (value instanceof Map) {
    const entries = [...value]
    if (entries.some(([key]) => key instanceof Uint8Array)) return { pairs: entries.map((pair) => pair.map(shown)) }
    return Object.fromEntries(entries.map(([key, item]) => [String(key), shown(item)]))
  }
  return value
}

// ---------------------------------------------------------------- Shapes

const isUint = (max) => (value) => Number.isInteger(value) && value >= 0 && value <= max
const u8 = isUint(255)
const u16 = isUint(0xffff)
const u32 = isUint(0xffffffff)
const u64 = isUint(Number.MAX_SAFE_INTEGER)
const bool = (value) => typeof value === 'boolean'
const string = (value) => typeof value === 'string'
const bin = (length) => (value) => value instanceof Uint8Array && (length === undefined || value.length === length)
const nil = (value) => value === null
const isTrue = (value) => value === true
const list = (item, max = Infinity) => (value) => Array.isArray(value) && value.length <= max && value.every(item)
const tuple = (...items) => (value) =>
  Array.isArray(value) && value.length === items.length && items.every((item, at) => item(value[at]))
const either = (...shapes) => (value) => shapes.some((shape) => shape(value))
const optional = (shape) => Object.assign((value) => value === undefined || value === null || shape(value), { optional: true })
const fields = (shapes) => (value) => value instanceof Map && Object.entries(shapes).every(([key, shape]) => shape(value.get(Number(key))))

const clock = (value) =>
  value instanceof Map &&
  value.size <= 65536 &&
  [...value].every(
    ([chain, branches]) =>
      bin(16)(chain) &&
      Array.isArray(branches) &&
      branches.length >= 1 &&
      branches.length <= 129 &&
      branches.every((item, at) => ((at + branches.length) % 2 ? bin(32)(item) : u64(item)) || (at === 0 && u64(item)))
  )
const tip = tuple(u64, list(bin(32), 8), bin(64))
const actor = (value) => bin()(value) && value.length >= 1 && value.length <= 64
const opening = tuple(bin(32), bin(8), either(nil, actor))
const entry = (value) => bin()(value) && value.length >= 10
const segment = tuple(either(bin(32), u32, nil, isTrue), either(u32, tuple(u32, opening)), u64, tip, list(entry))
const side = tuple(tip, bin(32), bin())
const proof = tuple(bin(32), opening, either(nil, opening), bin(), side, side)
const cursor = fields({ 0: bin(16), 1: u64 })
const have = fields({ 0: bin(32), 1: clock })
const spaceHello = fields({
  0: u32, 1: u16, 2: bin(16), 3: optional(cursor), 4: bin(32), 5: u64, 6: bool, 7: optional(list(bin(32))), 8: bool,
})
const peerRecord = tuple(bin(32), u64, u64, list(string, 8), bin(64))
const records = list(peerRecord, 8)
const receipt = tuple(bin(32), bin(32), u64, bin(64))
const version = (value) => list(bin(32), 1024)(value)
const storageReceipt = tuple(bin(32), bin(32), bin(32), version, bin(64))
const items = (value) => list((item) => bin(16)(item) || u64(item), 512)(value) && value.every((item, at) => (at % 2 ? u64(item) : bin(16)(item)))
const kind = (number) => (value) => value === number
const gossip = either(
  tuple(kind(0)),
  tuple(kind(1), peerRecord, isUint(8)),
  tuple(kind(2), bool),
  tuple(kind(3), bool, records),
  tuple(kind(4), bool),
  tuple(kind(5), records),
  tuple(kind(6), records),
  tuple(kind(7), items),
  tuple(kind(8), bool, items),
  tuple(kind(9))
)

/** Type → name and shape. */
export const MESSAGES = {
  0: ['Hello', fields({ 0: u64, 1: u64, 2: bin(16), 3: string, 4: list(string, 1024), 5: list(spaceHello, 4096), 6: optional(peerRecord) })],
  1: ['Spaces', fields({ 0: list(spaceHello, 4096) })],
  2: ['GenesisOf', fields({ 0: u32, 1: bin() })],
  3: ['Since', fields({ 0: u32, 1: u64, 2: u64, 3: bool })],
  4: ['Data', fields({ 0: u32, 1: list(segment), 2: list(have, 16384), 3: optional(u64), 4: optional(bin(32)), 5: bool, 6: list(bin(32), 16384), 7: optional(list(proof, 64)) })],
  5: ['Want', fields({ 0: u32, 1: list(have), 2: bool })],
  6: ['SnapshotPart', fields({ 0: u32, 1: bin(32), 2: u64, 3: u64, 4: bin(), 5: list(fields({ 0: opening, 1: tip }), 16384) })],
  7: ['Ack', fields({ 0: u64, 1: list(tuple(u32, u64), 32768), 2: list(u64, 32768) })],
  8: ['Check', fields({ 0: u32, 1: bin(32), 2: u64, 3: u64, 4: bool })],
  9: ['SymbolsWanted', fields({ 0: u32, 1: u64, 2: u64, 3: optional(bin()) })],
  10: ['Symbols', fields({ 0: u32, 1: bin(16), 2: u64, 3: bin() })],
  11: ['Difference', fields({ 0: u32, 1: bin(16), 2: bin() })],
  12: ['Notice', fields({ 0: optional(u32), 1: optional(bin(32)), 2: string, 3: string })],
  13: ['Bye', fields({ 0: string, 1: string })],
  14: ['Gossip', fields({ 0: u32, 1: gossip })],
  15: ['Announce', fields({ 0: peerRecord, 1: list(bin(32), 256) })],
  16: ['Peers', fields({ 0: u64, 1: list(fields({ 0: peerRecord, 1: list(u32, 256) }), 128) })],
  17: ['BlobWant', fields({ 0: u32, 1: bin(32), 2: u64, 3: list(u32, 64), 4: bool, 5: bool })],
  18: ['BlobHas', fields({ 0: u32, 1: bin(32), 2: u64, 3: optional(bin()) })],
  20: ['Received', fields({ 0: receipt })],
  21: ['ReceiptWant', fields({ 0: u32, 1: bin(32), 2: version })],
  22: ['Held', fields({ 0: storageReceipt })],
  19: ['BlobPiece', fields({ 0: u32, 1: bin(32), 2: u64, 3: u32, 4: optional(bin()), 5: bin() })],
}

/** Type byte, LZ4 if its high bit is set, CBOR. */
export function message(bytes) {
  if (bytes.length === 0) refuse('empty')
  const type = bytes[0] & 0x7f
  let body = bytes.subarray(1)
  if (bytes[0] & 0x80) {
    if (body.length < 4) refuse('no inflated size')
    const size = Number(number(body.subarray(0, 4)))
    const packed = body.subarray(4)
    if (size > 8 << 20 || size > 64 * packed.length) refuse('inflates too much')
    body = lz4(packed, size)
  }
  if (!(type in MESSAGES)) return { type, name: 'Unknown', value: undefined }
  const [name, shape] = MESSAGES[type]
  const value = cbor(body)
  if (!shape(value)) refuse(`not the shape of ${name}`)
  return { type, name, value }
}

/** One LZ4 block that inflates to exactly `size` bytes. */
function lz4(packed, size) {
  const out = new Uint8Array(size)
  let from = 0
  let to = 0
  const byte = () => (from < packed.length ? packed[from++] : refuse('lz4: cut short'))
  const length = (nibble) => {
    let sum = nibble
    if (nibble === 15) {
      let more
      do sum += more = byte()
      while (more === 255)
    }
    return sum
  }
  while (from < packed.length) {
    const token = byte()
    for (let left = length(token >> 4); left > 0; left--) {
      if (to >= size) refuse('lz4: longer than declared')
      out[to++] = byte()
    }
    if (from === packed.length) break
    const offset = byte() | (byte() << 8)
    if (offset === 0 || offset > to) refuse('lz4: offset')
    for (let left = length(token & 15) + 4; left > 0; left--, to++) {
      if (to >= size) refuse('lz4: longer than declared')
      out[to] = out[to - offset]
    }
  }
  if (to !== size) refuse('lz4: shorter than declared')
  return out
}

// ---------------------------------------------------------------- Statements

export function genesis(bytes) {
  const value = canonical(bytes)
  const shape = fields({ 0: bin(32), 1: isUint(1), 2: isUint(1), 3: u32, 4: bin(16) })
  if (!shape(value) || value.size !== 5) refuse('not a genesis')
  return value
}

export const spaceId = (bytes) => blake3(join(text('commonhold genesis 1'), bytes))

const short = (max) => (value) => string(value) && text(value).length <= max
const atLeast1 = (shape) => (value) => shape(value) && value !== 0 && value.length !== 0
const ascending = (items) => items.every((item, at) => at === 0 || hex(items[at - 1]) < hex(item))
/** chain, number, chain, number … */
const ends = (max) => (value) =>
  Array.isArray(value) && value.length % 2 === 0 && value.length <= 2 * max &&
  value.every((item, at) => (at % 2 === 0 ? bin(16) : atLeast1(u64))(item)) && ascending(value.filter((_, at) => at % 2 === 0))
const hash = bin(32)
const RECORDS = {
  1: tuple(u32, bin(16), short(64), short(256)),
  2: either(tuple(u32, hash, isUint(3), bool), tuple(u32, hash, isUint(3), bool, atLeast1(u32))),
  3: tuple(u32, hash),
  4: tuple(u32, hash, hash),
  5: tuple(u32, hash, hash, hash, ends(16)),
  6: tuple(u32, hash, hash, short(64), u32),
  7: (value) => tuple(u32, atLeast1(list(hash, 16)), isUint(16384))(value) && ascending(value[1]),
  8: (value) => tuple(u32, atLeast1(list(tuple(hash, ends(4096)))))(value) && ascending(value[1].map(([doc]) => doc)),
  9: (value) => tuple(u32, hash, bin())(value) && record(value[2])[0] === 1,
  10: tuple(u32, hash, hash),
  11: tuple(u32, hash, short(256)),
  12: tuple(u32, hash),
  13: tuple(u32, hash, isUint(2), atLeast1(isUint(16))),
  14: tuple(u32, hash, hash, bin(64)),
  15: tuple(u32, u64, (value) => list(short(256), 8)(value)),
}

export function record(bytes) {
  if (bytes.length > 4096) refuse('too long')
  const value = cbor(bytes)
  if (!Array.isArray(value) || !u32(value[0])) refuse('not a record')
  const shape = RECORDS[value[0]]
  if (shape === undefined) return value
  if (!shape(value)) refuse('not the shape of its kind')
  return canonical(bytes)
}

export const recordId = (space, device, bytes) => blake3(join(text('commonhold record 1'), space, device, bytes))

/** `founding` as decoded: kind, root key, next. */
export const identityId = (bytes) => blake3(join(text('commonhold identity 1'), bytes))

export const commitment = (key, next) => blake3(join(text('commonhold next root 1'), key, next))

/** `opening` as decoded: device, salt, foreign actor or null. */
export function chainId(space, doc, [device, salt, foreign]) {
  const hashed = foreign
    ? join(text('commonhold foreign 1'), space, doc, foreign)
    : join(text('commonhold chain 1'), space, doc, device, salt)
  return blake3(hashed).subarray(0, 16)
}

export function head(ids) {
  if (ids.length === 0) return blake3(new Uint8Array())
  if (ids.length === 1) return blake3(join([0], ids[0]))
  let split = 1
  while (split * 2 < ids.length) split *= 2
  return blake3(join([1], head(ids.slice(0, split)), head(ids.slice(split))))
}

/**
 * The head over `n` entries of which `shared` (a number and the peaks) stand before `entry`, and `right` are the nodes to
 * the right of its path, the nearest first.
 */
export function headWith(shared, entry, right, n) {
  const at = Number(number(shared.subarray(0, 8)))
  const nodes = (bytes) => Array.from({ length: bytes.length / 32 }, (_, i) => bytes.subarray(32 * i, 32 * i + 32))
  const [peaks, rest] = [nodes(shared.subarray(8)), nodes(right)]
  const over = (from, to) => {
    if (to - from === 1) return blake3(join([0], entry))
    let split = 1
    while (split * 2 < to - from) split *= 2
    if (at - from >= split) {
      const left = peaks.shift() ?? refuse('too few peaks')
      return blake3(join([1], left, over(from + split, to)))
    }
    const left = over(from, from + split)
    return blake3(join([1], left, rest.shift() ?? refuse('too few nodes')))
  }
  const head = over(0, n)
  if (peaks.length || rest.length) refuse('too many nodes')
  return head
}

export function tipBytes(space, doc, [device, salt, foreign], n, treeHead, rights) {
  const kind = foreign ? join([1, foreign.length], foreign) : new Uint8Array([0])
  return join(text('commonhold tip 1'), space, doc, device, salt, kind, uint(n, 8), treeHead, [rights.length], ...rights)
}

/** As strict as `verify_strict`: no device key of small order, no second form of a signature. */
export function verifies(signature, message, device) {
  try {
    return ed25519.verify(signature, message, device, { zip215: false })
  } catch {
    return false
  }
}

export function clockDigest(chains) {
  const parts = chains.flatMap(([chain, branches, closed]) => [
    chain,
    uint(branches.length + (closed ? 2 ** 31 : 0), 4),
    ...(closed ? [uint(closed, 8)] : []),
    ...branches.flatMap(([n, treeHead]) => [uint(n, 8), treeHead]),
  ])
  return blake3(join(text('commonhold clock 1'), ...parts))
}

export function fingerprint(logs) {
  const little = (bytes) => number([...bytes].reverse())
  const sum = logs.reduce((total, [doc, digest]) => total + little(blake3(join(text('commonhold fingerprint 1'), doc, digest))), 0n)
  return uint(sum % (1n << 256n), 32).reverse()
}

export const deletedDigest = () => blake3(text('commonhold deleted 1'))

export function spaceTag(session, fromDialler, space) {
  return blake3(join(text('commonhold space tag 1'), [fromDialler ? 1 : 0], space), { key: session }).subarray(0, 16)
}

export const topic = (space, day) => blake3(join(text('commonhold topic 1'), space, uint(day, 8)))

/** What a device signs of itself. */
export const peerBytes = ([device, made, roles, addresses]) =>
  join(text('commonhold peer 1'), device, uint(made, 8), uint(roles, 8), uint(addresses.length, 1),
    ...addresses.map((address) => join(uint(text(address).length, 2), text(address))))

/** What it signs of an announce over HTTP. */
export const receiptBytes = ([giver, receiver, bytes]) => join(text('commonhold receipt 1'), giver, receiver, uint(bytes, 8))

export const storageBytes = ([holder, space, doc, entries]) => join(text('commonhold storage 1'), holder, space, doc, ...entries)

export const announceBytes = (record, topics) =>
  join(text('commonhold announce 1'), blake3(record), uint(topics.length, 2), ...topics)

export const spacePrefix = (space) => Number(number(blake3(space).subarray(0, 2)))

// ---------------------------------------------------------------- Changes

/** The head of an Automerge change chunk; columns are not looked at. */
export function change(bytes) {
  if (hex(bytes.subarray(0, 4)) !== '856f4a83') refuse('S1.magic')
  if (bytes[8] === 2) refuse('S1.compressed')
  if (bytes[8] !== 1) refuse('S1.type')
  const reader = new Reader(bytes, 9)
  const length = reader.uint()
  if (reader.at + length !== bytes.length) refuse('S2.length')
  const id = sha256(bytes.subarray(8))
  if (hex(id.subarray(0, 4)) !== hex(bytes.subarray(4, 8))) refuse('S2.checksum')
  const deps = Array.from({ length: reader.uint() }, () => reader.take(32))
  const actor = reader.take(reader.uint())
  const [seq, startOp] = [reader.uint(), reader.uint()]
  if (deps.length > 64) refuse('S2.deps')
  if (deps.some((dep, at) => at > 0 && hex(deps[at - 1]) >= hex(dep))) refuse('S3.deps-order')
  if (seq === 0) refuse('S4.seq')
  if (actor.length !== 16) refuse('S2.actor-length')
  return { id, deps, actor, seq, startOp }
}

/** Numbers in their shortest LEB128 form. */
export class Reader {
  constructor(bytes, at = 0) {
    Object.assign(this, { bytes, at })
  }

  take(count) {
    if (this.at + count > this.bytes.length) refuse('S2.length')
    this.at += count
    return this.bytes.subarray(this.at - count, this.at)
  }

  uint() {
    let value = 0n
    for (let shift = 0n; shift < 64n; shift += 7n) {
      const [byte] = this.take(1)
      value |= BigInt(byte & 0x7f) << shift
      if (byte < 0x80) return byte === 0 && shift > 0n ? refuse('S2.number') : Number(value)
    }
    return refuse('S2.number')
  }
}

// ---------------------------------------------------------------- Reconciliation

export function element(seed, doc, digest) {
  return blake3(join(doc, digest), { key: join(text('commonhold recon'), seed) }).subarray(0, 16)
}

const MASK = (1n << 64n) - 1n
const rotate = (value, by) => ((value << by) | (value >> (64n - by))) & MASK
const littleWords = (bytes) => [0, 8].map((at) => number([...bytes.subarray(at, at + 8)].reverse()))

/** SipHash-2-4 of one element. */
export function checksum(seed, bytes) {
  const [k0, k1] = littleWords(seed)
  const v = [k0 ^ 0x736f6d6570736575n, k1 ^ 0x646f72616e646f6dn, k0 ^ 0x6c7967656e657261n, k1 ^ 0x7465646279746573n]
  const rounds = (count) => {
    for (let i = 0; i < count; i++) {
      v[0] = (v[0] + v[1]) & MASK
      v[1] = rotate(v[1], 13n) ^ v[0]
      v[0] = rotate(v[0], 32n)
      v[2] = (v[2] + v[3]) & MASK
      v[3] = rotate(v[3], 16n) ^ v[2]
      v[0] = (v[0] + v[3]) & MASK
      v[3] = rotate(v[3], 21n) ^ v[0]
      v[2] = (v[2] + v[1]) & MASK
      v[1] = rotate(v[1], 17n) ^ v[2]
      v[2] = rotate(v[2], 32n)
    }
  }
  for (const word of [...littleWords(bytes), 16n << 56n]) {
    v[3] ^= word
    rounds(2)
    v[0] ^= word
  }
  v[2] ^= 0xffn
  rounds(4)
  return v[0] ^ v[1] ^ v[2] ^ v[3]
}

/** The indices below `end` of the symbols that hold an element. */
export function indices(bytes, end) {
  const [high, low] = [number(bytes.subarray(0, 8)), number(bytes.subarray(8))]
  const mix = (z) => {
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK
    return z ^ (z >> 31n)
  }
  const found = []
  let next = 0
  for (let draw = 1n; next < end; draw++) {
    found.push(next)
    const bits = mix((low + (high | 1n) * draw) & MASK)
    const uniform = Number((bits >> 11n) + 1n) * 2 ** -53
    next = next + Math.floor((next + 1.5) * (1 / Math.sqrt(uniform) - 1)) + 1
  }
  return found
}

export function symbols(seed, elements, count) {
  const out = Array.from({ length: count }, () => ({ sum: 0n, check: 0n, count: 0n }))
  for (const bytes of elements) {
    const check = checksum(seed, bytes)
    for (const index of indices(bytes, count)) {
      out[index].sum ^= number(bytes)
      out[index].check ^= check
      out[index].count += 1n
    }
  }
  return out
}

export function decodeSymbols(bytes) {
  const reader = new Reader(bytes)
  const little = (part) => number([...part].reverse())
  const len = reader.uint()
  const check = little(reader.take(8))
  const [start, count] = [reader.uint(), reader.uint()]
  if (count === 0 || count > 16384) refuse('number of symbols')
  const list = []
  for (let index = start; index < start + count; index++) {
    const [sum, check] = [number(reader.take(16)), little(reader.take(8))]
    const zigzag = BigInt(reader.uint())
    const off = zigzag & 1n ? -(zigzag >> 1n) - 1n : zigzag >> 1n
    list.push({ sum, check, count: (2n * BigInt(len)) / (BigInt(index) + 2n) + off })
  }
  if (reader.at !== bytes.length) refuse('bytes after the end')
  return { len, check, start, symbols: list }
}

// ---------------------------------------------------------------- Channel

const EMPTY = new Uint8Array()

class Cipher {
  constructor(key) {
    Object.assign(this, { key, n: 0 })
  }

  open(sealed, ad = EMPTY) {
    const nonce = join(new Uint8Array(4), uint(this.n++, 8).reverse())
    return chacha20poly1305(this.key, nonce, ad).decrypt(sealed)
  }
}

/** Noise_XX_25519_ChaChaPoly_BLAKE2s, as an onlooker who has the private keys of both sides. */
class Noise {
  constructor(prologue) {
    const name = text('Noise_XX_25519_ChaChaPoly_BLAKE2s')
    this.hash = name.length <= 32 ? join(name, new Uint8Array(32 - name.length)) : blake2s(name)
    this.chaining = this.hash
    this.mixHash(prologue)
  }

  mixHash(bytes) {
    this.hash = blake2s(join(this.hash, bytes))
  }

  derive(bytes) {
    const secret = hmac(blake2s, this.chaining, bytes)
    const first = hmac(blake2s, secret, new Uint8Array([1]))
    return [first, hmac(blake2s, secret, join(first, [2]))]
  }

  mixKey(bytes) {
    const [chaining, key] = this.derive(bytes)
    this.chaining = chaining
    this.cipher = new Cipher(key)
  }

  open(sealed) {
    const plain = this.cipher.open(sealed, this.hash)
    this.mixHash(sealed)
    return plain
  }

  split() {
    return this.derive(EMPTY).map((key) => new Cipher(key))
  }
}

/** Opens every frame of a recorded session. Yields, frame by frame, the messages in it. */
export function openSession({ dialler, acceptor, frames }) {
  const dh = (secret, pub) => x25519.getSharedSecret(unhex(secret), pub)
  const publicOf = (secret) => x25519.getPublicKey(unhex(secret))
  const same = (a, b, what) => (hex(a) === hex(b) ? undefined : refuse(what))

  const [one, two, three] = frames.map((frame) => unhex(frame.bytes))
  const preamble = one.subarray(0, 12)
  same(preamble, join(text('commonhold'), [1, 1]), 'preamble')
  const noise = new Noise(preamble)
  const e1 = one.subarray(12)
  same(e1, publicOf(dialler.ephemeral), 'flight 1: ephemeral key')
  noise.mixHash(e1)
  noise.mixHash(EMPTY)

  same(two.subarray(0, 12), preamble, 'preamble of the acceptor')
  const e2 = two.subarray(12, 44)
  same(e2, publicOf(acceptor.ephemeral), 'flight 2: ephemeral key')
  noise.mixHash(e2)
  noise.mixKey(dh(acceptor.ephemeral, e1))
  const s2 = noise.open(two.subarray(44, 92))
  same(s2, publicOf(acceptor.static), 'flight 2: static key')
  noise.mixKey(dh(acceptor.static, e1))
  same(noise.open(two.subarray(92)), [1, 1], 'flight 2: versions')

  const s1 = noise.open(three.subarray(0, 48))
  same(s1, publicOf(dialler.static), 'flight 3: static key')
  noise.mixKey(dh(dialler.static, e2))
  same(noise.open(three.subarray(48, 64)), EMPTY, 'flight 3: payload')

  const ciphers = noise.split()
  const streams = [new Uint8Array(), new Uint8Array()]
  const proven = [false, false]
  const messages = frames.map((frame, at) => {
    if (at < 2) return []
    const side = frame.from_dialler ? 0 : 1
    let rest = unhex(frame.bytes).subarray(at === 2 ? 64 : 0)
    while (rest.length > 0) {
      const length = Number(number(rest.subarray(0, 2)))
      streams[side] = join(streams[side], ciphers[side].open(rest.subarray(2, 2 + length)))
      rest = rest.subarray(2 + length)
    }
    if (!proven[side]) {
      const [device, signature] = [streams[side].subarray(0, 32), streams[side].subarray(32, 96)]
      same(device, unhex((side ? acceptor : dialler).device), 'device')
      const signed = join(text('commonhold channel 1'), [side], noise.hash, device)
      if (!verifies(signature, signed, device)) refuse('Auth')
      streams[side] = streams[side].subarray(96)
      proven[side] = true
    }
    const out = []
    for (;;) {
      const reader = new Reader(streams[side])
      if (streams[side].length === 0) break
      const length = reader.uint()
      out.push(reader.take(length))
      streams[side] = streams[side].subarray(reader.at)
    }
    return out
  })
  return { hash: noise.hash, messages }
}
