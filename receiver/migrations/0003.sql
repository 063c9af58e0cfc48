-- What goes to ClickHouse, where a keeper is told one: lots in batches. A batch is fixed before it is sent, so that sending it again is the same insert.

CREATE TABLE clickhouse (               -- one row where a ClickHouse follows; the id is part of every insert's token
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  since timestamptz NOT NULL DEFAULT now());

CREATE TABLE batches (
  batch bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  made timestamptz NOT NULL DEFAULT now(),
  sent timestamptz);                    -- NULL: ClickHouse has not confirmed it
CREATE INDEX ON batches (batch) WHERE sent IS NULL;

ALTER TABLE lots ADD batch bigint;      -- NULL: in no batch yet
CREATE INDEX ON lots (lot) WHERE batch IS NULL;
CREATE INDEX ON lots (batch);

CREATE TABLE changed_packs (            -- settled, revoked or moved to the forks; ClickHouse has to hear of it
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, from_ms bigint NOT NULL, lot bigint NOT NULL,
  batch bigint);

CREATE FUNCTION note_changed_packs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM clickhouse) THEN
    INSERT INTO changed_packs (stream, seq, boot, from_ms, lot) SELECT stream, seq, boot, from_ms, lot FROM before;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER UPDATE ON packs REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_changed_packs();
CREATE TRIGGER moved AFTER DELETE ON packs REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_changed_packs();

-- Packs that ClickHouse does not have, and since when the oldest of them waits.
CREATE VIEW clickhouse_waiting AS
SELECT coalesce(sum(l.packs), 0)::bigint AS packs, min(l.stored) AS since
FROM lots l
WHERE EXISTS (SELECT FROM clickhouse) AND (l.batch IS NULL OR l.batch IN (SELECT batch FROM batches WHERE sent IS NULL));

-- What `keep --latest` has published, one retained message a device.
CREATE TABLE latest (
  stream bigint PRIMARY KEY,
  boot bigint NOT NULL, seq bigint NOT NULL, -- of the newest pack in it
  points jsonb NOT NULL,                -- {point: {"v", "t", "u", "q", "pack"}}
  published timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON findings (found);
