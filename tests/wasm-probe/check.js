// Checks that the module asks the host for nothing, then runs its session, which must be the one of docs/vectors.
// Arguments: the module.

import { readFileSync } from 'node:fs'

const bytes = readFileSync(process.argv[2])
const { digest } = JSON.parse(readFileSync(new URL('../../docs/vectors/session.json', import.meta.url)))

function fail(why) {
  console.error(`wasm: FAILED: ${why}`)
  process.exit(1)
}

// After the 8 bytes of magic and version: sections of id, LEB128 length, content. Section 2 lists imports.
let at = 8
const sections = []
while (at < bytes.length) {
  const id = bytes[at++]
  let length = 0
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at++]
    length |= (byte & 0x7f) << shift
    if (byte < 0x80) break
  }
  sections.push(id)
  at += length
}
if (at !== bytes.length || !sections.includes(10)) fail('not a module with code')
if (sections.includes(2)) {
  const names = WebAssembly.Module.imports(new WebAssembly.Module(bytes)).map(({ module, name }) => `${module}.${name}`)
  fail(`the pure crate asks the host for ${names.join(', ')}`)
}

const { instance } = await WebAssembly.instantiate(bytes, {})
const found = BigInt.asUintN(64, instance.exports.session()).toString(16).padStart(16, '0')
if (found !== digest) fail(`the session came to ${found}, natively it is ${digest}`)
console.log('wasm: no imports; the session is bit for bit the native one')
