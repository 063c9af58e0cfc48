// Checks an exported folder with nothing but Node: node check.mjs FOLDER [THUMBPRINT]
// A second implementation, so that the format is what its page says and not what one library does.
import { createHash, createPublicKey, verify } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const [folder, pinned] = process.argv.slice(2)
const canonical = (value) => {  // RFC 8785: ECMAScript's own numbers and strings, members in order of UTF-16
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  return `{${Object.keys(value).sort().map((n) => `${JSON.stringify(n)}:${canonical(value[n])}`).join(',')}}`
}
const payloadOf = ({ sig, ...rest }) => Buffer.from(canonical(rest))
const hash = (bytes) => createHash('sha256').update(bytes).digest('base64url')
const want = (holds, text) => { if (!holds) { console.log(`refused: ${text}`); process.exit(1) } }

const check = (object, typ, records) => {
  const [head, middle, signature] = object.sig.split('.')
  const header = JSON.parse(Buffer.from(head, 'base64url'))
  want(middle === '' && header.typ === typ && header.b64 === false && String(header.crit) === 'b64', 'JWS header')
  const record = records.get(header.kid)
  want(record && record.alg === header.alg, `key ${header.kid}`)
  const payload = payloadOf(object)
  const key = createPublicKey({ key: record.jwk, format: 'jwk' })
  const signed = Buffer.concat([Buffer.from(`${head}.`), payload])
  const mode = record.alg === 'Ed25519' ? [null, key] : ['sha256', { key, dsaEncoding: 'ieee-p1363' }]
  want(verify(mode[0], signed, mode[1], Buffer.from(signature, 'base64url')), `signature of ${object.stream ?? typ}`)
  return hash(payload)
}

const objects = readdirSync(folder).sort().flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n'))
  .filter(Boolean).map((line) => JSON.parse(line))
const announced = objects.find((o) => o.records)
const records = new Map()
let before = null
for (const record of announced.records) {
  want(hash(Buffer.from(canonical(record.jwk))) === record.kid && record.prev === before, 'key record')
  check(record, 'mh-keys', new Map([[before ?? record.kid, records.get(before) ?? record]]))
  records.set(record.kid, record)
  before = record.kid
}
check(announced, 'mh-keys', new Map([[before, records.get(before)]]))
want(!pinned || announced.records[0].kid === pinned, 'the first key is not the pinned one')

const heads = new Map()
let count = 0
for (const pack of objects.filter((o) => o.stream)) {
  const mine = check(pack, 'mh-pack', records)
  const last = heads.get(pack.stream)
  if (last) {
    want(pack.prev === last.hash && pack.seq === last.seq + 1 && pack.from === last.to, `order at ${pack.seq}`)
    want(pack.boot === last.boot ? !('prev_boot' in pack) : pack.prev_boot === last.boot, `boot at ${pack.seq}`)
  }
  const birth = pack.table ? mine : pack.birth
  want(pack.table || !last || birth === last.birth, `birth at ${pack.seq}`)
  heads.set(pack.stream, { ...pack, hash: mine, birth })
  count += 1
}
for (const page of objects.filter((o) => o.heads)) {
  check(page, 'mh-checkpoint', records)
  for (const head of page.heads) want(heads.get(head.stream)?.hash === head.hash, `checkpoint of ${head.stream}`)
}
console.log(`${count} packs of ${heads.size} streams hold${pinned ? '' : ', origin unproven'}`)
