-- Numbers of refused messages by gateway, day and code. All refused messages are counted, although only few are kept.
CREATE TABLE refusals (
  gateway text NOT NULL, day date NOT NULL, code text NOT NULL,
  times bigint NOT NULL, why text NOT NULL, -- reason of the last refusal
  at timestamptz NOT NULL,
  PRIMARY KEY (gateway, day, code));
ALTER TABLE refused ADD gateway text GENERATED ALWAYS AS (split_part(topic, '/', 3) || '/' || split_part(topic, '/', 4)) STORED;
CREATE INDEX ON refused (gateway, at);
INSERT INTO refusals SELECT gateway, (at AT TIME ZONE 'UTC')::date, code, sum(times), max(why), max(at) FROM refused GROUP BY 1, 2, 3;
CREATE INDEX ON unknown_gateways (seen);
CREATE INDEX ON packs (stream, seq) WHERE is_birth;

-- The largest plausible number of missing packs in one hole, or before a head. A gateway can sign any sequence. A sequence that implies more missing packs
-- is a finding, and is left out of all totals. Ten million packs are three years with a pack every ten seconds.
CREATE FUNCTION most_packs() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 10000000::bigint';

-- The number of readings due between two packs, by the rate of the second pack. At most 400 days are counted, because a clock may have been wrong.
CREATE FUNCTION due_between(end_ms bigint, from_ms bigint, to_ms bigint, due bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS
  'SELECT least(34560000000, greatest(0, from_ms - end_ms)) * due::float8 / nullif(to_ms - from_ms, 0)';

CREATE VIEW implausible AS
SELECT h.stream, h.seq, h.boot FROM checkpoint_heads h
  WHERE h.seq - coalesce((SELECT max(upper(b.seqs)) - 1 FROM boots b WHERE b.stream = h.stream), 0) > most_packs()
UNION ALL SELECT h.stream, upper(part.seqs), coalesce((SELECT b.boot FROM boots b WHERE b.stream = h.stream AND b.seqs @> upper(part.seqs) LIMIT 1), 0)
  FROM holes h CROSS JOIN LATERAL unnest(h.missing + h.lost) AS part (seqs) WHERE upper(part.seqs) - lower(part.seqs) > most_packs();

CREATE OR REPLACE VIEW all_findings AS
SELECT stream, seq, boot, code, found FROM findings
UNION ALL SELECT DISTINCT l.stream, r.seq, r.boot, 'conflict', NULL::timestamptz FROM losses l JOIN packs r ON r.stream = l.stream AND r.seq = l.last + 1
  WHERE r.prev IS DISTINCT FROM l.hash AND NOT EXISTS (SELECT FROM packs p WHERE p.stream = l.stream AND p.seq = l.last)
UNION ALL SELECT h.stream, h.seq, h.boot, 'conflict', NULL FROM checkpoint_heads h JOIN packs p ON p.stream = h.stream AND p.seq = h.seq AND p.boot = h.boot
  WHERE p.hash <> h.hash
UNION ALL SELECT h.stream, h.seq, h.boot, 'conflict', NULL FROM checkpoint_heads h -- a later boot continues from a pack before this head
  WHERE EXISTS (SELECT FROM boots b WHERE b.stream = h.stream AND b.prev_boot = h.boot AND b.begun AND lower(b.seqs) <= h.seq)
UNION ALL SELECT h.stream, h.seq, h.boot, 'conflict', NULL FROM checkpoint_heads h -- the sequence is stored, but of another boot
  WHERE NOT EXISTS (SELECT FROM boots b WHERE b.stream = h.stream AND b.boot = h.boot AND b.seqs @> h.seq)
    AND EXISTS (SELECT FROM boots b WHERE b.stream = h.stream AND b.seqs @> h.seq)
    AND (SELECT count(DISTINCT b.line) = 1 AND min(b.from_ms) < h.to_ms FROM boots b WHERE b.stream = h.stream)
UNION ALL SELECT stream, seq, boot, 'implausible', NULL FROM implausible;
