-- A publication as it is; no row without it. Parameter: its name. PostgreSQL 12 to 14.
select
    p.oid::bigint,
    pg_catalog.pg_has_role(p.pubowner, 'USAGE'),
    p.puballtables,
    p.pubinsert and p.pubupdate and p.pubdelete and p.pubtruncate,
    coalesce((pg_catalog.to_jsonb(p) ->> 'pubviaroot')::bool, false),
    false as publishes_generated,
    '{}'::jsonb as schemas,
    pg_catalog.obj_description(p.oid, 'pg_publication'),
    (
        select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
            n.nspname, c.relname, r.oid::bigint, null, null
        )), '[]')
        from pg_catalog.pg_publication_rel r
        join pg_catalog.pg_class c on c.oid = r.prrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where r.prpubid = p.oid
    )
from pg_catalog.pg_publication p
where p.pubname = ?
