-- Months whose partition could not be made, because a query used the packs at that moment. Their packs are in packs_other until the keeper makes the partition.
CREATE TABLE waiting_months (
  month date PRIMARY KEY,
  tried timestamptz);                   -- the last try; NULL: not tried, because the last try of another month was just before

-- Make the partitions of a month for some tables: packs, reading_blocks or both. Their rows in packs_other and reading_blocks_other move to the partitions.
-- Each table itself is locked too, and first: a statement that waited for packs_other alone would not know the new partition, and so would miss the moved packs.
-- All workers wait for these locks. So a try ends if a query uses a table for longer than wait_ms, and no other try follows within five minutes.
-- Returns true if the partitions exist, false if the try was in vain, and NULL if there was no try.
CREATE FUNCTION make_partitions(month date, parents text[], wait_ms int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  suffix text := to_char(month, '_YYYY_MM');
  low bigint := extract(epoch FROM date_trunc('month', month::timestamp) AT TIME ZONE 'UTC') * 1000;
  high bigint := extract(epoch FROM (date_trunc('month', month::timestamp) + interval '1 month') AT TIME ZONE 'UTC') * 1000;
  setting text := current_setting('lock_timeout');
  missing text[];
  parent text;
BEGIN
  PERFORM pg_advisory_xact_lock(7235701, 1);
  missing := array(SELECT p FROM unnest(parents) WITH ORDINALITY AS u (p, place) WHERE to_regclass(p || suffix) IS NULL ORDER BY place);
  IF missing = '{}' THEN RETURN true; END IF;
  IF EXISTS (SELECT FROM waiting_months w WHERE w.tried > clock_timestamp() - interval '5 minutes') THEN
    INSERT INTO waiting_months VALUES (make_partitions.month) ON CONFLICT DO NOTHING;
    RETURN NULL;
  END IF;
  BEGIN
    PERFORM set_config('lock_timeout', wait_ms::text, true);
    FOREACH parent IN ARRAY missing LOOP
      EXECUTE format('LOCK TABLE ONLY %I, %I IN ACCESS EXCLUSIVE MODE', parent, parent || '_other');
    END LOOP;
    PERFORM set_config('lock_timeout', setting, true);
  EXCEPTION WHEN lock_not_available OR deadlock_detected THEN -- the locks are released, and the setting is as before
    INSERT INTO waiting_months VALUES (make_partitions.month, clock_timestamp())
      ON CONFLICT ON CONSTRAINT waiting_months_pkey DO UPDATE SET tried = excluded.tried;
    RETURN false;
  END;
  FOREACH parent IN ARRAY missing LOOP
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING STORAGE)', parent || suffix, parent);
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE from_ms >= %s AND from_ms < %s RETURNING *) INSERT INTO %I SELECT * FROM moved',
      parent || '_other', low, high, parent || suffix);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent, parent || suffix, low, high);
  END LOOP;
  IF 'packs' = ANY(parents) THEN DELETE FROM waiting_months w WHERE w.month = make_partitions.month; END IF;
  RETURN true;
END $$;

-- The function of 0001.sql, which workers call, also those of earlier versions: if the partitions cannot be made at once, their packs go to packs_other, and the
-- keeper makes the partitions later. The time of all four locks is less than deadlock_timeout, so that no query is ended that locks the tables in another order,
-- such as one of the view readings. The keeper waits longer, but has only one of the two tables locked at a time.
CREATE OR REPLACE FUNCTION make_partition(month date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF to_regclass('packs' || to_char(month, '_YYYY_MM')) IS NULL AND NOT EXISTS (SELECT FROM waiting_months w WHERE w.month = make_partition.month) THEN
    PERFORM make_partitions(month, '{packs,reading_blocks}', 200);
  END IF;
END $$;
