-- The tables in ClickHouse. Every statement may be repeated. The codecs were chosen by measurement: bench/RESULTS.md.
CREATE DATABASE IF NOT EXISTS {db};

-- Every verified reading, once. quality is empty if the quality is good. exact is the signed decimal, which is set only if the double is not equal to it.
-- stored - at is the delay.
CREATE TABLE IF NOT EXISTS {db}.readings (
  stream LowCardinality(String),
  point LowCardinality(String),
  at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  value Nullable(Float64) CODEC(ZSTD(3)),
  unit LowCardinality(String),
  quality LowCardinality(String),
  exact String CODEC(ZSTD(3)),
  text String CODEC(ZSTD(3)),
  seq UInt64 CODEC(Delta, ZSTD(1)),
  boot LowCardinality(String),
  lot UInt64 CODEC(Delta, ZSTD(1)),
  stored DateTime('UTC') CODEC(Delta, ZSTD(1))
) ENGINE = MergeTree PARTITION BY if(at >= '2020-01-01' AND at < stored + INTERVAL 10 DAY, toYYYYMM(at), 0)
ORDER BY (stream, point, at) SETTINGS non_replicated_deduplication_window = 1000;

-- One row per pack, in its newest state: due readings, stated gaps with their reasons, faults. due is NULL while the completeness is not known.
CREATE TABLE IF NOT EXISTS {db}.pack_states (
  stream LowCardinality(String),
  seq UInt64 CODEC(Delta, ZSTD(1)),
  boot LowCardinality(String),
  "from" DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  "to" DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  due Nullable(UInt64) CODEC(ZSTD(1)),
  readings UInt64 CODEC(T64, ZSTD(1)),
  gaps UInt64 CODEC(T64, ZSTD(1)),
  asleep UInt64 CODEC(T64, ZSTD(1)),
  reasons Map(LowCardinality(String), UInt64),
  faults Array(LowCardinality(String)),
  lot UInt64 CODEC(Delta, ZSTD(1)),
  stored DateTime('UTC') CODEC(Delta, ZSTD(1)),
  batch UInt64 CODEC(Delta, ZSTD(1))
) ENGINE = ReplacingMergeTree(batch) PARTITION BY if("from" >= '2020-01-01' AND "from" < stored + INTERVAL 10 DAY, toYYYYMM("from"), 0)
ORDER BY (stream, seq, boot, "from") SETTINGS non_replicated_deduplication_window = 1000;

-- Every signed figure of a period, including those that a later result has corrected.
CREATE TABLE IF NOT EXISTS {db}.figures (
  gateway LowCardinality(String),
  kind LowCardinality(String),
  id LowCardinality(String),
  period LowCardinality(String),
  label String CODEC(ZSTD(1)),
  "from" DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  "to" DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  value Nullable(Float64) CODEC(ZSTD(3)),
  exact String CODEC(ZSTD(3)),
  unit LowCardinality(String),
  completeness Nullable(Float64) CODEC(ZSTD(1)),
  verdict LowCardinality(String),
  official Nullable(Bool),
  seq UInt64 CODEC(Delta, ZSTD(1)),
  boot LowCardinality(String),
  stored DateTime('UTC') CODEC(Delta, ZSTD(1)),
  result String CODEC(ZSTD(3))
) ENGINE = MergeTree ORDER BY (gateway, kind, id, period, "from", seq) SETTINGS non_replicated_deduplication_window = 1000;

-- Keepers insert packs into this table, as they were published. It stores nothing: two views pass the rows on to the
-- tables above.
CREATE TABLE IF NOT EXISTS {db}.incoming (
  stream String, seq UInt64, boot String, from_ms Int64, to_ms Int64, due Nullable(UInt64), readings UInt64, gaps UInt64, asleep UInt64,
  reasons Map(String, UInt64), faults Array(String), lot UInt64, stored UInt32, batch UInt64, body String
) ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.incoming_packs TO {db}.pack_states AS
SELECT stream, seq, boot, fromUnixTimestamp64Milli(greatest(0, least(from_ms, 10413791999999)), 'UTC') AS "from",
  fromUnixTimestamp64Milli(greatest(0, least(to_ms, 10413791999999)), 'UTC') AS "to",
  due, readings, gaps, asleep, reasons, faults, lot, toDateTime(stored, 'UTC') AS stored, batch
FROM {db}.incoming;

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.incoming_readings TO {db}.readings AS
WITH JSONExtract(body, 'e', 'Array(Tuple(n String, bt Nullable(Float64), t Nullable(Float64), v Nullable(Float64), u String, du String, q String, x String, vs String))') AS records,
  arrayFill(base -> base IS NOT NULL, arrayMap(record -> record.2, records)) AS bases
SELECT stream, record.1 AS point,
  fromUnixTimestamp64Milli(greatest(0, least(toInt64(round((ifNull(base, 0) + ifNull(record.3, 0)) * 1000)), 10413791999999)), 'UTC') AS at,
  record.4 AS value, if(record.5 = '', record.6, record.5) AS unit, record.7 AS quality, record.8 AS exact, record.9 AS text,
  seq, boot, lot, toDateTime(stored, 'UTC') AS stored
FROM {db}.incoming ARRAY JOIN records AS record, bases AS base WHERE body != '';

-- The streams whose missing packs do not count. asked: packs in holes count. awaited: packs since the newest pack of the stream count. A stream without a row is
-- asked and awaited.
CREATE TABLE IF NOT EXISTS {db}.streams (
  stream String,
  asked Bool,
  awaited Bool,
  changed DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(changed) ORDER BY stream;

-- Packs that were declared lost by their gateway, in streams that are not asked. A hole of such packs counts, if counts is true.
CREATE TABLE IF NOT EXISTS {db}.losses (
  stream String,
  first Int64,
  last Int64,
  counts Bool,
  changed DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(changed) ORDER BY (stream, first, last);

CREATE VIEW IF NOT EXISTS {db}.packs AS SELECT * FROM {db}.pack_states FINAL;

-- Completeness by UTC day. A pack counts for the day in which it begins. Packs with faults or with unknown completeness do not count. As in PostgreSQL, a
-- pack whose only fault is how it fits other packs does count.
CREATE VIEW IF NOT EXISTS {db}.completeness AS
SELECT arrayStringConcat(arraySlice(splitByChar('/', stream), 1, 2), '/') AS gateway, stream, toDate("from") AS day, count() AS packs,
  sum(p.due) AS due, sum(p.readings) AS readings, sum(p.gaps) AS gaps, sum(p.asleep) AS asleep,
  if(due > asleep, round((due - gaps) / (due - asleep), 6), NULL) AS share
FROM {db}.packs AS p WHERE p.due IS NOT NULL AND hasAll(['chain', 'conflict', 'fork'], faults) GROUP BY stream, day;

-- Ranges of missing packs between two stored packs.
CREATE VIEW IF NOT EXISTS {db}.holes AS
SELECT stream, before + 1 AS first, number - 1 AS last, left_to AS "from", right_from AS "to" FROM (
  SELECT stream, toInt64(seq) AS number, "from" AS right_from, lagInFrame(number, 1, number - 1) OVER w AS before, lagInFrame("to", 1, "from") OVER w AS left_to
  FROM {db}.packs WINDOW w AS (PARTITION BY stream ORDER BY seq, "from" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
) WHERE number > before + 1;

-- Number of readings due in missing packs, by UTC day, estimated from the mean rate of the stream. Missing packs are those in holes, and those after the
-- newest pack of a stream that has been silent for 15 minutes or longer. As in PostgreSQL, only requested streams count, but packs that the gateway declares lost
-- count in all streams. The silence of a retired stream does not count.
CREATE VIEW IF NOT EXISTS {db}.missing_days AS
WITH rates AS (
  SELECT stream, sum(due) / sum(toUnixTimestamp64Milli("to") - toUnixTimestamp64Milli("from")) AS rate, max(toUnixTimestamp64Milli("to")) AS newest
  FROM {db}.packs WHERE due > 0 AND "to" > "from" GROUP BY stream
), stretches AS (
  SELECT h.stream AS stream, toUnixTimestamp64Milli(h."from") AS low, toUnixTimestamp64Milli(h."to") AS high, r.rate AS rate
  FROM {db}.holes AS h JOIN rates AS r ON r.stream = h.stream
  LEFT JOIN (SELECT stream, groupArray((first, last)) AS ranges FROM {db}.losses FINAL WHERE counts GROUP BY stream) AS l ON l.stream = h.stream
  WHERE h."to" > h."from" AND (h.stream NOT IN (SELECT stream FROM {db}.streams FINAL WHERE NOT asked)
    OR arrayExists(lost -> lost.1 <= h.first AND h.last <= lost.2, l.ranges))
  UNION ALL
  SELECT stream, newest AS low, toUnixTimestamp64Milli(now64(3)) AS high, rate FROM rates
  WHERE newest < toUnixTimestamp64Milli(now64(3)) - 900000 AND stream NOT IN (SELECT stream FROM {db}.streams FINAL WHERE NOT awaited)
)
SELECT stream, toDate(number) AS day, round(sum((least(high, (number + 1) * 86400000) - greatest(low, number * 86400000)) * rate)) AS due
FROM (SELECT *, arrayJoin(range(toUInt32(intDiv(low, 86400000)), toUInt32(intDiv(high - 1, 86400000)) + 1)) AS number FROM stretches)
GROUP BY stream, day;

-- Completeness by UTC day. Unlike in the view completeness, readings in missing packs count as due, too.
CREATE VIEW IF NOT EXISTS {db}.due_days AS
SELECT arrayStringConcat(arraySlice(splitByChar('/', stream), 1, 2), '/') AS gateway, splitByChar('/', stream)[1] AS site, stream, day,
  sum(d) AS due, sum(r) AS readings, sum(g) AS gaps, sum(a) AS asleep, sum(m) AS missing
FROM (
  SELECT stream, day, toFloat64(due) AS d, readings AS r, gaps AS g, asleep AS a, toFloat64(0) AS m FROM {db}.completeness
  UNION ALL SELECT stream, day, toFloat64(0), 0, 0, 0, due FROM {db}.missing_days
) GROUP BY stream, day;

-- The newest figure is that of the boot with the latest activity, and in it that with the highest sequence, because the sequences of a replaced box begin at 1
-- again. The activity of a boot is as in PostgreSQL: the earlier of the end and the arrival of its newest pack.
CREATE VIEW IF NOT EXISTS {db}.latest_figures AS
SELECT splitByChar('/', f.gateway)[1] AS site, f.gateway AS gateway, f.kind AS kind, f.id AS id, f.period AS period, f.label AS label, f."from" AS "from",
  f."to" AS "to", f.value AS value, f.exact AS exact, f.unit AS unit, f.completeness AS completeness, f.verdict AS verdict, f.official AS official,
  f.seq AS seq, f.boot AS boot, f.stored AS stored, f.result AS result, count() OVER (PARTITION BY f.gateway, f.kind, f.id, f.period, f."from") AS versions
FROM {db}.figures AS f LEFT JOIN (
  SELECT stream, boot, max(least("to", toDateTime64(stored, 3, 'UTC'))) AS active FROM {db}.pack_states
  WHERE stream IN (SELECT concat(gateway, '/_indicators') FROM {db}.figures) GROUP BY stream, boot
) AS b ON b.stream = concat(f.gateway, '/_indicators') AND b.boot = f.boot
ORDER BY b.active DESC, f.seq DESC LIMIT 1 BY f.gateway, f.kind, f.id, f.period, f."from";
