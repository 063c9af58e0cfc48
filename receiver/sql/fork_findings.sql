-- Add a finding for each fork. If the pack after the fork names the hash of either twin, it does follow its predecessor, so its finding "chain" is removed.
WITH fresh AS (
  INSERT INTO findings (stream, seq, boot, code) SELECT stream, seq, boot, 'fork' FROM forks ON CONFLICT DO NOTHING
  RETURNING stream, seq, boot
)
DELETE FROM findings f USING fresh n, forks k, packs r
WHERE k.stream = n.stream AND k.seq = n.seq AND k.boot = n.boot AND r.stream = n.stream AND r.seq = n.seq + 1 AND r.prev = k.hash
  AND f.stream = r.stream AND f.seq = r.seq AND f.boot = r.boot AND f.code = 'chain'
