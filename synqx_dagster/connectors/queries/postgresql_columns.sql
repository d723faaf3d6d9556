-- Columns of tables and views with what a plan needs of each; one row per column, tables in order.
-- Parameters: schema or NULL for all but the system's, table or NULL for all the user may read.
-- A table without columns gives one row without a column. PostgreSQL 12 and later.
select
    n.nspname,
    c.relname,
    c.relkind in ('v', 'm') as is_view,
    case when c.relkind in ('r', 'm', 'f') and c.reltuples >= 0 then c.reltuples::bigint end as estimated_rows,
    a.attname,
    a.atttypid::bigint,
    a.atttypmod,
    pg_catalog.format_type(a.atttypid, a.atttypmod) as native_type,
    a.attnotnull,
    a.attgenerated <> '' as is_generated,
    a.atthasdef and a.attgenerated = '' or a.attidentity <> '' as has_default,
    (
        select k.position
        from pg_catalog.pg_index i
        cross join lateral unnest(i.indkey::smallint[]) with ordinality as k (attnum, position)
        where i.indrelid = c.oid and i.indisprimary and k.attnum = a.attnum and k.position <= i.indnkeyatts
    ) as key_position
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p', 'v', 'm', 'f')
    and case
        when %(schema)s::text is null then
            n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
        else n.nspname = %(schema)s::text
    end
    and case
        when %(table)s::text is null then
            not c.relispartition
            and pg_catalog.has_schema_privilege(n.oid, 'USAGE')
            and pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
        else c.relname = %(table)s::text
    end
order by n.nspname, c.relname, a.attnum
