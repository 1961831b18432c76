---- tern: disable-tx ----
-- Triggers: stamp changed rows anew, and wake the listener once a transaction.
-- All of them ENABLE ALWAYS, so that logical replication is captured too.
SET lock_timeout = '200ms';

-- One row for each transaction that is to wake the listener when it commits. Only
-- constraint triggers run in the commit phase, and only for a row: on the captured
-- tables themselves, where it was, each INSERT had to parse its WHEN clause and to
-- queue it. The row goes again with the trigger.
CREATE UNLOGGED TABLE IF NOT EXISTS telemetra.wakeups ();
-- A vacuum that gives pages back takes a lock that writers would wait for.
ALTER TABLE telemetra.wakeups SET (vacuum_truncate = off);

-- Queues the wake-up once a transaction. The setting is local to the transaction: the
-- first row sets it, the others find it set, and a rollback to a savepoint takes it
-- back together with what was queued. Writers have no right on the table.
CREATE OR REPLACE FUNCTION telemetra.wake_at_commit() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('telemetra.woken', pg_current_xact_id()::text, true);
    INSERT INTO telemetra.wakeups DEFAULT VALUES;
END
$$;
GRANT EXECUTE ON FUNCTION telemetra.wake_at_commit() TO PUBLIC;

-- Nearly every INSERT of a busy table ends at the first condition: the defaults have
-- stamped the row, and no listener holds the lock of those who wait to be woken. That
-- is asked a millisecond long. An older transaction may commit at any time, when a
-- listener waits again; one of a millisecond commits soon, as a rule, and is found by
-- the looks that a listener takes before it waits, else by its idle look. An
-- asynchronous commit has to be raised in any case; one that becomes asynchronous
-- after the last row is not.
--
-- Measured in instructions of the server for an INSERT: it takes 132,000 without
-- columns, index and triggers of ours; these took 107,000 more, and take 49,000. Two
-- WHEN clauses were half of that, because Postgres parses them in each statement. For
-- the same reason the lock is a literal.
--
-- It runs in the session of whoever writes, where a name or an operator without a schema
-- may be somebody else's overload. A SET search_path would cost each row, so all names
-- are written with their schema, and IS DISTINCT FROM, which cannot be, is left out.
CREATE OR REPLACE FUNCTION telemetra.stamp() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.change_xid OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id() AND NEW.change_id OPERATOR(pg_catalog.>) 0
       AND (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.now()) OPERATOR(pg_catalog.<) interval '1 ms'
       AND pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.<>) 'off'
       AND (CASE WHEN pg_catalog.pg_try_advisory_lock(8387229064097787508) THEN pg_catalog.pg_advisory_unlock(8387229064097787508) ELSE false END)
    THEN
        RETURN NEW;
    END IF;
    -- INSERT ... SELECT * from a copy, and replication, bring an old stamp or none.
    IF (NEW.change_xid OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id() AND NEW.change_id OPERATOR(pg_catalog.>) 0) IS NOT TRUE THEN
        NEW.change_xid := pg_catalog.pg_current_xact_id();
        NEW.change_id := pg_catalog.nextval('telemetra.change_id_seq'::pg_catalog.regclass);
        NEW.changed_at := pg_catalog.clock_timestamp();
    END IF;
    IF (pg_catalog.current_setting('telemetra.woken', true) OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text) IS NOT TRUE THEN
        PERFORM telemetra.wake_at_commit();
    END IF;
    RETURN NEW;
END
$$;

-- *<> compares the stored bytes. IS DISTINCT FROM would abort the user's UPDATE
-- on a column without equality (json, xml, point); a WHEN clause over whole rows
-- is impossible with generated columns. telemetra.restoring is for the listener,
-- which takes stamps of another cluster off restored rows.
CREATE OR REPLACE FUNCTION telemetra.stamp_update() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW OPERATOR(pg_catalog.*<>) OLD
       AND (pg_catalog.current_setting('telemetra.restoring', true) OPERATOR(pg_catalog.=) 'on') IS NOT TRUE THEN
        NEW.change_xid := pg_catalog.pg_current_xact_id();
        NEW.change_id := pg_catalog.nextval('telemetra.change_id_seq'::pg_catalog.regclass);
        NEW.changed_at := pg_catalog.clock_timestamp();
        IF (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.now()) OPERATOR(pg_catalog.<) interval '1 ms' -- as in stamp()
           AND pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.<>) 'off'
           AND (CASE WHEN pg_catalog.pg_try_advisory_lock(8387229064097787508) THEN pg_catalog.pg_advisory_unlock(8387229064097787508) ELSE false END)
        THEN
            RETURN NEW;
        END IF;
        IF (pg_catalog.current_setting('telemetra.woken', true) OPERATOR(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text) IS NOT TRUE THEN
            PERFORM telemetra.wake_at_commit();
        END IF;
    END IF;
    RETURN NEW;
END
$$;

-- Runs in the commit phase. NOTIFY takes a lock on the whole cluster that is
-- held through the commit, so commits would queue up behind it: the try-lock
-- lets one transaction in flight notify, and nobody waits. The listener looks
-- again shortly after each wake-up, for those who went by.
--
-- A commit that does not wait for its WAL is raised to one that does: after a
-- crash its transaction id could be handed out again, below a position that has
-- passed it. Opt out with telemetra.async = on, and of the wake-up with
-- telemetra.notify = off.
CREATE OR REPLACE FUNCTION telemetra.wake() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM telemetra.wakeups WHERE ctid = NEW.ctid;
    IF current_setting('synchronous_commit') = 'off'
       AND current_setting('telemetra.async', true) IS DISTINCT FROM 'on' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    IF current_setting('telemetra.notify', true) IS DISTINCT FROM 'off'
       AND pg_try_advisory_xact_lock(8387229063829353573) THEN
        PERFORM pg_notify('telemetra', '');
    END IF;
    RETURN NULL;
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = 'telemetra.wakeups'::regclass AND tgname = 'zz_telemetra_wake' AND tgenabled = 'A') THEN
        DROP TRIGGER IF EXISTS zz_telemetra_wake ON telemetra.wakeups;
        CREATE CONSTRAINT TRIGGER zz_telemetra_wake AFTER INSERT ON telemetra.wakeups
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION telemetra.wake();
        ALTER TABLE telemetra.wakeups ENABLE ALWAYS TRIGGER zz_telemetra_wake;
        COMMIT;
    END IF;
END
$$;

-- The names sort behind those of most triggers: BEFORE triggers run by name, and
-- ours must see what the others made of the row.
DO $$
DECLARE
    tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['chat_summary_minute', 'moments', 'streams', 'viewer_timeseries'] LOOP
        CONTINUE WHEN (SELECT count(*) FILTER (WHERE tgname IN ('zz_telemetra_insert', 'zz_telemetra_update') AND tgenabled = 'A') = 2
                              AND count(*) FILTER (WHERE tgname = 'zz_telemetra_wake') = 0
                       FROM pg_catalog.pg_trigger WHERE tgrelid = format('public.%I', tab)::regclass);
        EXECUTE format('DROP TRIGGER IF EXISTS zz_telemetra_insert ON public.%I', tab);
        EXECUTE format('DROP TRIGGER IF EXISTS zz_telemetra_update ON public.%I', tab);
        EXECUTE format('DROP TRIGGER IF EXISTS zz_telemetra_wake ON public.%I', tab); -- of an earlier build
        EXECUTE format('CREATE TRIGGER zz_telemetra_insert BEFORE INSERT ON public.%I FOR EACH ROW'
                       ' EXECUTE FUNCTION telemetra.stamp()', tab);
        EXECUTE format('CREATE TRIGGER zz_telemetra_update BEFORE UPDATE ON public.%I FOR EACH ROW'
                       ' EXECUTE FUNCTION telemetra.stamp_update()', tab);
        EXECUTE format('ALTER TABLE public.%I ENABLE ALWAYS TRIGGER zz_telemetra_insert,'
                       ' ENABLE ALWAYS TRIGGER zz_telemetra_update', tab);
        COMMIT;
    END LOOP;
END
$$;
-- Of an earlier build.
DROP FUNCTION IF EXISTS telemetra.first_row();

---- create above / drop below ----

---- tern: disable-tx ----
SET lock_timeout = '200ms';

DO $$
DECLARE
    tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['chat_summary_minute', 'moments', 'streams', 'viewer_timeseries'] LOOP
        CONTINUE WHEN to_regclass(format('public.%I', tab)) IS NULL;
        EXECUTE format('DROP TRIGGER IF EXISTS zz_telemetra_insert ON public.%I', tab);
        EXECUTE format('DROP TRIGGER IF EXISTS zz_telemetra_update ON public.%I', tab);
        COMMIT;
    END LOOP;
END
$$;

DROP TABLE IF EXISTS telemetra.wakeups;
DROP FUNCTION IF EXISTS telemetra.wake();
DROP FUNCTION IF EXISTS telemetra.stamp_update();
DROP FUNCTION IF EXISTS telemetra.stamp();
DROP FUNCTION IF EXISTS telemetra.wake_at_commit();
