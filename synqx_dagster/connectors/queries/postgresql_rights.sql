-- What the connection test reports: version, rights and TLS. PostgreSQL 12 and later.
select
    pg_catalog.current_setting('server_version') as server_version,
    exists (
        select
        from pg_catalog.pg_namespace n
        where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_'
            and pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    ) and (
        exists (
            select
            from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p', 'v', 'm', 'f')
                and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_'
                and pg_catalog.has_any_column_privilege(c.oid, 'SELECT')
        )
        or not exists (
            select
            from pg_catalog.pg_class c
            join pg_catalog.pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p', 'v', 'm', 'f')
                and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_'
        )
    ) as can_read,
    not pg_catalog.pg_is_in_recovery()
    and pg_catalog.current_setting('default_transaction_read_only') = 'off'
    and (
        pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
        or exists (
            select
            from pg_catalog.pg_namespace n
            where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
                and pg_catalog.has_schema_privilege(n.oid, 'CREATE')
        )
    ) as can_write,
    case when s.ssl then s.version else 'off' end as tls
from (select pg_catalog.pg_backend_pid() as pid) me
left join pg_catalog.pg_stat_ssl s on s.pid = me.pid
