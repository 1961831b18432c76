---- tern: disable-tx ----
-- The log of changes, and everything else that Telemetra owns. The captured tables get
-- triggers and nothing else. No role has the name of the schema, so that no "$user" in a
-- search_path leads here.

-- The role that owns the functions which run in the sessions of writers. These convert rows to JSON,
-- and a type's owner can define that conversion: it runs with the rights of this role, which
-- may append to the log and do nothing else. A role that may not create roles owns
-- the functions itself.
DO $$
BEGIN
    IF to_regrole('telemetra_log') IS NULL AND (SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
        BEGIN
            CREATE ROLE telemetra_log NOLOGIN NOINHERIT;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database of this server is migrated at the same time
        END;
    END IF;
    -- ALTER FUNCTION … OWNER TO wants membership.
    IF to_regrole('telemetra_log') IS NOT NULL AND NOT pg_has_role(current_user, 'telemetra_log', 'MEMBER') THEN
        EXECUTE format('GRANT telemetra_log TO %I', current_user);
    END IF;
END
$$;

-- No index but that on xid, by which the listener reads. One value of the sequence at a
-- time: a cache would give versions of one row ids in the wrong order.
CREATE SEQUENCE IF NOT EXISTS telemetra_capture.log_id AS bigint CACHE 1;
CREATE TABLE IF NOT EXISTS telemetra_capture.log (
    xid     xid8 NOT NULL DEFAULT pg_current_xact_id(),  -- top-level transaction
    id      bigint NOT NULL DEFAULT nextval('telemetra_capture.log_id'),
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    relid   oid NOT NULL,     -- the captured table; of a partition or child, its root
    source  text NOT NULL,    -- the table of the contract that it is captured as
    op      "char" NOT NULL,  -- i(nserted or updated), d(eleted), t(runcated), r(eload)
    stream  text,
    row     text              -- JSON; of a deleted row its key
);
CREATE INDEX IF NOT EXISTS log_xid ON telemetra_capture.log (xid);
-- A publication FOR ALL TABLES would refuse to delete from it otherwise.
ALTER TABLE telemetra_capture.log REPLICA IDENTITY FULL;
-- All rows are deleted soon after they were written.
ALTER TABLE telemetra_capture.log SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000, vacuum_truncate = off);

-- A row for each transaction that wakes a waiting listener when it commits: only constraint
-- triggers run in the commit phase, and only for a row. The listener empties the table.
CREATE UNLOGGED TABLE IF NOT EXISTS telemetra_capture.wakeups ();
ALTER TABLE telemetra_capture.wakeups REPLICA IDENTITY FULL;
ALTER TABLE telemetra_capture.wakeups SET (vacuum_truncate = off);

-- Where the listener is: a new epoch starts there when Redis has lost its own position.
CREATE TABLE IF NOT EXISTS telemetra_capture.position (
    partition  int PRIMARY KEY,
    epoch      text NOT NULL,
    token      bigint NOT NULL,
    position   text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whose rows these are. A dump brings the id along: a restored database is the same
-- deployment, and the system identifier of its cluster tells it from the original.
CREATE TABLE IF NOT EXISTS telemetra_capture.deployment (
    only_one  boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id        text NOT NULL CHECK (id ~ '^[0-9a-f]{16}$')
);
INSERT INTO telemetra_capture.deployment (id)
VALUES (left(encode(sha256(convert_to(gen_random_uuid()::text, 'UTF8')), 'hex'), 16))
ON CONFLICT DO NOTHING;

-- Default privileges may have opened them to others.
DO $$
DECLARE
    grant_ record;
BEGIN
    FOR grant_ IN
        SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
               CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
        FROM pg_catalog.pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.relnamespace = 'telemetra_capture'::regnamespace AND c.relkind IN ('r', 'S') AND a.grantee <> c.relowner
          AND (a.grantee = 0 OR a.grantee::regrole::text <> 'telemetra_log')
          AND NOT (c.relkind = 'r' AND a.privilege_type = 'SELECT' AND c.relname IN ('position', 'deployment'))
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM %s', grant_.kind, grant_.name, grant_.grantee);
    END LOOP;
    IF to_regrole('telemetra_log') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA telemetra_capture TO telemetra_log;
        GRANT INSERT ON telemetra_capture.log, telemetra_capture.wakeups TO telemetra_log;
        GRANT USAGE ON SEQUENCE telemetra_capture.log_id TO telemetra_log;
    END IF;
END
$$;

---- create above / drop below ----

DROP TABLE IF EXISTS telemetra_capture.deployment;
DROP TABLE IF EXISTS telemetra_capture.position;
DROP TABLE IF EXISTS telemetra_capture.wakeups;
DROP TABLE IF EXISTS telemetra_capture.log;
DROP SEQUENCE IF EXISTS telemetra_capture.log_id;
REVOKE ALL ON SCHEMA telemetra_capture FROM telemetra_log;
DO $$
BEGIN
    DROP ROLE IF EXISTS telemetra_log;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
    NULL; -- other databases of this server use it
END
$$;
