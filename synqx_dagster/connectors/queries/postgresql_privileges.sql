-- Which privileges a load lacks: one row for each, none when all are there. PostgreSQL 12 and later.
-- Who owns a table, or belongs to the role that does, passes: the owner may do what the privileges say, and swap it.
-- Parameters: arrays of one length (schemas, tables, privileges, whether all columns), and the schema to create in.
with wanted as (
    select *
    from unnest(%(schemas)s::text[], %(tables)s::text[], %(privileges)s::text[], %(all_columns)s::bool[])
        with ordinality as w (schema_name, table_name, privilege, all_columns, position)
),
found as (
    select 1 as part, min(w.position) as position, 'schema' as kind, n.nspname::text as schema_name,
        null as table_name, 'USAGE' as privilege
    from wanted w
    join pg_catalog.pg_namespace n on n.nspname = w.schema_name
    where not pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    group by n.nspname
    union all
    select 2, 0, 'schema', n.nspname::text, null, 'CREATE'
    from pg_catalog.pg_namespace n
    where n.nspname = %(creates_in)s and not pg_catalog.has_schema_privilege(n.oid, 'CREATE')
    union all
    select 2, 0, 'database', pg_catalog.current_database()::text, null, 'CREATE'
    where %(creates_in)s::text is not null
        and not exists (select from pg_catalog.pg_namespace n where n.nspname = %(creates_in)s)
        and not pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
    union all
    select 3, w.position, 'table', w.schema_name, w.table_name, w.privilege
    from wanted w
    join pg_catalog.pg_namespace n on n.nspname = w.schema_name
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.table_name
        and c.relkind in ('r', 'p', 'v', 'm', 'f')
    where not pg_catalog.pg_has_role(c.relowner, 'USAGE')
        and not pg_catalog.has_table_privilege(c.oid, w.privilege)
        and not case
            when w.privilege = 'DELETE' then false
            when w.all_columns then not exists (
                select
                from pg_catalog.pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                    and not pg_catalog.has_column_privilege(c.oid, a.attnum, w.privilege)
            )
            else pg_catalog.has_any_column_privilege(c.oid, w.privilege)
        end
)
select kind, schema_name, table_name, privilege, current_user::text
from found
order by part, position
