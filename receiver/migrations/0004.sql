-- Births that came only as retained copies: of gateways that were there before their platform.
CREATE TABLE birth_copies (hash uuid PRIMARY KEY, stream bigint NOT NULL, body bytea NOT NULL);

-- Pages that contradict the page which is kept: of the same checkpoint, or not the one that the next names.
CREATE TABLE checkpoint_twins (gateway text NOT NULL, hash uuid NOT NULL, body bytea NOT NULL, PRIMARY KEY (gateway, hash));

-- The newest checkpoint of each gateway of which pages are not here. A gateway publishes them one after the other, within minutes.
CREATE VIEW torn_checkpoints AS
SELECT c.gateway, c.time_ms, c.pages - (SELECT count(*) FROM checkpoints o WHERE o.gateway = c.gateway AND o.signer = c.signer AND o.counter = c.counter) AS torn
FROM (SELECT DISTINCT ON (gateway) * FROM checkpoints ORDER BY gateway, signer DESC, counter DESC) c;
