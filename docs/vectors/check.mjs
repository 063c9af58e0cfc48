// Checks an exported folder, or all cases of cases.json, with nothing but Node 20:
//
//   node check.mjs FOLDER [[SITE/GATEWAY=]THUMBPRINT...] [--recompute]
//   node check.mjs cases.json
//
// `--recompute` makes the intervals and figures of the folder again from its readings (figures.mjs). `--libraries` takes RFC 8785 and JWS from `jose` and `canonicalize`, where `npm install` has put them beside this
// file, in place of what is written in signed.mjs. A second implementation, so that the format is what pack-format.md
// says and not what one library does. It reads everything before it judges; `meterhouse verify` judges as packs come.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, join } from 'node:path'
import * as zlib from 'node:zlib'
import { recompute } from './figures.mjs'
import { check, isObject, ms, parse, readChain, Refused, text, useLibraries, want, whole } from './signed.mjs'

// --- one pack by itself

const STREAM = /^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}(\/[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}){2}$/
const GATEWAY = /^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}\/[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}$/
const [BOOT, HASH] = [/^[0-9a-f]{16}$/, /^[A-Za-z0-9_-]{43}$/]
const KNOWN_ONLY = ['bs', 'bu', 'bv', 'bver', 'vd']

const readPack = (value) => {
  want(value.v === 1, `format ${value.v}`)
  want(text(value.stream, STREAM) && text(value.boot, BOOT) && whole(value.seq, 1), 'stream, boot or seq')
  want(value.prev === null || text(value.prev, HASH), 'prev')
  want(value.prev_boot == null || text(value.prev_boot, BOOT), 'prev_boot')
  want('table' in value ? Array.isArray(value.table?.points) : text(value.birth, HASH), 'birth')
  const pack = { ...value, low: ms(value.from), high: ms(value.to), faults: [] }
  want(pack.low <= pack.high, 'from after to')
  const steps = (value.events ?? []).filter((e) => ['clock_step', 'loss'].includes(e.event))
  want(steps.length <= 100, 'clock steps and losses without end')
  for (const gap of value.gaps ?? []) {
    const [low, high] = [ms(gap.from), ms(gap.to)]
    want(pack.low <= low && low < high && high <= pack.high, 'a gap outside its pack')
  }
  for (const [n, record] of (value.e ?? []).entries()) {
    for (const label of Object.keys(record)) want(!label.endsWith('_') && !KNOWN_ONLY.includes(label), `label ${label}`)
    want(n || ('bn' in record && 'bt' in record), 'the first record has no bn and bt')
    want((record.bn ?? `${value.stream}/`) === `${value.stream}/`, 'records of another stream')
    const kinds = { v: 'number', vs: 'string', vb: 'boolean' }
    const values = Object.keys(kinds).filter((name) => name in record)
    want(values.length === 1 && typeof record[values[0]] === kinds[values[0]], `value of ${record.n}`)
  }
  const rule = (holds, fault) => { if (!holds) pack.faults.push(fault) }
  rule(value.clock && 'synced' in value.clock, 'no clock')
  rule(!('prev_boot' in value) || 'table' in value, 'the first pack of a boot is no birth')
  rule(value.prev !== null || (value.prev_boot === null && value.seq === 1), 'prev is null')
  return pack
}

// --- order and completeness of a stream

const seam = (left, right) => {
  const faults = []
  const rule = (holds, fault) => { if (!holds) faults.push(`${fault} at ${right.seq}`) }
  rule(right.seq === left.seq + 1, 'sequence')
  rule(right.boot === left.boot ? !('prev_boot' in right) : right.prev_boot === left.boot, 'prev_boot')
  const [k, n] = right.part ?? [1, 1]
  if (k > 1) {
    rule(left.part?.[0] === k - 1 && left.part[1] === n && left.low === right.low && left.high === right.high, 'part')
  } else {
    rule(!left.part || left.part[0] === left.part[1], 'part left out')
    const steps = (right.events ?? []).filter((e) => e.event === 'clock_step')
    const stepped = steps.some((e) => ms(e.old) === left.high && ms(e.new) === right.low)
    rule(right.low === left.high || stepped, '[from, to)')
  }
  rule(right.table || right.birth === (left.table ? left.hash : left.birth), 'birth')
  rule(right.signer >= left.signer, 'older key')
  return faults
}

const ticks = (low, high, period, phase) => {
  const first = (time) => Math.ceil((time - phase) / period)
  return Math.max(0, first(high) - first(low))
}

const balance = (packs, points) => { // all parts of a tick, or one pack
  if (!points.length) return []
  const faults = []
  const rows = new Map(points.map((p) => [p.n, p]))
  const read = new Map()
  for (const record of packs.flatMap((p) => p.e ?? [])) {
    const row = rows.get(record.n)
    if (!row) faults.push(`${record.n} is not in the birth`)
    else if (row.u !== record.u || row.du !== record.du) faults.push(`unit of ${record.n}`)
    read.set(record.n, (read.get(record.n) ?? 0) + 1)
  }
  for (const { n, kind, period, phase } of points) {
    if (!period || !['gauge', 'counter'].includes(kind)) continue
    const grid = [ms(period), ms(phase ?? 0)]
    const gaps = packs.flatMap((p) => p.gaps ?? []).filter((g) => g.points === '*' || g.points.includes(n))
    const missed = new Set(gaps.flatMap((g) => {
      const first = Math.ceil((ms(g.from) - grid[1]) / grid[0])
      return Array.from({ length: ticks(ms(g.from), ms(g.to), ...grid) }, (_, k) => first + k)
    }))
    const inGaps = gaps.reduce((sum, g) => sum + ticks(ms(g.from), ms(g.to), ...grid), 0)
    if (inGaps !== missed.size) faults.push(`a tick of ${n} in two gaps`)
    const due = ticks(packs[0].low, packs[0].high, ...grid)
    if ((read.get(n) ?? 0) + inGaps !== due) faults.push(`${n} does not balance`)
  }
  return faults
}

const judgeStream = (packs, births, heads) => { // packs in order of sequence
  const verdict = { faults: [], conflicts: [], open: [] }
  const byHash = new Map(packs.map((p) => [p.hash, p]))
  const after = new Map()
  const seqs = new Set(packs.map((p) => p.seq))
  const losses = packs.flatMap((p) => (p.events ?? []).filter((e) => e.event === 'loss'))
  const isLost = (seq) => losses.some((e) => e.first <= seq && seq <= e.last)
  const first = packs[0].seq
  const last = packs.at(-1).seq
  for (const pack of packs) {
    const faults = [...pack.faults]
    const left = byHash.get(pack.prev)
    if (left) {
      faults.push(...seam(left, pack))
      if (after.has(pack.prev)) verdict.conflicts.push(`two packs after ${left.seq}`)
      after.set(pack.prev, pack)
    } else if (pack.prev === null) {
      if (packs.some((p) => p !== pack && p.prev === null)) verdict.open.push('begins anew')
    } else if (packs.some((p) => p.boot === pack.boot && p.seq === pack.seq - 1)) faults.push(`prev at ${pack.seq}`)
    else if (pack.seq > first) {
      for (let seq = pack.seq - 1; seq >= first && !seqs.has(seq); seq -= 1) {
        if (!isLost(seq)) verdict.open.push(`${seq} is missing`)
        else if (seq === pack.seq - 1 && losses.some((e) => e.last === seq && e.hash !== pack.prev)) {
          verdict.conflicts.push('hash of a loss')
        }
      }
    }
    const points = (pack.table ?? births.get(pack.birth))?.points
    const [k, n] = pack.part ?? [1, 1]
    const isOfTick = (p) => p === pack || (p.part && p.boot === pack.boot && p.seq - p.part[0] === pack.seq - k)
    const tick = n > 1 ? packs.filter(isOfTick) : [pack]
    if (!points) verdict.open.push(`birth of ${pack.seq}`)
    else if (!faults.length && k === 1 && tick.length === n) faults.push(...balance(tick, points))
    if (faults.length) verdict.faults.push(faults[0])
  }
  for (const head of heads) {
    const pack = packs.find((p) => p.boot === head.boot && p.seq === head.seq)
    if (pack && pack.hash !== head.hash) verdict.conflicts.push(`checkpoint of ${head.seq}`)
    else if (!pack && packs.some((p) => p.prev_boot === head.boot && p.seq <= head.seq)) {
      verdict.conflicts.push(`another boot goes on from before ${head.seq}`)
    } else if (!pack && head.seq > last) verdict.open.push(`${head.seq} is missing`)
    else if (!pack && seqs.has(head.seq)) { // of another boot: before the history began, or beside it
      if (ms(head.to) <= packs[0].low) verdict.open.push(`begins anew, after ${head.seq} of boot ${head.boot}`)
      else verdict.conflicts.push(`${head.seq} of boot ${head.boot} is not here`)
    }
  }
  return verdict
}

// --- everything

// objects: {raw, topic or null, copy: a birth beside the packs}; only: names of the streams that a folder was asked for
const judge = async (objects, pins, only = []) => {
  const refused = []
  const gateways = new Map()
  const gateway = (name) => {
    if (!gateways.has(name)) gateways.set(name, { chains: [], early: [], pages: new Map(), checkpoints: new Map(), heads: [], packs: [] })
    return gateways.get(name)
  }
  const named = pins.map((pin) => [pin.slice(0, Math.max(0, pin.lastIndexOf('='))), pin.slice(pin.lastIndexOf('=') + 1)])
  const isPinned = (chain) => !pins.length ||
    named.some(([owner, kid]) => (!owner || owner === chain.gateway) && chain.keys.has(kid))
  const keysOf = (name) => new Map(gateway(name).chains.flatMap((c) => [...c.keys]))
  const orderOf = (name) => [...keysOf(name).keys()]
  const isRevoked = (name, kid) => gateway(name).chains.some((c) => c.revoked.has(kid))
  const isCut = (name, kid, stream, seq) => gateway(name).chains
    .some((c) => c.revoked.has(kid) && seq > (c.revoked.get(kid)[stream] ?? 0))

  const takeKeys = async (value, topic) => {
    want(!topic || topic === `meterhouse/v1/${value.gateway}/keys`, 'topic')
    want(text(value.gateway, GATEWAY), 'gateway')
    const chain = { ...await readChain(value), gateway: value.gateway }
    const { chains, early } = gateway(value.gateway)
    const known = chains.find((c) => c.first.kid === chain.first.kid)
    const begins = (c, with_) => with_.plain.every((record, n) => c.plain[n] === record)
    if (known && !isPinned(chain) && begins(known, chain) && chain.counter < known.counter) return
    if (!isPinned(chain)) {
      if (chains.length) throw new Refused('foreign chain of keys')
      early.push(chain)
    } else if (known) {
      if (chain.says === known.says && chain.counter === known.counter) return
      want(chain.counter > known.counter && begins(chain, known), 'an old or another chain of keys')
      chains[chains.indexOf(known)] = chain
    } else {
      want(!chains.length || (pins.length && isPinned(chain)), 'a second chain that is not pinned')
      chains.push(chain)
    }
  }
  const takeCheckpoint = async (value, topic) => {
    const name = value.gateway
    want(!topic || topic === `meterhouse/v1/${name}/checkpoint/${value.page}`, 'topic')
    const { hash, kid } = await check(value, 'mh-checkpoint', keysOf(name))
    want(value.v === 1 && whole(value.counter, 0) && whole(value.page, 1) && Array.isArray(value.heads), 'checkpoint')
    want(whole(value.pages, value.page), 'a page beyond the last one')
    const last = gateway(name).pages.get(value.page)
    const order = orderOf(name)
    if (last?.hash === hash) return
    const thief = last && order.indexOf(kid) > order.indexOf(last.kid) && isRevoked(name, last.kid)
    if (last && !thief) {
      want(value.counter > last.counter, 'an old checkpoint')
      want(order.indexOf(kid) >= order.indexOf(last.kid), 'checkpoint by an older key')
      want(value.counter !== last.counter + 1 || value.prev === last.hash, 'prev of a checkpoint')
    }
    for (const head of value.heads) want(!isCut(name, kid, head.stream, head.seq), 'checkpoint by a revoked key')
    const made = gateway(name).checkpoints.get(value.counter) ?? { pages: value.pages, here: new Set(), kid, filed: !topic }
    want(made.pages === value.pages || isRevoked(name, made.kid), 'pages of one checkpoint that count them differently')
    gateway(name).checkpoints.set(value.counter, { ...made, pages: value.pages, here: made.here.add(value.page) })
    gateway(name).pages.set(value.page, { hash, kid, counter: value.counter })
    gateway(name).heads.push(...value.heads.map((head) => ({ ...head, counter: value.counter, filed: !topic })))
  }

  const packs = []
  const checkpoints = []
  for (const { raw, topic, copy } of objects) {
    try {
      const value = parse(raw)
      const kind = topic ? topic.split('/')[4] : 'records' in value ? 'keys' : 'heads' in value ? 'checkpoint' : ''
      if (kind === 'keys') await takeKeys(value, topic)
      else if (kind === 'checkpoint') checkpoints.push([value, topic])
      else packs.push({ value, topic, copy: copy || topic?.endsWith('/birth') })
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      refused.push(error.message)
    }
  }
  for (const { chains, early } of gateways.values()) { // the beginnings of a pinned chain, or foreign
    for (const chain of early) {
      const begins = chains.some((c) => chain.plain.every((record, n) => c.plain[n] === record))
      if (!begins) refused.push('foreign chain of keys')
    }
  }
  const streams = new Map()
  const births = new Map()
  for (const { value, topic, copy } of packs) {
    try {
      want(typeof value.stream === 'string', 'no stream')
      const name = value.stream.split('/').slice(0, 2).join('/')
      const { hash, kid } = await check(value, 'mh-pack', keysOf(name))
      want(!topic || topic.split('/').slice(2, 5).join('/') === value.stream, 'published on another topic')
      const pack = { ...readPack(value), hash, signer: orderOf(name).indexOf(kid) }
      want(!isCut(name, kid, value.stream, value.seq), 'by a revoked key')
      if (pack.table) births.set(hash, pack.table)
      if (copy) continue
      const known = streams.get(value.stream) ?? streams.set(value.stream, []).get(value.stream)
      const same = known.find((p) => p.boot === pack.boot && p.seq === pack.seq)
      want(!same || same.hash === hash, 'fork: two packs with one identity')
      if (!same) known.push(pack)
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      refused.push(`${value.stream} ${value.seq}: ${error.message}`)
    }
  }
  for (const [value, topic] of checkpoints) await takeCheckpoint(value, topic).catch((error) => {
    if (!(error instanceof Refused)) throw error
    refused.push(error.message)
  })
  const heads = [...gateways.values()].flatMap((g) => g.heads)
  const found = { refused, conflicts: [], open: [], packs: 0, streams: streams.size }
  for (const [stream, list] of streams) {
    list.sort((a, b) => a.seq - b.seq || a.low - b.low)
    const verdict = judgeStream(list, births, heads.filter((head) => head.stream === stream))
    refused.push(...verdict.faults.map((fault) => `${stream}: ${fault}`))
    found.conflicts.push(...verdict.conflicts.map((fault) => `${stream}: ${fault}`))
    found.open.push(...verdict.open.map((fault) => `${stream}: ${fault}`))
    found.packs += list.length
  }
  for (const [name, { heads: all }] of gateways) { // a whole stream is not here, and has packs from after others began
    const begun = Math.min(...[...streams].filter(([s]) => s.startsWith(`${name}/`)).map(([, list]) => list[0].high))
    const ends = new Map(all.filter((h) => h.filed).sort((a, b) => a.counter - b.counter).map((h) => [h.stream, h]))
    for (const [stream, end] of ends) {
      if (only.length && !only.includes(stream.split('/')[2])) continue
      if (!streams.has(stream) && !end.retired && ms(end.to) > begun) found.open.push(`${stream}: no pack is here`)
    }
  }
  for (const [name, { checkpoints: made }] of gateways) { // on a broker pages replace those before: the newest counts
    const held = [...made].filter(([, c]) => !isRevoked(name, c.kid))
    const newest = Math.max(...held.map(([counter]) => counter))
    for (const [counter, { pages, here, filed }] of held) {
      if ((filed || counter === newest) && here.size < pages) found.open.push(`pages of checkpoint ${counter} of ${name}`)
    }
  }
  const seen = [...gateways].filter(([, { chains }]) => chains.length).map(([name]) => name)
  if (named.some(([owner]) => !owner) && seen.length > 1) {
    found.conflicts.push(`${seen.length} gateways: pin each as SITE/GATEWAY=THUMBPRINT`)
  }
  if (!found.packs) found.open.push('no pack is here')
  if (refused.length || found.conflicts.length) found.verdict = 'failed'
  else if (found.open.length) found.verdict = 'incomplete'
  else found.verdict = pins.length ? 'verified' : 'consistent, origin unproven'
  return found
}

const readFolder = (folder) => readdirSync(folder, { recursive: true }).sort()
  .filter((name) => /\.jsonl?(\.zst)?$/.test(name))
  .flatMap((name) => {
    let raw = readFileSync(join(folder, name))
    if (name.endsWith('.zst')) raw = zlib.zstdDecompressSync(raw)
    const copy = basename(name).startsWith('births.json')
    const bytes = raw.toString('latin1') // one character a byte
    const lines = (/\.jsonl/.test(name) ? bytes.split('\n') : [bytes]).map((line) => line.trim()).filter(Boolean)
    return lines.map((line) => ({ raw: Buffer.from(line, 'latin1'), topic: null, copy }))
  })

const checkCases = async (file) => {
  let [right, skipped] = [0, 0]
  const wrong = []
  for (const { name, trust, objects, expect } of JSON.parse(readFileSync(file, 'utf8'))) {
    const bytesOf = (o) => 'text' in o ? Buffer.from(o.text) : Buffer.from(o.base64, 'base64')
    const given = objects.map((o) => ({ raw: bytesOf(o), topic: o.topic }))
    if (!zlib.zstdDecompressSync && objects.some((o) => 'base64' in o)) {
      skipped += 1 // this Node has no zstd
      continue
    }
    const found = await judge(given, trust)
    const isRefused = Object.keys(expect.failures).length > 0
    const isRight = found.verdict === expect.verdict && (found.refused.length > 0) === isRefused
    if (isRight && (isRefused || found.packs === expect.packs)) right += 1
    else {
      const why = [...found.refused, ...found.conflicts, ...found.open].join('; ')
      wrong.push(`${name}: ${found.verdict}, ${found.packs} packs, ${why}`)
    }
  }
  for (const line of wrong) console.log(line)
  console.log(`${right} cases as expected, ${wrong.length} not, ${skipped} skipped`)
  return wrong.length ? 1 : 0
}

const options = process.argv.slice(2).filter((arg) => arg.startsWith('--'))
const [path, ...pins] = process.argv.slice(2).filter((arg) => !arg.startsWith('--'))
if (options.includes('--libraries')) await useLibraries()
if (statSync(path).isFile()) process.exit(await checkCases(path))
const list = join(path, 'streams.txt')
const only = existsSync(list) ? readFileSync(list, 'utf8').split(/\s+/).filter(Boolean) : []
const objects = readFolder(path)
const found = await judge(objects, pins, only)
for (const line of [...found.refused, ...found.conflicts, ...found.open].slice(0, 20)) console.log(line)
console.log(`${found.verdict}: ${found.packs} packs of ${found.streams} streams`)
let differ = 0
if (options.includes('--recompute')) {
  const { lines, intervals, figures, others } = recompute(path, objects.map(({ raw }) => parse(raw)))
  for (const line of lines.slice(0, 20)) console.log(`differs: ${line}`)
  console.log(`intervals: ${intervals[0]} agree, ${intervals[1]} differ`)
  const more = others ? `; ${others} balances and derived points are not recomputed here` : ''
  console.log(`figures and traces: ${figures[0]} agree, ${figures[1]} differ${more}`)
  differ = intervals[1] + figures[1]
}
process.exit(found.verdict === 'verified' && !differ ? 0 : 6)
