-- Births that came only as retained copies: of gateways that were there before their platform.
CREATE TABLE birth_copies (hash uuid PRIMARY KEY, stream bigint NOT NULL, body bytea NOT NULL);
