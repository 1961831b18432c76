---- tern: disable-tx ----
-- What Telemetra owns lives in a schema of its own. The tables of the contract
-- belong to the writer and stay in public.

-- Whoever writes to a captured table runs our defaults and triggers.
GRANT USAGE ON SCHEMA telemetra TO PUBLIC;

-- The order of changes over all tables.
CREATE SEQUENCE IF NOT EXISTS telemetra.change_id_seq AS bigint;
GRANT USAGE ON SEQUENCE telemetra.change_id_seq TO PUBLIC;

-- What "up" added to tables, so that "down" removes that and nothing else.
CREATE TABLE IF NOT EXISTS telemetra.added (
    kind  text NOT NULL CHECK (kind IN ('table', 'column', 'default')),
    tab   text NOT NULL,
    col   text NOT NULL DEFAULT '',
    PRIMARY KEY (kind, tab, col)
);

-- The listener's last position, written about once a second: where a new epoch
-- starts when Redis has lost its own.
CREATE TABLE IF NOT EXISTS telemetra.position (
    partition  int PRIMARY KEY,
    epoch      text NOT NULL,
    token      bigint NOT NULL,
    position   text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whose rows these are. A dump brings the id along: a restored database is the same
-- deployment, and the system identifier of its cluster tells it from the original.
CREATE TABLE IF NOT EXISTS telemetra.deployment (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id        text NOT NULL CHECK (id ~ '^[0-9a-f]{16}$')
);
INSERT INTO telemetra.deployment (id)
VALUES (left(encode(sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'hex'), 16))
ON CONFLICT DO NOTHING;

---- create above / drop below ----

DROP TABLE telemetra.deployment;
DROP TABLE telemetra.position;
DROP TABLE telemetra.added;
DROP SEQUENCE telemetra.change_id_seq;
