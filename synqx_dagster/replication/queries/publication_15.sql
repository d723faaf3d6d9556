-- A publication as it is; no row without it. Parameter: its name. PostgreSQL 15 and later.
select
    p.oid::bigint,
    pg_catalog.pg_has_role(p.pubowner, 'USAGE'),
    p.puballtables,
    p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate,
    p.pubviaroot,
    -- Version 18.
    coalesce(pg_catalog.to_jsonb(p) ->> 'pubgencols' = 's', false),
    (
        select coalesce(pg_catalog.jsonb_object_agg(n.nspname, s.oid::bigint), '{}')
        from pg_catalog.pg_publication_namespace s
        join pg_catalog.pg_namespace n on n.oid = s.pnnspid
        where s.pnpubid = p.oid
    ),
    pg_catalog.obj_description(p.oid, 'pg_publication'),
    (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
            n.nspname,
            c.relname,
            r.oid::bigint,
            (
                select pg_catalog.jsonb_agg(a.attname order by a.attnum)
                from unnest(r.prattrs::smallint[]) as k (attnum)
                join pg_catalog.pg_attribute a on a.attrelid = r.prrelid and a.attnum = k.attnum
            ),
            pg_catalog.pg_get_expr(r.prqual, r.prrelid)
        )), '[]')
        from pg_catalog.pg_publication_rel r
        join pg_catalog.pg_class c on c.oid = r.prrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where r.prpubid = p.oid
    )
from pg_catalog.pg_publication p
where p.pubname = ?
