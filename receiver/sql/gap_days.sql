INSERT INTO gap_days (stream, day, reason, readings)
SELECT stream, day_of(from_ms), r.key, sum(r.value::bigint)
FROM new, jsonb_each_text(reasons) r WHERE due IS NOT NULL AND faults IS NULL AND reasons IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (stream, day, reason) DO UPDATE SET readings = gap_days.readings + excluded.readings
