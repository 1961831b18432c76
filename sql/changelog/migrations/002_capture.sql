---- tern: disable-tx ----
-- Functions that run in the session of a writer. They never fail, need no right of the
-- writer on anything of ours, and name no column of a table. The arguments of a trigger are:
--
--   0 OID of the captured table (of a partition or child, its root)
--   1 table of the contract that it is captured as
--   2 column of the stream's id
--   3 key columns, as text[]
--   4 columns to log, as text[]; '{}': all

-- Reports whether the version of a row at a place is the one that counts: a trigger of the
-- user may have changed it again since. It reads the user's table, which the owner of
-- capture() may not, and so belongs to the role that migrates.
CREATE OR REPLACE FUNCTION telemetra_capture.is_current(tab oid, place tid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s WHERE ctid = $1)', tab::regclass) INTO found USING place;
    RETURN found;
EXCEPTION WHEN OTHERS THEN
    RETURN true;
END
$$;

-- Reports whether a row with the key of a deleted one is there (again).
CREATE OR REPLACE FUNCTION telemetra_capture.is_replaced(tab oid, deleted record, keys text[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE %s)', tab::regclass,
                   (SELECT string_agg(format('t.%1$I OPERATOR(pg_catalog.=) ($1).%1$I', k), ' AND ') FROM unnest(keys) AS k))
        INTO found USING deleted;
    RETURN found;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END
$$;

-- The row as JSON, column by column: a value that cannot be converted is null, and its
-- column is named under "". It is what is left when row_to_json fails, or reading what
-- that has made: a value of type json may hold what cannot be read ("\u0000").
CREATE OR REPLACE FUNCTION telemetra_capture.by_column(changed record, tab oid, columns text[], OUT doc text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text;
    value text;
    failed text[] := '{}';
BEGIN
    doc := '';
    FOR name IN SELECT attname FROM pg_attribute
                WHERE attrelid = tab AND attnum > 0 AND NOT attisdropped AND (columns = '{}' OR attname = ANY (columns))
                ORDER BY attnum LOOP
        BEGIN
            EXECUTE format('SELECT to_json(($1).%I)', name) INTO value USING changed;
            doc := doc || ',' || to_json(name) || ':' || coalesce(value, 'null');
        EXCEPTION WHEN OTHERS THEN
            failed := failed || name;
        END;
    END LOOP;
    IF failed <> '{}' THEN
        doc := doc || ',"":' || to_json(failed);
    END IF;
    doc := '{' || substr(doc, 2) || '}';
END
$$;

-- A column as text, or null.
CREATE OR REPLACE FUNCTION telemetra_capture.as_text(changed record, name text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    value text;
BEGIN
    EXECUTE format('SELECT ($1).%I::text', name) INTO value USING changed;
    RETURN value;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- The members of a document that are named.
CREATE OR REPLACE FUNCTION telemetra_capture.members(doc json, names text[]) RETURNS json
LANGUAGE sql IMMUTABLE AS $$
    SELECT ('{' || pg_catalog.string_agg(pg_catalog.to_json(m.key) || ':' || m.value, ',') || '}')::pg_catalog.json
    FROM pg_catalog.json_each(doc) AS m
    WHERE m.key OPERATOR(pg_catalog.=) ANY (names)
$$;

-- Appends a change to the log, and sees to it that a listener that waits is woken.
--
-- A trigger of the user that changes the row again, or another row of the statement, makes
-- the newer version be logged first. So a version that is not current any more is left out.
-- That can be only after a trigger has written, which a setting of the transaction notes;
-- the version's xmax says whether there is anything to ask.
--
-- A listener that waits holds a lock in shared mode, so a writer that gets it alone need wake
-- nobody. That is asked a millisecond long: an older transaction may commit at any time,
-- when a listener waits again; a younger one is found by the polls that a listener
-- makes before it waits.
--
-- After a crash the transaction id of a commit that had not been flushed is handed out
-- again, below a position that has passed it. So an asynchronous commit is raised; telemetra.async
-- = on opts out.
CREATE OR REPLACE FUNCTION telemetra_capture.capture() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 SET "TimeZone" = 'UTC' AS $$
DECLARE
    xid text;
    nested boolean := false;     -- a trigger has written in this transaction
    superseded boolean := false; -- and has changed this row again
    doc json;
    before json;
    stream text;
    removed text; -- the key that the row had, when it has another now
    removed_stream text;
    columns text[];
    keys text[];
    name text;
BEGIN
    IF current_setting('telemetra.capture', true) = 'off' THEN
        RETURN NULL;
    END IF;
    xid := pg_current_xact_id()::text;
    IF TG_LEVEL = 'ROW' THEN
        nested := coalesce(current_setting('telemetra.nested', true) = xid, false);
        IF nested THEN
            superseded := TG_OP <> 'DELETE' AND NEW.xmax <> '0' AND NOT telemetra_capture.is_current(TG_RELID, NEW.ctid);
        ELSIF pg_trigger_depth() > 1 THEN
            nested := true;
            PERFORM set_config('telemetra.nested', xid, true);
        ELSIF TG_OP = 'UPDATE' AND NOT (NEW OPERATOR(pg_catalog.*<>) OLD) THEN
            RETURN NULL; -- after a trigger has written, the version that it is equal to may not be logged
        END IF;
    END IF;

    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        columns := TG_ARGV[4];
        BEGIN
            doc := row_to_json(NEW);
            IF columns <> '{}' THEN
                doc := telemetra_capture.members(doc, columns);
            END IF;
            stream := doc ->> TG_ARGV[2];
        EXCEPTION WHEN OTHERS THEN
            doc := telemetra_capture.by_column(NEW, TG_RELID, columns);
            stream := telemetra_capture.as_text(NEW, TG_ARGV[2]);
        END;
    END IF;
    IF TG_OP = 'DELETE' THEN
        keys := TG_ARGV[3];
        BEGIN
            before := row_to_json(OLD);
            removed := telemetra_capture.members(before, keys);
            removed_stream := before ->> TG_ARGV[2];
        EXCEPTION WHEN OTHERS THEN
            removed := telemetra_capture.by_column(OLD, TG_RELID, keys);
            removed_stream := telemetra_capture.as_text(OLD, TG_ARGV[2]);
        END;
    ELSIF TG_OP = 'UPDATE' THEN
        keys := TG_ARGV[3];
        BEGIN
            before := row_to_json(OLD);
            FOREACH name IN ARRAY keys LOOP
                IF before ->> name IS DISTINCT FROM doc ->> name THEN
                    removed := telemetra_capture.members(before, keys);
                    removed_stream := before ->> TG_ARGV[2];
                    EXIT;
                END IF;
            END LOOP;
        EXCEPTION WHEN OTHERS THEN
            removed := telemetra_capture.by_column(OLD, TG_RELID, keys);
            removed_stream := telemetra_capture.as_text(OLD, TG_ARGV[2]);
            IF removed = telemetra_capture.by_column(NEW, TG_RELID, keys) THEN
                removed := NULL;
            END IF;
        END;
    END IF;

    IF removed IS NOT NULL AND NOT (nested AND telemetra_capture.is_replaced(TG_ARGV[0]::oid, OLD, keys)) THEN
        INSERT INTO telemetra_capture.log (relid, source, op, stream, row)
        VALUES (TG_ARGV[0]::oid, TG_ARGV[1], 'd', removed_stream, removed);
    END IF;
    IF TG_OP <> 'DELETE' AND NOT superseded THEN
        INSERT INTO telemetra_capture.log (relid, source, op, stream, row)
        VALUES (TG_ARGV[0]::oid, TG_ARGV[1], CASE TG_OP WHEN 'TRUNCATE' THEN 't' ELSE 'i' END, stream, doc);
    END IF;

    IF current_setting('synchronous_commit') = 'off' THEN
        IF current_setting('telemetra.async', true) IS DISTINCT FROM 'on' THEN
            PERFORM set_config('synchronous_commit', 'local', true);
        END IF;
    END IF;
    -- A deferred trigger is an error in the session of a subscription that applies changes as
    -- the table's owner; the idle poll finds what replication brings.
    IF current_setting('telemetra.woken', true) = xid OR current_setting('session_replication_role') = 'replica' THEN
        RETURN NULL;
    END IF;
    IF clock_timestamp() - now() < interval '1 ms' AND pg_try_advisory_lock(8387229064097787508) THEN
        PERFORM pg_advisory_unlock(8387229064097787508);
        RETURN NULL;
    END IF;
    PERFORM set_config('telemetra.woken', xid, true);
    INSERT INTO telemetra_capture.wakeups DEFAULT VALUES;
    RETURN NULL;
END
$$;

-- Runs in the commit phase. NOTIFY takes a lock on the whole cluster that is held through
-- the commit, so commits would queue up behind it: the try-lock lets one transaction in
-- flight notify, and no other waits. The listener polls again shortly after each wake-up,
-- for those that went by. A transaction that is prepared may not notify; and when the
-- queue of notifications is full, commits fail: the idle poll finds these rows.
CREATE OR REPLACE FUNCTION telemetra_capture.wake() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_query() ~* 'prepare(\s|/\*.*\*/|--[^\n]*\n)+transaction' OR pg_notification_queue_usage() > 0.5 THEN
        RETURN NULL;
    END IF;
    IF pg_try_advisory_xact_lock(8387229063829353573) THEN
        PERFORM pg_notify('telemetra', '');
    END IF;
    RETURN NULL;
END
$$;

-- Has every stream that is watched read anew: for a load that has opted out.
CREATE OR REPLACE FUNCTION telemetra_capture.reload() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO telemetra_capture.log (relid, source, op) VALUES (0, '', 'r');
    INSERT INTO telemetra_capture.wakeups DEFAULT VALUES;
END
$$;

DO $$
DECLARE
    f regprocedure;
    role text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'telemetra_capture.wakeups'::regclass AND tgname = 'wake' AND tgenabled = 'A') THEN
        DROP TRIGGER IF EXISTS wake ON telemetra_capture.wakeups;
        CREATE CONSTRAINT TRIGGER wake AFTER INSERT ON telemetra_capture.wakeups
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION telemetra_capture.wake();
        ALTER TABLE telemetra_capture.wakeups ENABLE ALWAYS TRIGGER wake;
    END IF;
    FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'telemetra_capture'::regnamespace LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
    IF to_regrole('telemetra_log') IS NOT NULL THEN
        GRANT CREATE ON SCHEMA telemetra_capture TO telemetra_log; -- as long as it takes over what follows
        FOR f IN SELECT oid FROM pg_catalog.pg_proc
                 WHERE pronamespace = 'telemetra_capture'::regnamespace AND proname IN ('capture', 'wake', 'reload', 'by_column', 'as_text', 'members') LOOP
            EXECUTE format('ALTER FUNCTION %s OWNER TO telemetra_log', f);
        END LOOP;
        REVOKE CREATE ON SCHEMA telemetra_capture FROM telemetra_log;
        GRANT EXECUTE ON FUNCTION telemetra_capture.is_current(oid, tid), telemetra_capture.is_replaced(oid, record, text[]) TO telemetra_log;
    END IF;
END
$$;
