// Intervals and figures recomputed from an exported folder, with nothing of meterhouse: `check.mjs FOLDER --recompute`.
//
// Formulas, terms, inputs and factors come from definitions.json, the park's plan from FOLDER.plan.json (both are the
// TOML files as JSON), everything else from the packs. Figures and traces are compared member by member; balances and
// derived points are not recomputed here.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { FLAG, flatRows, makeCut, ms, rowsOf, Unsupported } from './counters.mjs'
import { compare, isZero, joined, largest, minus, ONE, over, parse, plain, plus, ratio, significant, smallest, sum,
  times, unit, whole, written, ZERO } from './exact.mjs'

const FLOWS = { import: 'kWh', export: 'kWh', energy: 'kWh', charge: 'kWh', discharge: 'kWh', volume: 'm3', normal: 'Nm3',
  mass: 't', demand: 'kW' }
const FLAW = FLAG.spread | FLAG.estimated | FLAG.suspect | FLAG.power
const byText = (a, b) => (a < b ? -1 : a > b ? 1 : 0)

// --- formulas: a tree of numbers {value, dimension}, names {name} and operations {sign, parts}

const TOKEN = /\s*(?:(\d+(?:\.\d+)?)(?:\s*\[([^\]]*)\])?|([A-Za-z_][\w.*]*(?<![.]))|([-+*/(),]))/y

const readFormula = (text) => {
  const tokens = []
  for (TOKEN.lastIndex = 0; text.slice(TOKEN.lastIndex).trim();) {
    const found = TOKEN.exec(text)
    if (!found) throw new Error(`formula ${text}`)
    tokens.push({ number: found[1], unit: found[2], name: found[3], sign: found[4] })
  }
  const isSign = (...signs) => signs.includes(tokens[0]?.sign)
  const take = () => tokens.shift()
  const chain = (below, ...signs) => {
    let left = below()
    while (isSign(...signs)) left = { sign: take().sign, parts: [left, below()] }
    return left
  }
  const sums = () => chain(products, '+', '-')
  const products = () => chain(atom, '*', '/')
  const bracket = () => { const inside = sums(); take(); return inside }
  const atom = () => {
    const token = take()
    if (token.number !== undefined) {
      const value = parse(token.number)
      if (token.unit === undefined) return { value, dimension: isZero(value) ? null : {} }
      const { factor, dimension } = unit(token.unit)
      return { value: times(value, factor), dimension }
    }
    if (token.sign === '-') return { sign: '-', parts: [{ value: ZERO, dimension: null }, atom()] }
    if (token.sign === '(') return bracket()
    if (!isSign('(')) return { name: token.name }
    take()
    const parts = [sums()]
    while (isSign(',')) { take(); parts.push(sums()) }
    take()
    if (token.name === 'positive') return { sign: 'max', parts: [parts[0], { value: ZERO, dimension: null }] }
    return { sign: token.name, parts }
  }
  return sums()
}

// A formula that divides by 0 has no value.
class DividedByZero extends Error {}
const divided = (a, b) => {
  if (isZero(b)) throw new DividedByZero()
  return over(a, b)
}
const DO = { '+': plus, '-': minus, '*': times, '/': divided, min: smallest, max: largest }
const value = (tree, of) => {
  if (tree.value) return tree.value
  if (tree.name) return of(tree.name)
  return DO[tree.sign](...tree.parts.map((part) => value(part, of)))
}
const valueOrNone = (compute) => {
  try {
    return compute()
  } catch (error) {
    if (error instanceof DividedByZero) return undefined
    throw error
  }
}
const names = (tree) => (tree.name ? [tree.name] : (tree.parts ?? []).flatMap(names))

// One spelling for one tree: what `formula.hash` is made of.
const bases = (dimension) => Object.entries(dimension).sort(([a], [b]) => byText(a, b)).map(([b, n]) => `('${b}', ${n})`)
const show = (tree) => {
  if (tree.name) return tree.name
  if (tree.sign) return `(${tree.sign} ${tree.parts.map(show).join(' ')})`
  const { above, below } = tree.value
  const number = below === 1n ? `${above}` : `${above}/${below}`
  const found = bases(tree.dimension ?? {})
  return found.length ? `${number}[(${found.join(', ')}${found.length === 1 ? ',' : ''})]` : number
}

// --- a plan: sets, factors, inputs, terms, indicators

const USUAL = ['kWh', 'tCO2', 'tce', 'm3', 'Nm3', 't', 'm2', 'kW', 'h'].map(unit)
const sameDimension = (a, b) => JSON.stringify(bases(a)) === JSON.stringify(bases(b))

export const makePlan = (text, { sets, factors }) => {
  const chosen = []
  const choose = (id) => {
    if (chosen.some((one) => one.id === id)) return
    if (!(id in sets)) throw new Unsupported(`set ${id}`)
    for (const below of sets[id].uses ?? []) choose(below)
    if (!chosen.some((one) => one.id === id)) chosen.push(sets[id])
  }
  for (const id of text.sets ?? ['plain']) choose(id)
  const all = (key) => [...chosen, text].flatMap((one) => one[key] ?? [])
  const plan = { absent: text.absent ?? {}, pins: Object.assign({}, ...chosen.map((one) => one.pin ?? {}), text.pin ?? {}) }
  plan.factors = new Map([...factors, ...(text.factor ?? [])].map((one) => [one.id, one]))
  plan.inputs = new Map(all('input').map((one) => {
    const said = text.assume?.[one.name] ?? one.assume
    const made = unit(one.unit)
    return [one.name, { ...one, unit: made, assume: said === undefined ? null : times(parse(said), made.factor) }]
  }))
  plan.terms = new Map(all('term').map((one) => [one.name, { ...one, unit: unit(one.unit), tree: readFormula(one.formula) }]))

  const dimension = (tree) => { // null: the bare 0, which fits everything
    if (tree.value) return tree.dimension
    if (tree.sign) {
      const found = tree.parts.map(dimension)
      if ('*/'.includes(tree.sign)) return joined(found[0] ?? {}, found[1] ?? {}, tree.sign === '*' ? 1 : -1)
      return found.find((one) => one !== null) ?? null
    }
    const { name } = tree
    const known = plan.terms.get(name) ?? plan.inputs.get(name)
    if (known) return known.unit.dimension
    if (name === 'period.duration') return { s: 1 }
    if (name.startsWith('factor.')) return unit(plan.factors.get(name.slice(7)).unit).dimension
    return unit(FLOWS[name.split('.').at(-1)]).dimension
  }
  const shown = (tree) => {
    const known = tree.name && (plan.terms.get(tree.name) ?? plan.inputs.get(tree.name))
    return known ? known.unit : USUAL.find((one) => sameDimension(one.dimension, dimension(tree) ?? {})) ?? unit('')
  }
  plan.indicators = new Map()
  for (const one of [...chosen, { id: 'site', official: '', indicator: text.indicator }]) {
    for (const item of one.indicator ?? []) {
      const name = `${one.id}/${item.id}`
      const made = { ...item, name, official: one.official ?? '', unit: unit(item.unit), above: readFormula(item.numerator),
        below: item.denominator ? readFormula(item.denominator) : null, threshold: text.threshold?.[name] ?? item.threshold ?? [] }
      const [front, back] = item.unit.split('/')
      made.units = !made.below ? [made.unit] : back ? [unit(front), unit(back)] : [shown(made.above), shown(made.below)]
      plan.indicators.set(name, made)
    }
  }
  return plan
}

const termsBelow = (plan, trees) => { // in the order in which they are met
  const found = new Set()
  const walk = (tree) => {
    for (const name of names(tree)) {
      if (!plan.terms.has(name) || found.has(name)) continue
      found.add(name)
      walk(plan.terms.get(name).tree)
    }
  }
  trees.forEach(walk)
  return [...found]
}

export const formulaHash = (plan, one) => {
  const trees = [one.above, one.below].filter(Boolean)
  const lines = [[one.unit, ...one.units].map((u) => u.text).join(' '), ...trees.map(show)]
  for (const name of termsBelow(plan, trees).sort(byText)) lines.push(`${name} = ${show(plan.terms.get(name).tree)}`)
  return createHash('sha256').update(lines.join('\n')).digest('base64url')
}

const leaves = (plan, one) => {
  const found = new Set()
  const walk = (tree) => {
    for (const name of names(tree)) {
      if (plan.terms.has(name)) walk(plan.terms.get(name).tree)
      else found.add(name)
    }
  }
  walk(one.above)
  if (one.below) walk(one.below)
  return [...found]
}

const entryOf = (plan, id, year) => {
  const entries = [...plan.factors.get(id).entry].sort((a, b) => a.year - b.year)
  if (id in plan.pins) return entries.find((e) => e.year === plan.pins[id])
  return entries.filter((e) => e.year <= year).at(-1) ?? entries[0]
}

// --- amounts by role and flow

// What was known at a moment. seen: by stream the pack up to which intervals were written; configured: streams, those of
// which nothing was written yet among them; late: by such a stream from when on its intervals were not written.
const momentOf = (streams, seen, configured, cut) => {
  const late = new Map()
  for (const stream of configured) {
    const { rows, from } = streams.get(stream)
    const ends = rows.filter((r) => r.pack <= (seen.get(stream) ?? 0) && !r.revision).map((r) => r.end)
    late.set(stream, ends.length ? ends.reduce((x, y) => Math.max(x, y)) : cut.interval(from)[0])
  }
  return { seen: new Map(seen), late }
}

// The sums of one interval: of each (role, flow, unit) amount, flawed part, share that is known, flags, where from, and
// the meters that were configured then. newest: end of the newest row of the day.
const sumsOf = (streams, { seen, late }, start, end, newest) => {
  const found = new Map()
  for (const [stream, { columns, rows }] of streams) {
    const mine = rows.filter((r) => r.pack <= (seen.get(stream) ?? 0) && r.start === start)
    if (!mine.length && !(late.get(stream) <= start)) continue
    for (const [n, c] of columns.entries()) {
      if (!c.role || !c.flow) continue
      const key = [c.role, c.flow, c.unit].join('\n')
      const into = found.get(key) ?? found.set(key, { key, role: c.role, flow: c.flow, unit: c.unit, amount: ZERO, flawed: ZERO,
        covered: 0, flags: 0, sources: [], isKnown: false, meters: new Set() }).get(key)
      into.meters.add(`${stream}\n${c.point}`)
      const row = mine.filter((r) => r.cells.has(n)).sort((x, y) => x.revision - y.revision).at(-1)
      if (!row) continue
      const cell = row.cells.get(n)
      const amount = times(ratio(cell.amount, 10n ** BigInt(c.places + 3)), c.factor)
      into.isKnown = true
      into.amount = plus(into.amount, amount)
      if (cell.flags & FLAW) into.flawed = plus(into.flawed, amount)
      into.covered += cell.covered
      into.flags |= cell.flags
      into.sources.push({ stream, point: c.point, first: row.first, last: row.last })
    }
  }
  const time = Math.min(end, newest) - start
  return [...found.values()].filter((one) => one.isKnown || time > 0).sort((x, y) => byText(x.key, y.key)).map((one) => {
    one.sources.sort((x, y) => byText(x.stream, y.stream) || byText(x.point, y.point))
    const due = Math.max(time, 1) * one.meters.size
    const share = one.isKnown ? Math.floor((Math.min(one.covered, due) * 1e6) / due) : 0
    const isWhole = one.isKnown && one.covered >= due
    return { ...one, start, end, share: ratio(BigInt(share), 1_000_000n), flags: one.flags | (isWhole ? 0 : FLAG.incomplete) }
  })
}

const widened = (one, other) => ({ ...one, last: Math.max(one.last, other.last),
  first: Math.min(...[one.first, other.first].filter(Boolean), one.first || other.first || 0) })

// The sums of all intervals of a period, one interval after the other, of days of which something is known.
const intervalSums = function* (streams, moment, cut, from, until) {
  const isHere = (stream, row, start, end) => row.pack <= (moment.seen.get(stream) ?? 0) && start <= row.start && row.end <= end
  const days = new Set([...streams.values()].flatMap(({ rows }) => rows.map((row) => cut.dayOf(row.start)[0])))
  for (const day of [...days].sort((x, y) => x - y)) {
    const [start, end] = [Math.max(day, from), Math.min(cut.dayOf(day)[1], until)]
    let newest = start
    for (const [stream, { rows }] of streams) {
      for (const row of rows) if (isHere(stream, row, start, end)) newest = Math.max(newest, row.end)
    }
    for (let [at, to] = cut.interval(start); to <= end; [at, to] = cut.interval(to)) {
      yield sumsOf(streams, moment, at, to, newest)
    }
  }
}

// `load.*` and `load.press.*` for `load.press`.
const families = (role) => role.split('.').map((_, at, parts) => `${parts.slice(0, at + 1).join('.')}.*`)

// The mean power of an interval, of each role and of each family of roles.
const peaks = (found) => {
  const windows = new Map()
  for (const one of found) {
    if (!['import', 'charge', 'consumption', 'heat'].includes(one.flow) || one.unit !== 'kWh') continue
    for (const role of [one.role, ...families(one.role)]) {
      const key = `${role}\n${one.flow}`
      if (!windows.has(key)) windows.set(key, { role, parts: [] })
      windows.get(key).parts.push(one)
    }
  }
  const tops = new Map()
  for (const { role, parts } of windows.values()) {
    if (parts.some((one) => one.flags & (FLAG.incomplete | FLAG.spread))) continue
    const amount = sum(parts.map((one) => one.amount))
    const power = significant(over(times(amount, whole(3_600_000)), ratio(BigInt(parts[0].end - parts[0].start))), 28)
    if (tops.has(role) && compare(power, tops.get(role).power) <= 0) continue
    tops.set(role, { power, sources: parts.flatMap((one) => one.sources) })
  }
  return tops
}

// All intervals of a period added up, and the highest window of each role.
const supplyOf = (streams, moment, cut, from, until) => {
  const sums = new Map()
  const demands = new Map()
  for (const found of intervalSums(streams, moment, cut, from, until)) {
    for (const one of found) {
      const length = BigInt(one.end - one.start)
      const before = sums.get(one.key)
      const known = times(one.share, ratio(length))
      if (!before) sums.set(one.key, { ...one, known, sources: [...one.sources], meters: new Set(one.meters) })
      else {
        before.amount = plus(before.amount, one.amount)
        before.flawed = plus(before.flawed, one.flawed)
        before.known = plus(before.known, known)
        for (const meter of one.meters) before.meters.add(meter)
        for (const source of one.sources) {
          const at = before.sources.findIndex((s) => s.stream === source.stream && s.point === source.point)
          if (at < 0) before.sources.push(source)
          else before.sources[at] = widened(before.sources[at], source)
        }
        before.sources.sort((a, b) => byText(a.stream, b.stream) || byText(a.point, b.point))
      }
    }
    for (const [role, top] of peaks(found)) {
      if (!demands.has(role) || compare(top.power, demands.get(role).power) > 0) demands.set(role, top)
    }
  }
  const elapsed = whole(Math.max(until - from, 1))
  const all = [...sums.values()].map((one) => ({ ...one, share: smallest(significant(over(one.known, elapsed), 28), ONE) }))
  return { all, demands }
}

const ENERGY = { generation: ['generation'], load: ['consumption'] }
const isOf = (role, name) => role === name || families(role).includes(name)
const fits = (one, role, flow) => {
  if (!isOf(one.role, role)) return false
  if (flow === 'energy') return (ENERGY[one.role.split('.')[0]] ?? ['heat', 'total', 'import']).includes(one.flow)
  if (flow === 'volume' || flow === 'normal') return one.flow === 'volume' && one.unit === FLOWS[flow]
  return one.flow === flow
}
const mean = (all) => over(sum(all), whole(all.length))

// Gives null where no meter has the role, and a share of 0 where one of the roles that fit was never heard of.
const metered = (name, { all, demands }) => {
  const at = name.lastIndexOf('.')
  const [role, flow] = [name.slice(0, at), name.slice(at + 1)]
  const made = { n: name, basis: 'metered', unit: unit(FLOWS[flow]), value: ZERO, share: ZERO, estimated: ZERO, from: [] }
  if (!all.length) return made
  if (flow === 'demand') {
    const mine = all.filter((one) => isOf(one.role, role) && one.unit === 'kWh')
    if (!mine.length) return null
    const top = demands.get(role)
    if (!top) return made
    return { ...made, value: times(top.power, made.unit.factor), share: mean(mine.map((one) => one.share)), from: top.sources }
  }
  const mine = all.filter((one) => fits(one, role, flow))
  if (!mine.length) return null
  const heard = new Set(mine.filter((one) => !isZero(one.share)).map((one) => one.role))
  if (mine.some((one) => !heard.has(one.role))) return made
  const silent = mine.flatMap((one) => {
    const known = new Set(one.sources.map((source) => `${source.stream}\n${source.point}`))
    return [...one.meters].filter((meter) => !known.has(meter))
  })
  const base = (one, key) => times(one[key], unit(one.unit).factor)
  const amount = sum(mine.map((one) => base(one, 'amount')))
  const flawed = sum(mine.map((one) => base(one, 'flawed')))
  const estimated = isZero(amount) ? ZERO : over(flawed, amount)
  return { ...made, value: amount, share: mean(mine.map((one) => one.share)), from: mine.flatMap((one) => one.sources),
    silent: [...new Set(silent)].sort(byText).map((meter) => ({ stream: meter.split('\n')[0], point: meter.split('\n')[1] })),
    unit: flow === 'energy' && mine[0].unit === 'GJ' ? unit('GJ') : made.unit,
    estimated: compare(estimated, ZERO) < 0 ? minus(ZERO, estimated) : estimated }
}

const declared = (input, entries, period) => {
  const replaced = new Set(entries.map((e) => e.replaces).filter(Boolean))
  const mine = entries.filter((e) => e.n === input.name && !replaced.has(e.id) && e.v)
  const base = (e) => times(parse(e.v), unit(e.u).factor)
  const made = { n: input.name, basis: 'declared', unit: input.unit, estimated: ZERO }
  if (input.kind === 'state') {
    const last = mine.filter((e) => ms(e.from) < period.to).sort((a, b) => a.from - b.from || a.at - b.at).at(-1)
    return last ? { ...made, value: base(last), entries: [last.id] } : null
  }
  let [inside, shared, used] = [ZERO, ZERO, []]
  for (const e of mine.filter((one) => one.to !== undefined)) {
    const [from, to] = [ms(e.from), ms(e.to)]
    const overlap = Math.min(to, period.to) - Math.max(from, period.from)
    if (overlap <= 0) continue
    if (overlap === to - from) inside = plus(inside, base(e))
    else shared = plus(shared, times(base(e), ratio(BigInt(overlap), BigInt(to - from))))
    used.push(e.id)
  }
  if (!used.length) return null
  const amount = plus(inside, shared)
  return { ...made, value: amount, entries: used, estimated: isZero(amount) ? ZERO : over(shared, amount) }
}

// --- one figure

const BOUNDS = { at_most: (c) => c <= 0, at_least: (c) => c >= 0, above: (c) => c > 0, below: (c) => c < 0 }

const makeFigure = (plan, one, said, supply, entries, cut) => {
  const when = Object.fromEntries(['from', 'to', 'until'].map((key) => [key, ms(said.period[key])]))
  const elapsed = Math.max(Math.min(when.until, when.to) - when.from, 1)
  const amounts = new Map()
  const amountOf = (name) => {
    if (amounts.has(name)) return amounts.get(name)
    const input = plan.inputs.get(name)
    let found
    if (input) {
      found = declared(input, entries, when)
      if (!found && input.assume) found = { n: name, basis: 'assumed', unit: input.unit, value: input.assume, note: 'nothing was declared' }
    } else {
      found = metered(name, supply)
      const [role, made] = [name.slice(0, name.lastIndexOf('.')), { n: name, unit: unit(FLOWS[name.split('.').at(-1)]), value: ZERO }]
      if (!found && role in plan.absent) found = { ...made, basis: 'absent', note: plan.absent[role] }
      if (!found) found = { ...made, basis: 'assumed', note: 'no meter has this role' }
      if (found.basis === 'metered' && isZero(found.share)) found = null // nothing is known of it: that is no zero
    }
    amounts.set(name, found)
    return found
  }
  const factors = new Map()
  const of = (name) => {
    if (plan.terms.has(name)) return value(plan.terms.get(name).tree, of)
    if (name === 'period.duration') return ratio(BigInt(elapsed), 1000n)
    if (!name.startsWith('factor.')) return amountOf(name).value
    const id = name.slice(7)
    const entry = entryOf(plan, id, cut.year(when.from))
    const { text, factor } = unit(plan.factors.get(id).unit)
    factors.set(id, { id: `${id}@${entry.year}`, u: text, v: entry.value, status: entry.status, source: entry.source,
      ...(entry.published && { published: entry.published }) })
    return times(parse(entry.value), factor)
  }
  const asked = leaves(plan, one).filter((name) => !/^(factor|period)\./.test(name))
  const inputs = asked.map(amountOf).filter(Boolean)
  const missing = asked.filter((name) => !amountOf(name))
  let above, below, result
  if (!missing.length) {
    above = valueOrNone(() => value(one.above, of))
    if (one.below && above) below = valueOrNone(() => value(one.below, of))
    if (above && !one.below) result = above
    if (above && below && !isZero(below)) result = over(above, below)
  }
  const holds = ({ where }) => {
    if (!where) return true
    const term = missing.length ? undefined : valueOrNone(() => of(where.term))
    if (!term) return null
    const scaled = times(term, ratio(BigInt(cut.yearLength(when.from)), BigInt(elapsed)))
    return compare(scaled, times(parse(where.at_least), unit(where.unit).factor)) >= 0
  }
  let threshold
  for (const bound of one.threshold) {
    const held = holds(bound)
    if (held) threshold = bound
    if (held || held === null) break
  }
  const kind = threshold && Object.keys(BOUNDS).find((key) => key in threshold)
  const known = inputs.filter((input) => input.basis === 'metered')
  const lacksMeter = missing.some((name) => !plan.inputs.has(name))
  const shown = (number, made) => ({ u: made.text, v: written(over(number, made.factor)) })
  const verdict = result === undefined ? 'no data' : !threshold ? 'no threshold'
    : BOUNDS[kind](compare(result, times(parse(threshold[kind]), one.unit.factor))) ? 'met' : 'not met'
  return {
    kind: 'figure', id: one.name, period: said.period, config: said.config, u: one.unit.text, verdict,
    ...(result !== undefined && { v: written(over(result, one.unit.factor)) }),
    ...(above !== undefined && { numerator: shown(above, one.units[0]) }),
    ...(below !== undefined && { denominator: shown(below, one.units[1]) }),
    ...(threshold && { threshold: { [kind]: String(threshold[kind]) } }),
    ...(missing.length && { missing }),
    formula: { hash: formulaHash(plan, one), numerator: one.numerator.split(/\s+/).join(' ').trim(),
      ...(one.below && { denominator: one.denominator.split(/\s+/).join(' ').trim() }) },
    completeness: written(lacksMeter ? ZERO : known.length ? smallest(...known.map((input) => input.share)) : ONE),
    estimated: written(known.length ? largest(...known.map((input) => input.estimated)) : ZERO),
    official: said.period.kind === one.official && when.until >= when.to,
    factors: [...factors.keys()].sort(byText).map((id) => factors.get(id)),
    inputs: inputs.map(({ n, basis, value: number, unit: made, share, estimated, from, silent, entries: used, note }) => ({
      n, basis, ...shown(number, made),
      ...(basis === 'metered' && { completeness: written(share), estimated: written(estimated), from }),
      ...(silent?.length && { silent }),
      ...(used && { entries: used }),
      ...(used && !isZero(estimated) && { estimated: written(estimated) }),
      ...(note && { note }),
    })),
  }
}

// --- the green power of a day, hour by hour

const SLOTS = { 'direct import': 'direct', 'grid import': 'taken', 'grid export': 'given', 'storage charge': 'charge',
  'storage discharge': 'discharge' }
const slotOf = ({ role, flow }) => (/^generation\.(pv|wind|hydro)$/.test(role) && flow === 'generation' ? 'generation'
  : SLOTS[`${role} ${flow}`])

const makeTrace = (said, streams, moment, cut) => {
  const hours = new Map()
  for (const found of intervalSums(streams, moment, cut, ms(said.period.from), ms(said.period.until))) {
    for (const one of found.filter((s) => s.unit === 'kWh' && slotOf(s))) {
      const at = one.start + cut.offset(one.start)
      const from = one.start - (at % 3_600_000)
      const hour = hours.get(from) ?? hours.set(from, { complete: true, unheard: new Map() }).get(from)
      const name = `${one.role}.${one.flow}`
      hour.unheard.set(name, (hour.unheard.get(name) ?? true) && isZero(one.share))
      hour[slotOf(one)] = plus(hour[slotOf(one)] ?? ZERO, one.amount)
      if (compare(one.share, ONE) !== 0 || one.flags & FLAW) hour.complete = false
    }
  }
  const totals = { consumption: ZERO, own: ZERO, direct: ZERO, storage: ZERO, grid: ZERO }
  const unheard = ({ unheard: names }) => [...names].filter(([, nothing]) => nothing).map(([name]) => name).sort(byText)
  const ordered = [...hours].sort((a, b) => a[0] - b[0])
  const missing = ordered.map(([from, hour]) => ({ from: from / 1000, to: from / 1000 + 3600, n: unheard(hour) })).filter((one) => one.n.length)
  const made = ordered.filter(([, hour]) => !unheard(hour).length).map(([from, hour]) => {
    const { generation = ZERO, direct = ZERO, taken = ZERO, given = ZERO, charge = ZERO, discharge = ZERO } = hour
    const consumption = largest(minus(minus(sum([generation, direct, taken, discharge]), given), charge), ZERO)
    const exported = smallest(given, generation)
    const own = smallest(minus(generation, exported), consumption)
    const line = smallest(direct, minus(consumption, own))
    const storage = smallest(discharge, minus(minus(consumption, own), line))
    const parts = { consumption, own, direct: line, storage, grid: minus(minus(minus(consumption, own), line), storage) }
    for (const [name, amount] of Object.entries(parts)) totals[name] = plus(totals[name], amount)
    const shown = Object.fromEntries(Object.entries({ ...parts, exported }).map(([name, amount]) => [name, written(amount)]))
    return { from: from / 1000, to: from / 1000 + 3600, complete: hour.complete, ...shown }
  })
  const green = plus(totals.own, totals.direct)
  return { kind: 'trace', id: 'green/hour', period: said.period, u: 'kWh', hours: made,
    ...Object.fromEntries(Object.entries(totals).map(([name, amount]) => [name, written(amount)])),
    at_the_time: isZero(totals.consumption) ? '' : written(significant(over(green, totals.consumption), 28)),
    incomplete: made.filter((hour) => !hour.complete).length + missing.length, ...(missing.length && { missing }) }
}

const differences = (said, made, place = '') => {
  if (said !== null && made !== null && typeof said === 'object' && typeof made === 'object') {
    const keys = [...new Set([...Object.keys(said), ...Object.keys(made)])]
    return keys.flatMap((key) => differences(said[key], made[key], `${place} ${key}`.trim()))
  }
  return said === made ? [] : [`${place}: signed ${JSON.stringify(said)}, here ${JSON.stringify(made)}`]
}

// --- a folder

const readCsv = (file) => {
  const [head, ...lines] = readFileSync(file, 'utf8').trim().split('\n').map((line) => line.split(','))
  return lines.map((cells) => Object.fromEntries(head.map((name, n) => [name, cells[n]])))
}

// objects: all packs of the folder, checked before. Gives lines for people, and how many agreed, differed, were left.
export const recompute = (folder, objects) => {
  const path = folder.replace(/\/+$/, '')
  const packs = objects.filter((o) => typeof o.stream === 'string').sort((a, b) => a.seq - b.seq)
  const results = packs.filter((p) => p.stream.endsWith('/_indicators'))
  const birth = results.find((p) => p.table)?.table
  const found = { lines: [], intervals: [0, 0], figures: [0, 0], others: 0 }
  const judge = (count, name, wrong) => {
    count[wrong.length ? 1 : 0] += 1
    if (wrong.length) found.lines.push(`${name}: ${wrong[0]}`)
  }
  const { timezone, length, max_gap: maxGap, demand } = birth.interval
  const cut = makeCut(timezone, ms(length))
  const rule = { maxGap: ms(maxGap), demand: demand.map(ms) }
  const streams = new Map()
  for (const pack of packs) {
    if (!pack.stream.split('/')[2].startsWith('_')) streams.set(pack.stream, [...(streams.get(pack.stream) ?? []), pack])
  }
  for (const [stream, mine] of streams) streams.set(stream, { ...rowsOf(mine, cut, rule), from: ms(mine[0].from) })
  if (existsSync(`${path}.csv`)) {
    const key = (row) => [row.device, row.point, row.start_utc].join(' ')
    const made = new Map([...streams].flatMap(([s, rows]) => flatRows(rows, s.split('/')[2])).map((row) => [key(row), row]))
    const kept = readCsv(`${path}.csv`)
    for (const row of kept) {
      const here = made.get(key(row)) ?? {}
      const signed = Object.fromEntries(Object.keys(here).map((name) => [name, row[name]]))
      judge(found.intervals, `interval ${key(row)}`, made.has(key(row)) ? differences(signed, here) : ['is not here'])
    }
    if (made.size !== kept.length) judge(found.intervals, 'intervals', [`${kept.length} are listed, here ${made.size}`])
  }
  const definitions = JSON.parse(readFileSync(join(dirname(path), 'definitions.json'), 'utf8'))
  const text = birth.plan ? JSON.parse(readFileSync(`${path}.plan.json`, 'utf8')) : {}
  const plan = makePlan(text, definitions)
  const entries = []
  const seen = new Map()
  const supplies = new Map() // by period, and by what was known
  const groups = [] // the results of one moment may lie in several packs, and only one of these packs has `known`
  for (const result of results.flatMap((pack) => pack.results ?? [])) {
    const until = result.period?.until
    const isEntry = result.kind === 'declaration' || result.kind === 'restated'
    if (isEntry && !entries.some((e) => e.id === result.id)) entries.push(result)
    if (until === undefined) continue
    if (groups.at(-1)?.until !== until) groups.push({ until, group: [] })
    groups.at(-1).group.push(result)
    groups.at(-1).entered = entries.length
  }
  for (const { until, group, entered } of groups) {
    const listed = group.filter((r) => r.kind === 'known').flatMap((r) => r.packs)
    for (const p of listed) seen.set(p.stream, p.last)
    const moment = momentOf(streams, seen, listed.map((p) => p.stream), cut)
    const known = entries.slice(0, entered).filter((e) => e.at < until)
    for (const said of group) {
      if (said.kind === 'trace') {
        judge(found.figures, `${said.id} of ${said.period.label}`, differences(said, makeTrace(said, streams, moment, cut)))
        continue
      }
      if (said.kind !== 'figure') {
        found.others += said.kind === 'known' ? 0 : 1
        continue
      }
      const one = plan.indicators.get(said.id)
      const stretch = `${said.period.from} ${until} ${[...seen]} ${[...moment.late]}`
      if (!supplies.has(stretch)) supplies.set(stretch, supplyOf(streams, moment, cut, ms(said.period.from), ms(until)))
      const supply = supplies.get(stretch)
      const wrong = one ? differences(said, makeFigure(plan, one, said, supply, known, cut)) : ['no such figure in this plan']
      judge(found.figures, `${said.id} of ${said.period.label}`, wrong)
    }
  }
  return found
}
