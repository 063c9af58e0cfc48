// Exact numbers and units: quotients of BigInt, and what pack-format.md and indicators.md say about writing them down.

const abs = (n) => (n < 0n ? -n : n)
const gcd = (a, b) => { while (b) [a, b] = [b, a % b]; return a }

export const ratio = (above, below = 1n) => {
  if (below < 0n) [above, below] = [-above, -below]
  const common = gcd(abs(above), below) || 1n
  return { above: above / common, below: below / common }
}
export const ZERO = ratio(0n)
export const ONE = ratio(1n)
export const whole = (n) => ratio(BigInt(n))
export const plus = (a, b) => ratio(a.above * b.below + b.above * a.below, a.below * b.below)
export const minus = (a, b) => ratio(a.above * b.below - b.above * a.below, a.below * b.below)
export const times = (a, b) => ratio(a.above * b.above, a.below * b.below)
export const over = (a, b) => ratio(a.above * b.below, a.below * b.above)
export const compare = (a, b) => {
  const left = a.above * b.below
  const right = b.above * a.below
  return left < right ? -1 : left > right ? 1 : 0
}
export const smallest = (...all) => all.reduce((a, b) => (compare(b, a) < 0 ? b : a))
export const largest = (...all) => all.reduce((a, b) => (compare(b, a) > 0 ? b : a))
export const sum = (all) => all.reduce(plus, ZERO)
export const isZero = (a) => a.above === 0n

// A decimal as text, also with an exponent, or a quotient such as 44/12.
export const parse = (text) => {
  const [front, back] = String(text).split('/')
  const [, sign, digits, after = '', power = '0'] = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(front)
  const up = Number(power) - after.length
  const number = BigInt(`${sign}${digits}${after}`)
  const value = up >= 0 ? ratio(number * 10n ** BigInt(up)) : ratio(number, 10n ** BigInt(-up))
  return back === undefined ? value : over(value, ratio(BigInt(back)))
}

// The whole number nearest to a / b, a half to the even one.
export const halfEven = (above, below) => {
  const down = above / below - (above % below < 0n ? 1n : 0n)
  const rest = 2n * (above - down * below)
  if (rest > below) return down + 1n
  return rest === below && down % 2n !== 0n ? down + 1n : down
}

const power = (n) => (n >= 0 ? ratio(10n ** BigInt(n)) : ratio(1n, 10n ** BigInt(-n)))

// Rounded to so many significant digits, half to even.
export const significant = (value, digits) => {
  if (isZero(value)) return ZERO
  let exponent = abs(value.above).toString().length - value.below.toString().length - digits
  for (;;) {
    const scaled = over(value, power(exponent))
    const found = halfEven(scaled.above, scaled.below)
    const length = abs(found).toString().length
    if (length === digits) return times(ratio(found), power(exponent))
    if (length > digits && abs(found) === 10n ** BigInt(digits)) return times(ratio(found), power(exponent))
    exponent += length > digits ? 1 : -1
  }
}

// Rounded to so many decimals, half to even.
export const decimals = (value, places) => {
  const scaled = times(value, power(places))
  return times(ratio(halfEven(scaled.above, scaled.below)), power(-places))
}

// Plain digits of a number that has an end as a decimal: no exponent, no zeros at the end.
export const plain = (value) => {
  let [number, places] = [value.above, 0]
  for (let rest = value.below; rest !== 1n; places += 1) {
    if (places > 400) throw new Error('no decimal')
    number *= 10n
    const common = gcd(abs(number), rest)
    number /= common
    rest /= common
  }
  const text = abs(number).toString().padStart(places + 1, '0')
  const front = text.slice(0, text.length - places)
  const back = text.slice(text.length - places).replace(/0+$/, '')
  return `${value.above < 0n ? '-' : ''}${front}${back && `.${back}`}`
}

// What a figure writes: twelve significant digits.
export const written = (value) => plain(significant(value, 12))

// --- units: a factor to base units, and a dimension such as {J: 1, s: -1}

const ATOMS = { s: [1n, 1n, 's'], min: [60n, 1n, 's'], h: [3600n, 1n, 's'], d: [86400n, 1n, 's'],
  g: [1n, 1000n, 'kg'], kg: [1n, 1n, 'kg'], t: [1000n, 1n, 'kg'], l: [1n, 1000n, 'm3'], m3: [1n, 1n, 'm3'],
  Nm3: [1n, 1n, 'Nm3'], m2: [1n, 1n, 'm2'], K: [1n, 1n, 'K'], '%': [1n, 100n], 1: [1n, 1n], '': [1n, 1n] }
for (const [n, prefix] of ['', 'k', 'M', 'G', 'T'].entries()) {
  ATOMS[`${prefix}J`] = [1000n ** BigInt(n), 1n, 'J']
  ATOMS[`${prefix}Wh`] = [3600n * 1000n ** BigInt(n), 1n, 'J']
  if (n < 4) ATOMS[`${prefix}W`] = [1000n ** BigInt(n), 1n, 'J/s']
}
for (const what of ['CO2', 'C', 'ce']) {
  for (const [name, size] of [['g', 1n], ['kg', 1000n], ['t', 1000000n]]) ATOMS[name + what] = [size, 1000n, `kg${what}`]
}

export const joined = (left, right, sign = 1) => {
  const out = { ...left }
  for (const [base, n] of Object.entries(right)) out[base] = (out[base] ?? 0) + sign * n
  return Object.fromEntries(Object.entries(out).filter(([, n]) => n))
}

const product = (text) => {
  let [factor, dimension] = [ONE, {}]
  for (const part of text.split('*')) {
    const [, tens, atom] = /^(?:10\^([1-9])(?=[A-Za-z]))?(.*)$/.exec(part)
    if (!(atom in ATOMS)) throw new Error(`unit ${part}`)
    const [above, below, base] = ATOMS[atom]
    factor = times(factor, times(ratio(above, below), ratio(10n ** BigInt(tens ?? 0))))
    if (base === 'J/s') dimension = joined(dimension, { J: 1, s: -1 })
    else if (base) dimension = joined(dimension, { [base]: 1 })
  }
  return { factor, dimension }
}

export const unit = (text) => {
  const [above, below] = text.split('/')
  const front = product(above)
  if (below === undefined) return { text, ...front }
  const back = product(below)
  return { text, factor: over(front.factor, back.factor), dimension: joined(front.dimension, back.dimension, -1) }
}
