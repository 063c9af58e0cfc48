// Bytes to objects, signatures and chains of keys: what `check.mjs` builds on.
import { createHash, createPublicKey, verify } from 'node:crypto'
import * as zlib from 'node:zlib'

export class Refused extends Error {}
export const want = (holds, text) => { if (!holds) throw new Refused(text) }
export const ms = (seconds) => {
  want(typeof seconds === 'number' && Math.round(seconds * 1000) / 1000 === seconds, `time ${seconds}`)
  return Math.round(seconds * 1000)
}
export const text = (value, pattern) => typeof value === 'string' && pattern.test(value)
export const whole = (value, least) => Number.isSafeInteger(value) && value >= least
export const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value)

// --- RFC 8785 and detached JWS: ours, or of libraries

export let canonical = (value) => { // ECMAScript's own numbers and strings, members in order of UTF-16
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  return `{${Object.keys(value).sort().map((n) => `${JSON.stringify(n)}:${canonical(value[n])}`).join(',')}}`
}
let checkJws = async (record, head, payload, signature) => {
  const key = createPublicKey({ key: record.jwk, format: 'jwk' })
  const signed = Buffer.concat([Buffer.from(`${head}.`), payload])
  const [hash, how] = record.alg === 'Ed25519' ? [null, key] : ['sha256', { key, dsaEncoding: 'ieee-p1363' }]
  return verify(hash, signed, how, Buffer.from(signature, 'base64url'))
}
export const useLibraries = async () => {
  const [jose, jcs] = await Promise.all([import('jose'), import('canonicalize')])
  canonical = jcs.default
  checkJws = async (record, head, payload, signature) => {
    const key = await jose.importJWK(record.jwk, record.alg)
    const options = { algorithms: [record.alg], crit: { b64: true } }
    return jose.flattenedVerify({ protected: head, payload, signature }, key, options).then(() => true, () => false)
  }
}
const payloadOf = ({ sig, ...rest }) => Buffer.from(canonical(rest))
const hashOf = (bytes) => createHash('sha256').update(bytes).digest('base64url')

// --- bytes to one clear object

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs
export const parse = (raw, cap = 8 << 20) => {
  if (raw.subarray(0, 4).toString('hex') === '28b52ffd') {
    try { raw = zlib.zstdDecompressSync(raw, { maxOutputLength: cap }) } catch { throw new Refused('zstd') }
  }
  want(raw.length <= cap, 'too large')
  let written, value
  try {
    written = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(raw)
    value = JSON.parse(written)
  } catch { throw new Refused('not JSON') }
  want(isObject(value), 'no object')
  const names = [] // of each object that is open; null for an array
  for (const [token] of written.matchAll(TOKEN)) { // JSON.parse takes the last of two equal names and rounds numbers
    if (token === '{' || token === '[') {
      want(names.push(token === '{' ? { seen: new Set(), isNext: true } : null) <= 32, 'nested deeper than 32')
    } else if (token === '}' || token === ']') names.pop()
    else if (token === ',') { if (names.at(-1)) names.at(-1).isNext = true }
    else if (token === ':') continue
    else if (token[0] === '"') {
      const content = JSON.parse(token)
      want(content.isWellFormed(), 'lone surrogate')
      const open = names.at(-1)
      if (open?.isNext) {
        want(!open.seen.has(content), `${content} is there twice`)
        open.seen.add(content)
        open.isNext = false
      }
    } else if (!['true', 'false', 'null'].includes(token)) {
      const number = Number(token)
      want(Number.isFinite(number), 'number beyond a double')
      want(!/^-?\d+$/.test(token) || Math.abs(number) < 2 ** 53 || String(number) === token, 'integer beyond 2^53')
    }
  }
  return value
}

// --- signatures and keys

export const check = async (object, typ, keys) => {
  want(typeof object.sig === 'string', 'no signature')
  const [head, middle, signature, ...more] = object.sig.split('.')
  want(middle === '' && signature && !more.length, 'not a detached JWS')
  for (const part of [head, signature]) want(Buffer.from(part, 'base64url').toString('base64url') === part, 'base64url')
  const header = parse(Buffer.from(head, 'base64url'))
  want(Object.keys(header).sort().join() === 'alg,b64,crit,kid,typ', 'JWS header members')
  want(header.b64 === false && canonical(header.crit) === '["b64"]', 'JWS header b64, crit')
  want(header.typ === typ, `typ ${header.typ}`)
  const record = keys.get(header.kid)
  want(record, `key ${header.kid}`)
  want(record.alg === header.alg, `alg ${header.alg}`)
  const payload = payloadOf(object)
  want(await checkJws(record, head, payload, signature), 'the signature does not fit')
  return { hash: hashOf(payload), kid: header.kid }
}

const P = 2n ** 255n - 19n
const SMALL_ORDER = [0n, 1n, P - 1n, // y of the eight points that make a key with which anybody can sign
  0x05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826n,
  0x7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7n]
const checkCoordinates = ({ kty, x, y }) => { // 32 bytes in one spelling each, so that a key has one thumbprint
  for (const text of kty === 'OKP' ? [x] : [x, y]) {
    want(typeof text === 'string' && Buffer.from(text, 'base64url').toString('base64url') === text, 'base64url of a key')
    want(Buffer.from(text, 'base64url').length === 32, 'length of a key')
  }
  if (kty !== 'OKP') return
  const low = BigInt(`0x${Buffer.from(x, 'base64url').reverse().toString('hex')}`) & (2n ** 255n - 1n)
  want(low < P && !SMALL_ORDER.includes(low), 'a key of small order, or not in its only form')
}

export const readChain = async (value) => {
  want(value.v === 1 && whole(value.counter, 0) && value.records?.length, 'keys object')
  const keys = new Map()
  const revoked = new Map()
  let before = null
  let since = 0
  for (const record of value.records) {
    const jwk = record.jwk
    want(isObject(jwk) && !('d' in jwk), 'jwk')
    const kind = { Ed25519: 'OKP Ed25519', ES256: 'EC P-256' }[record.alg]
    want(kind === `${jwk.kty} ${jwk.crv}`, 'algorithm of a key')
    checkCoordinates(jwk)
    const { crv, kty, x, y } = jwk
    const members = kty === 'OKP' ? { crv, kty, x } : { crv, kty, x, y }
    want(hashOf(Buffer.from(canonical(members))) === record.kid, 'thumbprint')
    want(record.prev === before && record.not_before >= since && !keys.has(record.kid), 'chain of keys')
    await check(record, 'mh-keys', before ? new Map([[before, keys.get(before)]]) : new Map([[record.kid, record]]))
    for (const { kid, last } of record.revokes ?? []) {
      want(isObject(last) && (keys.has(kid) || before === null), 'revokes no earlier key')
      revoked.set(kid, last)
    }
    keys.set(record.kid, record);
    [before, since] = [record.kid, record.not_before]
  }
  await check(value, 'mh-keys', new Map([[before, keys.get(before)]]))
  const plain = value.records.map((record) => canonical({ ...record, sig: '' }))
  return { counter: value.counter, keys, revoked, plain, says: plain.join(), first: value.records[0] }
}

