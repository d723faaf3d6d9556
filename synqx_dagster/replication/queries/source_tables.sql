-- Tables and partitions with what a publication needs of each, by schema and name. PostgreSQL 12 and later.
select
    c.oid::bigint,
    n.nspname::text,
    c.relname::text,
    c.relkind = 'p' as is_partitioned,
    case when c.relispartition then (
        select a.relid::oid::bigint
        from pg_catalog.pg_partition_ancestors(c.oid) with ordinality as a (relid, position)
        order by a.position desc
        limit 1
    ) end as root,
    c.relpersistence = 'p' as is_permanent,
    c.relreplident::text,
    pg_catalog.pg_has_role(c.relowner, 'USAGE') as is_owned,
    pg_catalog.has_schema_privilege(n.oid, 'USAGE') and (
        pg_catalog.has_table_privilege(c.oid, 'SELECT')
        or not exists (
            select
            from pg_catalog.pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                and not pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')
        )
    ) as may_read,
    not c.relispartition and c.relkind = 'r' and exists (
        select from pg_catalog.pg_inherits h where c.oid in (h.inhparent, h.inhrelid)
    ) as inherits,
    -- A key that may be checked late tells no rows apart for the log.
    array(
        select a.attname::text
        from pg_catalog.pg_index i
        cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, position)
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid and k.position <= i.indnkeyatts
        order by k.position
    ) as primary_key,
    array(
        select a.attname::text
        from pg_catalog.pg_index i
        cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, position)
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisreplident and i.indimmediate and i.indisvalid
            and k.position <= i.indnkeyatts
        order by k.position
    ) as identity_index,
    (
        select x.relname::text
        from pg_catalog.pg_index i
        join pg_catalog.pg_class x on x.oid = i.indexrelid
        where i.indrelid = c.oid and i.indisunique and i.indimmediate and i.indisvalid
            and i.indpred is null and i.indexprs is null
            and not exists (
                select
                from unnest(i.indkey::smallint[]) as k (attnum)
                join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
                where not a.attnotnull
            )
        order by i.indnkeyatts, x.relname
        limit 1
    ) as candidate,
    array(
        select a.attname::text
        from pg_catalog.pg_attribute a
        where a.attrelid = c.oid and a.attgenerated = 'v' and not a.attisdropped
        order by a.attnum
    ) as computed_when_read
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and c.relpersistence <> 't'
    and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
order by n.nspname, c.relname
