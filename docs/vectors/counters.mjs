// From the packs of one device to its intervals: counters cut at boundaries, as intervals.md says.
//
// A program of its own, to the last digit: plain growth, silence, resets and other verdicts that the stream states as
// events, demand. What it does not do it says (`Unsupported`): gauges that are integrated, clock steps, a second
// counter epoch, changes of the local clock.
import { decimals, halfEven, over, parse, plain, ratio, times } from './exact.mjs'

export class Unsupported extends Error {}

const DAY = 86_400_000
export const FLAG = { spread: 1, estimated: 2, incomplete: 4, suspect: 8, rollover: 16, reset: 32, swap: 64, glitch: 128,
  back_step: 256, epoch: 512, clock: 1024, power: 2048, late: 4096 }
const QUALITY = { suspect: 8, frozen: 8, clock: 8, estimated: 2, substituted: 2 }
export const ms = (seconds) => Math.round(seconds * 1000)

// --- local time

export const makeCut = (zone, length) => {
  const format = new Intl.DateTimeFormat('en-US', { timeZone: zone, hourCycle: 'h23', year: 'numeric', month: 'numeric',
    day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric' })
  const parts = (at) => Object.fromEntries(format.formatToParts(at).map((p) => [p.type, Number(p.value)]))
  const offset = (at) => { // local time less UTC
    const p = parts(at)
    return Date.UTC(p.year, p.month - 1, p.day, p.hour, p.minute, p.second) - Math.floor(at / 1000) * 1000
  }
  const midnight = (year, month, day) => {
    const guess = Date.UTC(year, month, day)
    return guess - offset(guess - offset(guess))
  }
  let today = [0, 0]
  const dayOf = (at) => {
    if (today[0] <= at && at < today[1]) return today
    const p = parts(at)
    today = [midnight(p.year, p.month - 1, p.day), midnight(p.year, p.month - 1, p.day + 1)]
    if (today[1] - today[0] !== DAY) throw new Unsupported('a day on which the clock changes')
    return today
  }
  const interval = (at) => {
    const [day] = dayOf(at)
    const start = day + Math.floor((at - day) / length) * length
    return [start, start + length]
  }
  const yearLength = (at) => {
    const { year } = parts(at)
    return midnight(year + 1, 0, 1) - midnight(year, 0, 1)
  }
  return { offset, dayOf, interval, yearLength, year: (at) => parts(at).year }
}

// --- what a birth says of a counter

const ROLE_FLOWS = {
  generation: [['generation', ['energy.generation', 'energy.export']], ['consumption', ['energy.import']]],
  grid: [['import', ['energy.import']], ['export', ['energy.export']]],
  storage: [['charge', ['energy.charge', 'energy.import']], ['discharge', ['energy.discharge', 'energy.export']]],
  load: [['consumption', ['energy.consumption', 'energy.import', 'energy.total', 'energy']], ['feed', ['energy.export']]],
  water: [['volume', ['volume']], ['mass', ['mass']]],
  gas: [['volume', ['volume.norm', 'volume']], ['heat', ['energy']]],
  steam: [['mass', ['mass']], ['heat', ['energy']], ['volume', ['volume']]],
}
for (const role of ['direct', 'transformer', 'check']) ROLE_FLOWS[role] = ROLE_FLOWS.grid
const OTHER_FLOWS = [['heat', ['energy', 'energy.heat']], ['total', ['energy.total']], ['import', ['energy.import']],
  ['export', ['energy.export']], ['volume', ['volume.norm', 'volume']], ['mass', ['mass']]]
const AMOUNTS = { Wh: ['kWh', '0.001'], kWh: ['kWh', '1'], MWh: ['kWh', '1000'], GWh: ['kWh', '1000000'],
  varh: ['kvarh', '0.001'], kvarh: ['kvarh', '1'], Mvarh: ['kvarh', '1000'], VAh: ['kVAh', '0.001'], kVAh: ['kVAh', '1'],
  MVAh: ['kVAh', '1000'], J: ['GJ', '1e-9'], kJ: ['GJ', '1e-6'], MJ: ['GJ', '0.001'], GJ: ['GJ', '1'], m3: ['m3', '1'],
  l: ['m3', '0.001'], Nm3: ['Nm3', '1'], g: ['t', '1e-6'], kg: ['t', '0.001'], t: ['t', '1'], mAh: ['Ah', '0.001'],
  Ah: ['Ah', '1'], kAh: ['Ah', '1000'] }
const HEAT = { Wh: '3.6e-6', kWh: '0.0036', MWh: '3.6', GWh: '3600' }
const THERMAL = ['heat', 'cool', 'cold', 'steam', 'gas']
const DOMAINS = ['energy', 'volume', 'mass', 'power', 'charge', 'discharge']
const FLOATS = ['f16', 'f32', 'f64']

const amountUnit = (point, unit) => {
  if (unit in HEAT && point.split('.').some((word) => THERMAL.includes(word))) return ['GJ', parse(HEAT[unit])]
  const [name, factor] = AMOUNTS[unit] ?? [unit, '1']
  return [name, parse(factor)]
}
const longest = (point, parts) => parts // the longest of the parts that is the front of the point
  .filter((part) => !part || point === part || point.startsWith(`${part}.`)).sort((a, b) => b.length - a.length)[0]
const rest = (point, part) => { // energy.import of meter.ac.energy.import
  let words = (part ? point.slice(part.length + 1) : point).split('.')
  while (words.length && !DOMAINS.includes(words[0])) words = words.slice(1)
  return words.join('.')
}

const resolutionOf = (point, device) => { // what one count is worth
  const source = point.source ?? {}
  const one = (text, otherwise) => (text === undefined ? otherwise : parse(text))
  let found
  if (source.parts?.length) {
    found = source.parts.map((p) => one(p.scale, ratio(1n))).sort((a, b) => (over(a, b).above < over(a, b).below ? -1 : 1))[0]
  } else if ('key' in source) {
    found = one(source.scale, parse(['dlt645', 'cjt188'].includes(device.protocol) ? '0.01' : '0.001'))
  } else if (FLOATS.includes(source.type)) found = parse('0.001')
  else found = one(source.scale, ratio(1n))
  if (point.ratio !== 'apply') return found
  return times(found, times(parse(device.ratio?.ct ?? '1'), parse(device.ratio?.pt ?? '1')))
}
const placesOf = (point, resolution) => { // decimals that are kept
  if (FLOATS.includes(point.source?.type)) return 3
  const [, after = ''] = plain(resolution).split('.')
  return Math.min(9, after.length)
}

const columnsOf = (table, rule) => {
  const device = table.device ?? {}
  const roles = device.roles ?? {}
  const counters = table.points.filter((p) => p.kind === 'counter')
  const taken = new Map()
  for (const [part, role] of Object.entries(roles)) {
    const members = counters.map((p) => p.n).filter((n) => longest(n, Object.keys(roles)) === part)
    for (const [flow, names] of ROLE_FLOWS[role] ?? ROLE_FLOWS[role.split('.')[0]] ?? OTHER_FLOWS) {
      for (const name of names) {
        const mine = members.filter((n) => rest(n, part) === name && !taken.has(n)).sort((a, b) => a.length - b.length)
        if (mine.length) { taken.set(mine[0], flow); break }
      }
    }
  }
  for (const { n, kind } of table.points) {
    const part = longest(n, Object.keys(roles))
    const watched = part !== undefined && kind === 'gauge' && (/(^|\.)(power\.active|power\.generation|power\.consumption|power|flow)$/
      .test(n) || n.endsWith('battery.soc'))
    if (watched) throw new Unsupported(`${n}: a gauge that takes part in intervals`)
  }
  return counters.map((point) => {
    const resolution = resolutionOf(point, device)
    const places = placesOf(point, resolution)
    const scaled = times(resolution, ratio(10n ** BigInt(places)))
    const count = scaled.above / scaled.below || 1n
    const part = longest(point.n, Object.keys(roles)) ?? ''
    const role = roles[part] ?? ''
    const flow = taken.get(point.n) ?? ''
    const [unit, factor] = amountUnit(point.n, point.u ?? point.du ?? '')
    const modulus = point.bits ? 2n ** BigInt(point.bits) * count : point.digits ? 10n ** BigInt(point.digits) * count : 0n
    const hasDemand = ['grid', 'direct', 'load', 'transformer', 'check', 'storage'].includes(role.split('.')[0]) &&
      ['import', 'export', 'consumption', 'charge', 'discharge'].includes(flow) && unit === 'kWh'
    const period = ms(point.period ?? 0)
    return { point: point.n, part, role, flow, unit, factor, places, count, modulus: modulus < 2n ** 53n ? modulus : 0n,
      period, maxGap: Math.min(Math.max(rule.maxGap, 3 * period), DAY), window: hasDemand ? rule.demand : null }
  })
}

// --- one counter

const emptyCell = () => ({ amount: 0n, covered: 0, spread: 0, readings: 0, flags: 0, first: null, last: null,
  demand: null, fixed: null })

class Counter {
  constructor(column, cut, closed, verdicts) {
    Object.assign(this, { column, cut, closed, verdicts, has: false, held: false, carry: 0, levels: [], pace: 0, waiting: [] })
  }

  // A reading as it comes. What is no plain growth waits until those after it tell what happened.
  take(reading) {
    if (!this.held && this.isPlain(reading)) return this.accept(reading, reading.value - (this.has ? this.level : 0n), true, 0)
    this.held = true
    if (this.isRepeated(reading)) this.waiting.pop()
    this.waiting.push(reading)
    while (this.waiting.length) {
      const [now, ...later] = this.waiting
      if (this.isPlain(now)) this.accept(now, now.value - (this.has ? this.level : 0n), true, 0)
      else if (!this.judge(now, later)) return
      this.waiting.shift()
    }
    this.held = false
  }

  isRepeated({ value, range }) { // a night of zeros says no more than its first ones and its last
    if (this.waiting.length < 3 || (this.has && !range && value >= this.level)) return false
    return this.waiting.slice(-2).every((one) => one.range === range && (range || one.value === value))
  }

  isPlain({ time, value, range }) {
    if (range || value < 0n || (this.has && time <= this.time)) return false
    if (!this.has) return false // the first of all is looked at as well
    const rise = value - this.level
    const few = 10n * this.column.count
    if (rise <= few) return rise >= 0n || (value > 0n && -rise <= few)
    if (this.column.modulus && rise > this.column.modulus >> 1n) return false
    return this.levels.length > 3 && Number(rise) <= 10 * this.pace * (time - this.time)
  }

  judge(now, later) {
    if (now.range || (!this.has && now.value < 0n)) { // no counter gets there
      if (this.has) this.carry |= FLAG.glitch
      return true
    }
    if (!this.has) {
      this.accept(now, 0n, true, 0)
      return true
    }
    const event = this.verdicts.find((e) => this.isAbout(e, now))
    if (!event) { // growth, as it turned out: two readings after it, and three rises known beside its own
      if (now.value < this.level || !this.hasStayed(now, later)) return false // of a fall the event says when it is judged
      this.accept(now, now.value - this.level, true, 0)
      return true
    }
    if (event.kind === 'glitch') {
      this.carry |= FLAG.glitch
      return true
    }
    if (event.kind === 'rollover' ? !later.length : now.value >= this.level ? !this.hasStayed(now, later)
      : !this.livesOn(now, later)) return false
    const growth = event.kind === 'rollover' ? scaled(event.growth, this.column.places) : 0n
    this.accept(now, growth, event.kind === 'rollover', FLAG[event.kind])
    return true
  }

  isAbout(event, { time, value }) { // the same wrong value again, from the same good reading, has no event of its own
    if (event.t <= time && time <= event.until) return true
    const isSame = event.kind === 'glitch' && event.t < time && ms(event.before.t) === this.time
    return isSame && event.after !== null && scaled(event.after, this.column.places) === value
  }

  hasStayed(now, later) { // up there, and what is usual is known
    const isGlitch = ({ time }) => this.verdicts.some((e) => e.kind === 'glitch' && e.t <= time && time <= e.until)
    const all = [...this.levels, ...[now, ...later].filter((one) => !isGlitch(one)).map((one) => one.value)]
    const rises = all.filter((value, n) => n && value > all[n - 1] && all[n - 1] > 0n).length
    return (later.length >= 2 && rises - 1 >= 3) || this.isLate(now)
  }

  livesOn(now, later) { // from where it fell to
    return (later.length >= 3 && later.at(-1).value - now.value >= 3n * this.column.count) || this.isLate(now)
  }

  isLate(now) {
    return this.waiting.length >= 64 || this.waiting.at(-1).time - now.time > 26 * 3_600_000
  }

  accept({ time, value, seq, flags: own }, growth, covered, verdict) {
    const now = { time, value, seq }
    if (!this.has) {
      [this.start, this.end] = this.cut.interval(time)
      Object.assign(this, { has: true, cell: emptyCell(), total: 0n, run: [], time, level: value, levels: [value] })
      this.cell.flags = own | this.carry
      this.carry = own
      return this.touch(now)
    }
    let flags = own | verdict | this.carry
    this.carry = 0
    if (growth < 0n) { // a wobble: the level stays until it is passed
      flags |= FLAG.back_step
      growth = 0n
      value = this.level
    } else if (value !== this.level || !covered) {
      if (covered) this.pace += (Number(growth) / (time - this.time) - this.pace) / (this.levels.length > 1 ? 4 : 1)
      this.levels = covered ? [...this.levels, value].slice(-8) : [value]
    }
    this.move(time, growth, flags, covered, now)
    this.level = value
    this.carry = own
    this.touch(now)
  }

  touch(now) {
    this.cell.readings += 1
    this.cell.last = now
    if (!this.cell.first || now.time === this.start) this.cell.first = now
  }

  // A step to `to`, cell by cell: thousandths of a count, each partial sum rounded down.
  move(to, growth, flags, covered, now) {
    const dt = to - this.time
    const until = (at) => (growth * 1000n * BigInt(at - this.time)) / BigInt(dt)
    const isLong = dt > this.column.maxGap
    const was = this.cell.last
    if (isLong && covered) flags |= FLAG.spread
    if (this.column.window && (isLong || !covered)) this.run = []
    for (let [low, before] = [this.time, 0n]; ;) {
      const high = Math.min(to, this.end)
      this.cell.flags |= flags
      if (covered) {
        this.cell.amount += until(high) - before
        before = until(high)
        this.cell.covered += high - low
        if (isLong) this.cell.spread += high - low
        else if (this.column.window) this.slide(low, high, until)
      }
      if (to < this.end) break
      this.cell.last = now
      this.closed(this.start, this.end, this.cell);
      [this.start, this.end] = this.cut.interval(this.end)
      this.cell = { ...emptyCell(), first: was, last: was }
      low = high
      if (to === high) break
    }
    if (covered) this.total += growth * 1000n
    this.time = to
  }

  slide(low, high, until) {
    const [period, slip] = this.column.window
    for (let at = Math.floor(low / slip) * slip + slip; at <= high; at += slip) {
      this.run.push(this.total + until(at))
      if (this.run.length <= period / slip) continue
      this.run = this.run.slice(-period / slip - 1)
      const grown = this.run.at(-1) - this.run[0]
      if (this.cell.demand === null || grown > this.cell.demand) this.cell.demand = grown
      const stands = (at + this.cut.offset(at)) % period === 0
      if (stands && (this.cell.fixed === null || grown > this.cell.fixed)) this.cell.fixed = grown
    }
  }
}

const scaled = (text, places) => { // a reading in units of 10^-places, a half to the even one
  const value = times(parse(text), ratio(10n ** BigInt(places)))
  return halfEven(value.above, value.below)
}

// --- one stream

// Rows {pack, start, end, revision, first, last, cells} in the order in which the gateway wrote them; `pack` is the one
// that let them be written.
export const rowsOf = (packs, cut, rule) => {
  const rows = []
  const verdicts = packs.flatMap((p) => p.events ?? []).filter((e) => e.event === 'counter')
    .map((e) => ({ ...e, t: ms(e.t), until: ms(e.until ?? e.t) }))
  let [columns, counters, grace, next, hold, fresh, boot, end] = [null, [], 0, 0, 0, 0, '', 0]
  const revisions = new Map() // start -> corrections so far
  let cells = new Map() // start -> {end, late, cells by number}
  const put = (number) => (start, stop, cell) => {
    const row = cells.get(start) ?? cells.set(start, { start, end: stop, late: false, cells: new Map() }).get(start)
    const late = start < next
    row.late ||= late
    row.cells.set(number, late ? { ...cell, flags: cell.flags | FLAG.late } : cell)
  }
  const write = (pack, { start, end: stop, late, cells: all }) => {
    const seqs = [...all.values()].flatMap((c) => [c.first?.seq, c.last?.seq]).filter(Boolean)
    if (late) revisions.set(start, (revisions.get(start) ?? 0) + 1)
    rows.push({ pack, start, end: stop, revision: late ? revisions.get(start) : 0, cells: all,
      first: seqs.length ? Math.min(...seqs) : 0, last: seqs.length ? Math.max(...seqs) : 0 })
  }
  for (const pack of packs) {
    const [from, to] = [ms(pack.from), ms(pack.to)]
    if (end && from !== end) throw new Unsupported('the clock was set')
    if (pack.table) {
      const found = columnsOf(pack.table, rule)
      if (columns && JSON.stringify(pack.table) !== columns) throw new Unsupported('another point table')
      if (!columns) {
        columns = JSON.stringify(pack.table)
        counters = found.map((column, n) => new Counter(column, cut, put(n), verdicts.filter((e) => e.point === column.point)))
        grace = Math.min(Math.max(2 * Math.max(0, ...found.map((c) => c.period)), 20_000), 900_000)
      }
    }
    if (pack.boot !== boot) [boot, fresh] = [pack.boot, 3]
    if (fresh && from < to) { fresh -= 1; hold = to + grace }
    if (!next) [next] = cut.interval(from)
    end = to
    let base = 0
    for (const record of pack.e ?? []) {
      base = record.bt ?? base
      const counter = counters.find((c) => c.column.point === record.n)
      if (!counter || !('v' in record || 'x' in record)) continue
      const value = scaled(record.x ?? String(record.v), counter.column.places)
      counter.take({ time: ms(base) + ms(record.t ?? 0), value, seq: pack.seq, flags: QUALITY[record.q] ?? 0, range: record.q === 'range' })
    }
    const isOver = () => to >= hold && to >= cut.interval(next)[1] + grace
    for (const [start, row] of [...cells].sort((a, b) => a[0] - b[0])) {
      if (start >= next) continue
      cells.delete(start)
      write(pack.seq, row)
    }
    while (isOver()) {
      const [start, stop] = cut.interval(next)
      const row = cells.get(start) ?? { start, end: stop, late: false, cells: new Map() }
      cells.delete(start)
      for (const [n, c] of counters.entries()) {
        if (c.has && c.start === start && !row.cells.has(n)) row.cells.set(n, { ...c.cell })
      }
      write(pack.seq, row)
      next = stop
    }
  }
  return { columns: counters.map((c) => c.column), rows }
}

// --- as `meterhouse export --intervals-flat` writes them

const utc = (at) => new Date(at).toISOString().replace('.000Z', 'Z')
const seconds = (n) => plain(ratio(BigInt(n), 1000n))
const mark = (m, places) => (m ? [utc(m.time), plain(ratio(m.value, 10n ** BigInt(places))), String(m.seq)] : ['', '', ''])

export const flatRows = ({ columns, rows }, device) => {
  const out = []
  for (const [n, c] of columns.entries()) {
    const latest = new Map() // of the revisions of an interval the last one of which anything is known
    for (const row of rows) {
      const known = latest.get(row.start)
      if (!known || (row.cells.has(n) && (!known.cells.has(n) || row.revision >= known.revision))) latest.set(row.start, row)
    }
    for (const row of [...latest.values()].sort((a, b) => a.start - b.start)) {
      const cell = row.cells.get(n) ?? emptyCell()
      const amount = row.cells.has(n) ? plain(times(ratio(cell.amount, 10n ** BigInt(c.places + 3)), c.factor)) : ''
      const length = row.end - row.start
      const flags = cell.flags | (cell.covered < length ? FLAG.incomplete : 0)
      const power = (grown) => {
        if (grown === null) return ''
        const energy = times(ratio(grown, 10n ** BigInt(c.places + 3)), c.factor)
        return plain(decimals(times(energy, ratio(3_600_000n, BigInt(c.window[0]))), 6))
      }
      const [firstUtc, firstValue, firstPack] = mark(cell.first, c.places)
      const [lastUtc, lastValue, lastPack] = mark(cell.last, c.places)
      const isKnown = row.cells.has(n)
      out.push({ start_utc: utc(row.start), end_utc: utc(row.end), device, part: c.part, point: c.point, role: c.role,
        flow: c.flow, amount, unit: c.unit,
        completeness: plain(ratio(BigInt(Math.floor((Math.min(cell.covered, length) * 1e6) / length)), 1_000_000n)),
        covered_s: seconds(cell.covered), spread_s: seconds(cell.spread), readings: String(cell.readings),
        flags: String(flags), first_utc: firstUtc, first_value: firstValue, first_pack: firstPack, last_utc: lastUtc,
        last_value: lastValue, last_pack: lastPack, from_pack: isKnown && row.first ? String(row.first) : '',
        to_pack: isKnown && row.last ? String(row.last) : '', revision: isKnown ? String(row.revision) : '0',
        demand: power(cell.demand), demand_fixed: power(cell.fixed) })
    }
  }
  return out
}
