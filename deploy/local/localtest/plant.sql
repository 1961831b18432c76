-- Plants, in the schema of the setting plant.schema, an overload for every function and
-- operator of pg_catalog, a relation for every relation and a type with casts for every
-- type there. Who comes to call one of them by its name alone, along a search_path that
-- names the schema, is told by an error and by a number of the sequence "called".
--
-- An overload has the arguments of the original, and others that fit some calls better:
-- in these a family of types is replaced by one of its members. It is all made by a role
-- without any right but CREATE on the schema.

-- substitute is the arguments with each type of a flavour's families replaced. Null: one
-- cannot be written in a function of a user.
CREATE FUNCTION pg_temp.substitute(arguments oid[], flavour int) RETURNS oid[]
LANGUAGE sql SET search_path = pg_catalog AS $$
    SELECT CASE WHEN count(*) = 0 THEN '{}' WHEN bool_and(t.typtype <> 'p' OR t.oid = 'record'::regtype) THEN array_agg(t.oid ORDER BY a.place) END
    FROM unnest(arguments) WITH ORDINALITY AS a (type, place)
    JOIN pg_type AS old ON old.oid = a.type
    JOIN pg_type AS t ON t.oid = coalesce((
        SELECT to_regtype(replacement) FROM (VALUES
            (1, 'text', 'varchar'), (1, 'int8', 'int4'), (1, 'int4', 'int8'), (1, 'float8', 'numeric'),
            (1, 'any', 'int8'), (1, 'anyelement', 'int8'), (1, 'anynonarray', 'int8'), (1, 'anycompatible', 'int8'),
            (1, 'anyarray', 'int8[]'), (1, 'anycompatiblearray', 'int8[]'), (1, 'anycompatiblenonarray', 'int8'),
            (2, 'text', 'name'), (2, 'int8', 'int2'), (2, 'int4', 'int2'), (2, 'float8', 'int4'),
            (2, 'any', 'text'), (2, 'anyelement', 'text'), (2, 'anynonarray', 'text'), (2, 'anycompatible', 'text'),
            (2, 'anyarray', 'text[]'), (2, 'anycompatiblearray', 'text[]'), (2, 'anycompatiblenonarray', 'text'),
            (3, 'any', 'varchar'), (3, 'anyelement', 'varchar'), (3, 'anynonarray', 'varchar'), (3, 'anycompatible', 'varchar'),
            (3, 'anyarray', 'varchar[]'), (3, 'anycompatiblearray', 'varchar[]'), (3, 'anycompatiblenonarray', 'varchar'),
            (4, 'any', 'xid8'), (4, 'anyelement', 'xid8'), (4, 'anynonarray', 'xid8'), (4, 'anycompatible', 'xid8'),
            (4, 'anyarray', 'xid8[]'), (4, 'anycompatiblearray', 'xid8[]'), (4, 'anycompatiblenonarray', 'xid8')
        ) AS families (number, type, replacement)
        WHERE number = flavour % 10 AND families.type = old.typname
          -- 10 and 20: the left or the right argument alone
          AND (flavour < 10 OR a.place = flavour / 10)), old.oid)
$$;

DO $$
DECLARE
    place text := pg_catalog.current_setting('plant.schema');
    found record;
    arguments oid[];
    list text;
    returns text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', false);
    EXECUTE format('CREATE SEQUENCE %I.called', place);
    EXECUTE format('GRANT USAGE ON SEQUENCE %I.called TO PUBLIC', place);
    EXECUTE format($f$
        CREATE FUNCTION %1$I.planted(what text) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog AS $p$
        BEGIN
            PERFORM nextval('%1$I.called');
            RAISE EXCEPTION 'planted in %1$I and called: %%', what;
        END $p$ $f$, place);

    FOR found IN
        SELECT DISTINCT p.proname AS name, p.prokind IN ('a', 'w') AS gathers, p.proretset AS many, r.typtype = 'p' AS pseudo, p.prorettype::regtype AS result,
               CASE WHEN p.provariadic <> 0 AND p.proargtypes[p.pronargs - 1] = '"any"'::regtype THEN p.proargtypes::oid[] || p.proargtypes::oid[] ELSE ARRAY(SELECT unnest(p.proargtypes)) END AS arguments,
               flavour
        FROM pg_proc AS p
        JOIN pg_type AS r ON r.oid = p.prorettype
        CROSS JOIN unnest(ARRAY[0, 1, 2, 3, 4, 11, 21]) AS flavour
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a', 'w')
    LOOP
        arguments := pg_temp.substitute(found.arguments, found.flavour);
        CONTINUE WHEN arguments IS NULL OR (found.flavour > 0 AND arguments = found.arguments);
        SELECT string_agg(a::regtype::text, ', ' ORDER BY n) INTO list FROM unnest(arguments) WITH ORDINALITY AS u (a, n);
        returns := CASE WHEN found.many THEN 'SETOF ' ELSE '' END || CASE WHEN found.pseudo THEN 'text' ELSE found.result::text END;
        BEGIN
            IF found.gathers THEN
                EXECUTE format('CREATE FUNCTION %I.transition(%s) RETURNS text LANGUAGE plpgsql AS %L', place, concat_ws(', ', 'text', list),
                               format('BEGIN PERFORM %I.planted(%L); END', place, found.name));
                EXECUTE format('CREATE AGGREGATE %I.%I(%s) (SFUNC = %I.transition, STYPE = text)', place, found.name, coalesce(list, '*'), place);
            ELSE
                EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', place, found.name, list, returns,
                               format('BEGIN PERFORM %I.planted(%L); END', place, format('%s(%s)', found.name, list)));
            END IF;
        EXCEPTION WHEN duplicate_function THEN
            NULL; -- two originals come to the same
        END;
    END LOOP;

    FOR found IN
        SELECT o.oprname AS name, o.oprleft AS lhs, o.oprright AS rhs, o.oprresult::regtype AS result, r.typtype = 'p' AS pseudo, flavour
        FROM pg_operator AS o
        JOIN pg_type AS r ON r.oid = o.oprresult
        CROSS JOIN unnest(ARRAY[0, 1, 2, 3, 4, 11, 21]) AS flavour
        WHERE o.oprnamespace = 'pg_catalog'::regnamespace
    LOOP
        arguments := pg_temp.substitute(array_remove(ARRAY[found.lhs, found.rhs], 0::oid), found.flavour);
        CONTINUE WHEN arguments IS NULL;
        SELECT string_agg(a::regtype::text, ', ' ORDER BY n) INTO list FROM unnest(arguments) WITH ORDINALITY AS u (a, n);
        returns := CASE WHEN found.pseudo THEN 'text' ELSE found.result::text END;
        BEGIN
            EXECUTE format('CREATE OR REPLACE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', place, 'operator ' || found.name, list, returns,
                           format('BEGIN PERFORM %I.planted(%L); END', place, format('%s for %s', found.name, list)));
            EXECUTE format('CREATE OPERATOR %I.%s (%s RIGHTARG = %s, FUNCTION = %I.%I)', place, found.name,
                           CASE WHEN found.lhs <> 0 THEN format('LEFTARG = %s, ', arguments[1]::regtype) ELSE '' END,
                           arguments[cardinality(arguments)]::regtype, place, 'operator ' || found.name);
        EXCEPTION WHEN duplicate_function OR invalid_function_definition THEN
            NULL; -- the same with another result
        END;
    END LOOP;

    FOR found IN
        SELECT t.typname AS name FROM pg_type AS t
        WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typcategory <> 'A'
    LOOP
        EXECUTE format('CREATE TYPE %I.%I AS ENUM (%L)', place, found.name, 'x');
        FOREACH list IN ARRAY ARRAY['text', 'varchar', 'int4', 'int8', 'xid8', 'timestamptz'] LOOP
            EXECUTE format('CREATE FUNCTION %I.%I(pg_catalog.%I) RETURNS %I.%I LANGUAGE plpgsql AS %L', place, 'cast to ' || found.name, list, place, found.name,
                           format('BEGIN PERFORM %I.planted(%L); END', place, format('the cast of %s to %s', list, found.name)));
            EXECUTE format('CREATE CAST (pg_catalog.%I AS %I.%I) WITH FUNCTION %I.%I(pg_catalog.%I) AS IMPLICIT', list, place, found.name, place, 'cast to ' || found.name, list);
            EXECUTE format('CREATE FUNCTION %I.%I(%I.%I) RETURNS pg_catalog.%I LANGUAGE plpgsql AS %L', place, 'cast from ' || found.name || ' to ' || list, place, found.name, list,
                           format('BEGIN PERFORM %I.planted(%L); END', place, format('the cast of %s to %s', found.name, list)));
            EXECUTE format('CREATE CAST (%I.%I AS pg_catalog.%I) WITH FUNCTION %I.%I(%I.%I) AS ASSIGNMENT', place, found.name, list, place, 'cast from ' || found.name || ' to ' || list, place, found.name);
        END LOOP;
    END LOOP;

    FOR found IN
        SELECT c.relname AS name FROM pg_class AS c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v')
    LOOP
        EXECUTE format('CREATE VIEW %I.%I AS SELECT %I.planted(%L)', place, found.name, place, found.name);
    END LOOP;
END
$$;
