-- What the server counted in a table and its partitions, as one text; no row where there is no such table.
-- TRUNCATE counts no rows, and gives the table another file. PostgreSQL 12 and later.
select
    coalesce(sum(s.n_tup_ins), 0) || ':' || coalesce(sum(s.n_tup_upd), 0) || ':' || coalesce(sum(s.n_tup_del), 0)
    || ':' || pg_catalog.md5(string_agg(p.oid || '=' || p.relfilenode, ',' order by p.oid))
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
cross join lateral (
    select c.oid as oid
    union
    select t.relid::oid from pg_catalog.pg_partition_tree(c.oid) t
) tree
join pg_catalog.pg_class p on p.oid = tree.oid
left join pg_catalog.pg_stat_all_tables s on s.relid = tree.oid
where n.nspname = %(schema)s and c.relname = %(table)s and c.relkind in ('r', 'p', 'm')
group by c.oid
