---- tern: disable-tx ----
-- The change columns. The column comes first and its default in a second step:
-- in one step every old row would get the migration's transaction id, and the
-- table would be rewritten. Old rows stay null and are never sent.
SET lock_timeout = '200ms';

DO $$
DECLARE
    tab text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['chat_summary_minute', 'moments', 'streams', 'viewer_timeseries'] LOOP
        IF (SELECT count(*) FROM pg_catalog.pg_attribute
            WHERE attrelid = format('public.%I', tab)::regclass
              AND attname IN ('change_xid', 'change_id', 'changed_at') AND NOT attisdropped) < 3 THEN
            EXECUTE format('ALTER TABLE public.%I ADD COLUMN IF NOT EXISTS change_xid xid8,'
                           ' ADD COLUMN IF NOT EXISTS change_id bigint,'
                           ' ADD COLUMN IF NOT EXISTS changed_at timestamptz', tab);
            COMMIT;
        END IF;
        IF (SELECT count(*) FROM pg_catalog.pg_attribute
            WHERE attrelid = format('public.%I', tab)::regclass
              AND attname IN ('change_xid', 'change_id', 'changed_at') AND atthasdef) < 3 THEN
            EXECUTE format('ALTER TABLE public.%I ALTER COLUMN change_xid SET DEFAULT pg_current_xact_id(),'
                           ' ALTER COLUMN change_id SET DEFAULT nextval(''telemetra.change_id_seq''::regclass),'
                           ' ALTER COLUMN changed_at SET DEFAULT clock_timestamp()', tab);
            COMMIT;
        END IF;
    END LOOP;
END
$$;

-- An index whose concurrent build broke off is there and of no use.
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
        WHERE c.relnamespace = 'public'::regnamespace AND NOT i.indisvalid
          AND c.relname LIKE 'telemetra\_%\_change'
    LOOP
        EXECUTE format('DROP INDEX public.%I', name);
        COMMIT;
    END LOOP;
END
$$;

-- A concurrent build waits for the transactions that are open, and holds up
-- neither readers nor writers meanwhile.
SET lock_timeout = 0;

CREATE INDEX CONCURRENTLY IF NOT EXISTS telemetra_summary_change ON public.chat_summary_minute (change_xid) WHERE change_xid IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS telemetra_moments_change ON public.moments (change_xid) WHERE change_xid IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS telemetra_streams_change ON public.streams (change_xid) WHERE change_xid IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS telemetra_viewers_change ON public.viewer_timeseries (change_xid) WHERE change_xid IS NOT NULL;

---- create above / drop below ----

---- tern: disable-tx ----
SET lock_timeout = '200ms';

-- One table at a time; with its columns go their defaults and index.
DO $$
DECLARE
    tab text;
    name text;
BEGIN
    FOREACH tab IN ARRAY ARRAY['chat_summary_minute', 'moments', 'streams', 'viewer_timeseries'] LOOP
        FOR name IN
            SELECT c.relname FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
            WHERE i.indrelid = to_regclass(format('public.%I', tab)) AND c.relname LIKE 'telemetra\_%\_change'
        LOOP
            EXECUTE format('DROP INDEX public.%I', name);
        END LOOP;
        EXECUTE format('ALTER TABLE public.%I DROP COLUMN IF EXISTS change_xid,'
                       ' DROP COLUMN IF EXISTS change_id, DROP COLUMN IF EXISTS changed_at', tab);
        COMMIT;
    END LOOP;
END
$$;
