// The example page in two tabs of a real browser, while a peer edits and the peer that serves it is killed and started again.
// Usage: node check.js PROGRAM [SCREENSHOT]

import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

const program = process.argv[2], screenshot = process.argv[3]
const pages = join(dirname(fileURLToPath(import.meta.url)), '../../examples/legacy-page')
const home = mkdtempSync(join(tmpdir(), 'browser-'))
const PATIENCE = Number(process.env.PATIENCE || 60) * 1_000

class Peer {
  constructor (name) {
    const bare = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('COMMONHOLD_')))
    this.env = { ...bare, COMMONHOLD_CONFIG: '/dev/null', COMMONHOLD_STORE_DATA: join(home, name, 'data'), COMMONHOLD_STORE_KEYS: join(home, name, 'keys') }
    this.ready = join(home, `${name}.json`)
  }

  run (...args) {
    return execFileSync(program, args, { env: this.env, encoding: 'utf8' }).trim()
  }

  async serve (env, listen = 'ws://127.0.0.1:0/') {
    rmSync(this.ready, { force: true })
    this.process = spawn(program, ['serve', '--listen', listen, '--ready-file', this.ready], { env: { ...this.env, ...env }, stdio: 'ignore' })
    await until('the peer to be ready', () => existsSync(this.ready))
    return JSON.parse(readFileSync(this.ready))
  }

  async kill () {
    const ended = new Promise(resolve => this.process.once('exit', resolve))
    this.process.kill('SIGKILL')
    await ended
  }
}

async function until (what, look) {
  const begun = Date.now()
  while (!await look()) {
    if (Date.now() - begun > PATIENCE) throw new Error(`waited too long for ${what}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

const origin = new Peer('origin'), peer = new Peer('peer')
let browser, failed = false
try {
  const space = origin.run('space', 'new', '--writers', 'anyone')
  const env = { COMMONHOLD_HTTP_LISTEN: '127.0.0.1:0', COMMONHOLD_HTTP_OPEN: '*:write', COMMONHOLD_HTTP_FILES: pages }
  let facts = await origin.serve(env)
  const host = facts.http[0], doc = await create(host, space)
  peer.run('join', facts.invite)
  await peer.serve({})
  await until('the document at the peer', () => { try { peer.run('get', doc); return true } catch { return false } })

  browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-quic',
    '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] })
  const tabs = []
  for (const _ of [1, 2]) {
    const tab = await (await browser.newContext()).newPage()
    tab.on('pageerror', error => { failed = true; console.error(`page: ${error}`) })
    await tab.goto(`http://${host}/?space=${space}&doc=${doc}`)
    await tab.waitForSelector('li:has-text("milk")')
    tabs.push(tab)
  }
  const [one, two] = tabs
  // All three at once: each tab adds to the list and types into the text, a peer edits both.
  const type = async (tab, key, text) => { await tab.locator('#note').press(key); await tab.locator('#note').pressSequentially(text) }
  await Promise.all([
    add(one, 'eggs').then(() => type(one, 'Home', 'One. ')),
    add(two, 'bread').then(() => type(two, 'End', ' Two.')),
    (async () => peer.run('set', doc, 'items/-', JSON.stringify({ text: 'rice', done: false })))(),
  ])
  const items = tab => tab.locator('li span').allTextContents()
  const both = async (what, list, text) => until(what, async () => {
    for (const tab of tabs) {
      const shown = (await items(tab)).sort().join()
      const note = await tab.locator('#note').inputValue()
      if (shown !== list || !text.every(part => note.includes(part))) return false
    }
    return await one.locator('#note').inputValue() === await two.locator('#note').inputValue()
  })
  await both('every intent in both tabs', 'bread,eggs,milk,rice', ['One. ', 'today', ' Two.'])
  await one.locator('li:has-text("milk") input').check()
  await two.waitForSelector('li.done:has-text("milk")')

  // Killed, edited meanwhile by the peer, and back at the same port: the pages go on by themselves.
  await origin.kill()
  await one.waitForSelector('#state.offline')
  await add(one, 'while away')
  peer.run('set', doc, 'items/-', JSON.stringify({ text: 'from the peer', done: false }))
  facts = await origin.serve({ ...env, COMMONHOLD_HTTP_LISTEN: host }, facts.addresses[0])
  await both('what came meanwhile', 'bread,eggs,from the peer,milk,rice,while away', ['One. ', ' Two.'])
  if (screenshot) await one.screenshot({ path: screenshot })
  const held = JSON.parse(peer.run('get', doc, '--json')).value
  if (held.items.length !== 6) throw new Error(`the peer has ${JSON.stringify(held)}`)
} catch (error) {
  failed = true
  console.error(error)
  for (const tab of browser?.contexts().flatMap(context => context.pages()) ?? []) {
    console.error(await tab.evaluate(() => ({ items: document.querySelector('#items').innerText, note: document.querySelector('#note').value, state: document.querySelector('#state').innerText, problem: document.querySelector('#problem').innerText })))
  }
} finally {
  await browser?.close()
  for (const one of [origin, peer]) one.process?.kill('SIGKILL')
  rmSync(home, { recursive: true, force: true })
}
console.log(failed ? 'browser: 0 passed, 1 failed' : 'browser: 1 passed, 0 failed')
process.exit(failed ? 1 : 0)

async function create (host, space) {
  const content = { items: [{ text: 'milk', done: false }], note: 'today' }
  const answer = await fetch(`http://${host}/v1/spaces/${space}/docs`, { method: 'POST', headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ name: 'shopping', content }) })
  return answer.headers.get('Location').split('/').pop()
}

async function add (tab, text) {
  await tab.locator('#new').fill(text)
  await tab.locator('#new').press('Enter')
}
