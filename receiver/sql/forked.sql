-- Packs with the same identity but different times are separate rows of packs. The pack that begins later moves to the table forks, even if it arrived
-- first.
-- If the moved pack was already checked, it is subtracted from the sums, and the findings about its seams are deleted. In this case the other pack is new,
-- and its check follows.
WITH twice AS (
  SELECT p.stream, p.seq, p.boot, max(p.from_ms) AS from_ms FROM (SELECT DISTINCT stream, seq, boot FROM new) n JOIN packs p USING (stream, seq, boot)
  GROUP BY 1, 2, 3 HAVING count(*) > 1
), moved AS (
  DELETE FROM packs p USING twice t WHERE p.stream = t.stream AND p.seq = t.seq AND p.boot = t.boot AND p.from_ms = t.from_ms
  RETURNING p.*
), kept AS (
  INSERT INTO forks SELECT stream, seq, boot, hash, from_ms, body FROM moved ON CONFLICT DO NOTHING
), gone AS (
  DELETE FROM new n USING moved m WHERE n.stream = m.stream AND n.seq = m.seq AND n.boot = m.boot AND n.from_ms = m.from_ms
), unfound AS (
  DELETE FROM findings f USING moved m WHERE f.stream = m.stream AND f.boot = m.boot AND f.seq IN (m.seq, m.seq + 1) AND f.code <> 'fork'
), counted AS (
  SELECT m.*, day_of(m.from_ms) AS day FROM moved m JOIN lots l ON l.lot = m.lot
  WHERE l.checked IS NOT NULL AND m.due IS NOT NULL AND m.faults IS NULL
), less_gaps AS (
  SELECT stream, day, r.key AS reason, sum(r.value::bigint) AS readings FROM counted, jsonb_each_text(reasons) r WHERE reasons IS NOT NULL GROUP BY 1, 2, 3
), b AS (
  UPDATE gap_days d SET readings = d.readings - g.readings FROM less_gaps g WHERE d.stream = g.stream AND d.day = g.day AND d.reason = g.reason
)
UPDATE days d SET packs = d.packs - less.packs, readings = d.readings - less.readings, due = d.due - less.due, gaps = d.gaps - less.gaps, asleep = d.asleep - less.asleep
FROM (SELECT stream, day, count(*) AS packs, sum(readings) AS readings, sum(due) AS due, sum(gaps) AS gaps, sum(asleep) AS asleep FROM counted GROUP BY 1, 2) less
WHERE d.stream = less.stream AND d.day = less.day
