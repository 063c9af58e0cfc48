-- Packs of a stream that overlap a time range and have no faults and no findings. A finding with sequence 0 concerns all packs of its boot.
SELECT p.seq, p.boot, p.birth, p.body FROM packs p
WHERE p.stream = %(stream)s AND p.to_ms > %(from)s AND p.from_ms < %(to)s AND p.faults IS NULL AND p.due IS NOT NULL
  AND NOT EXISTS (SELECT FROM all_findings f WHERE f.stream = p.stream AND f.boot = p.boot AND f.seq IN (0, p.seq))
ORDER BY p.from_ms, p.seq
