-- All conflicts between the boots of one stream. There are two kinds: a sequence that two boots of a history share, and a pack that names another hash than
-- that of its predecessor (by sequence), if the predecessor is from another boot of the history. Used after boots were assigned to other histories: two boots
-- that now belong to different histories no longer conflict, so their findings are deleted. Findings that stay true are not touched.
WITH true_now AS (
  SELECT a.stream, 0::bigint AS seq, greatest(a.boot, b.boot) AS boot
  FROM boots a JOIN boots b ON b.stream = a.stream AND b.boot <> a.boot AND b.line = a.line AND b.seqs && a.seqs
  WHERE a.stream = %(stream)s
  UNION
  SELECT r.stream, r.seq, r.boot
  FROM boots b CROSS JOIN LATERAL unnest(b.seqs) AS part (seqs)
  JOIN packs r ON r.stream = b.stream AND r.seq = lower(part.seqs) AND r.boot = b.boot
  WHERE b.stream = %(stream)s
    AND EXISTS (SELECT FROM packs l JOIN boots o ON o.stream = l.stream AND o.boot = l.boot
      WHERE l.stream = r.stream AND l.seq = r.seq - 1 AND l.boot <> r.boot AND o.line = b.line)
    AND NOT EXISTS (SELECT FROM packs l WHERE l.stream = r.stream AND l.seq = r.seq - 1 AND l.hash = r.prev)
), gone AS (
  DELETE FROM findings f WHERE f.stream = %(stream)s AND f.code = 'conflict'
    AND NOT EXISTS (SELECT FROM true_now t WHERE t.stream = f.stream AND t.seq = f.seq AND t.boot = f.boot)
)
INSERT INTO findings (stream, seq, boot, code) SELECT stream, seq, boot, 'conflict' FROM true_now
ON CONFLICT DO NOTHING
