-- The partitions of a partitioned table at every level, as one JSON value; no row where it is none. PostgreSQL 12 and
-- later. Catalogs alone are read, with the statement's snapshot: no partition is locked.
with recursive tree as (
    select i.inhrelid, i.inhparent, i.xmin as by_transaction, i.cmin as by_command
    from pg_catalog.pg_inherits i
    where i.inhparent = pg_catalog.to_regclass({table})
        -- Version 14: it is being detached by DETACH CONCURRENTLY.
        and not coalesce((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::bool, false)
    union all
    select i.inhrelid, i.inhparent, i.xmin as by_transaction, i.cmin as by_command
    from tree t
    join pg_catalog.pg_inherits i on i.inhparent = t.inhrelid
    where not coalesce((pg_catalog.to_jsonb(i) ->> 'inhdetachpending')::bool, false)
)
select pg_catalog.json_build_object(
    'lsn', case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
        else pg_catalog.pg_current_wal_insert_lsn() end::text,
    'columns', (
        select pg_catalog.json_agg(
            pg_catalog.json_build_array(a.attnum, a.atttypid::bigint, a.atttypmod) order by a.attnum
        )
        from pg_catalog.pg_attribute a
        where a.attrelid = root.oid and a.attnum > 0 and not a.attisdropped
    ),
    'partitions', coalesce((
        select pg_catalog.json_agg(pg_catalog.json_build_array(
            c.oid::bigint,
            tree.inhparent::bigint,
            n.nspname || '.' || c.relname,
            c.relkind = 'p',
            c.relfilenode::bigint,
            tree.by_transaction::text,
            -- CREATE TABLE ... PARTITION OF makes the columns first. ATTACH rewrites every one of them with the very
            -- command that makes the table a partition. An xmax would overlay cmin.
            exists (
                select
                from pg_catalog.pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.xmin = tree.by_transaction
                    and a.cmin::text::bigint < tree.by_command::text::bigint and a.xmax::text = '0'
            )
        ))
        from tree
        join pg_catalog.pg_class c on c.oid = tree.inhrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    ), '[]')
)::text
from pg_catalog.pg_class root
where root.oid = pg_catalog.to_regclass({table}) and root.relkind = 'p'
