-- Why a table cannot be replaced by another one under its name: one row per reason, none when it can.
-- Whatever depends on the table itself would be lost or would go on pointing at the old one; what belongs to it
-- (indexes, constraints, defaults, serial sequences, grants, comments, options) can be made anew.
-- Parameter: the table's OID. PostgreSQL 12 and later.
with t as (
    select c.*, n.nspname, ty.typarray
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    left join pg_catalog.pg_type ty on ty.oid = c.reltype
    where c.oid = %(oid)s::oid
)
select 'it is not an ordinary, permanent table' from t
where relkind <> 'r' or relispartition or reloftype <> 0 or relpersistence <> 'p'
union all
select 'it uses another access method than heap' from t
join pg_catalog.pg_am am on am.oid = t.relam and am.amname <> 'heap'
union all
select 'it lies in a tablespace of its own' from t where reltablespace <> 0
union all
select 'it has row-level security' from t where relrowsecurity or relforcerowsecurity
union all
select 'its replica identity is set' from t where relreplident <> 'd'
union all
select 'its TOAST table has options' from t
join pg_catalog.pg_class toast on toast.oid = t.reltoastrelid and toast.reloptions is not null
union all
select 'the user does not own it' from t
where relowner <> (select r.oid from pg_catalog.pg_roles r where r.rolname = current_user)
    and not (select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user)
union all
select 'the user may not create tables in its schema' from t
where not pg_catalog.has_schema_privilege(relnamespace, 'CREATE')
union all
select 'it is published' from t
join pg_catalog.pg_publication_tables p on p.schemaname = t.nspname and p.tablename = t.relname
union all
select 'it takes part in inheritance' from t
join pg_catalog.pg_inherits i on t.oid in (i.inhrelid, i.inhparent)
union all
select 'it has a security label' from t
join pg_catalog.pg_seclabel s on s.objoid = t.oid and s.classoid = 'pg_catalog.pg_class'::regclass
union all
select 'it belongs to an extension' from t
join pg_catalog.pg_depend d
    on d.classid = 'pg_catalog.pg_class'::regclass and d.objid = t.oid and d.deptype in ('e', 'x')
union all
select 'a column is an identity or has statistics settings' from t
join pg_catalog.pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
    and (a.attidentity <> '' or coalesce(a.attstattarget, -1) <> -1 or a.attoptions is not null)
union all
select 'a privilege was granted by another than the owner' from t
cross join lateral (
    select x.grantor from pg_catalog.aclexplode(t.relacl) x
    union all
    select x.grantor from pg_catalog.pg_attribute a
    cross join lateral pg_catalog.aclexplode(a.attacl) x
    where a.attrelid = t.oid and a.attacl is not null
) g
where g.grantor <> t.relowner
union all
select 'an index is invalid, clustered, in a tablespace of its own or a replica identity' from t
join pg_catalog.pg_index i on i.indrelid = t.oid
join pg_catalog.pg_class ic on ic.oid = i.indexrelid
where not i.indisvalid or i.indisclustered or i.indisreplident or ic.reltablespace <> 0
union all
select 'an index has statistics settings' from t
join pg_catalog.pg_index i on i.indrelid = t.oid
join pg_catalog.pg_attribute a on a.attrelid = i.indexrelid and coalesce(a.attstattarget, -1) <> -1
union all
select 'other objects depend on it: ' || pg_catalog.pg_describe_object(d.classid, d.objid, 0) from t
join pg_catalog.pg_depend d on d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = t.oid
left join pg_catalog.pg_class dc on d.classid = 'pg_catalog.pg_class'::regclass and dc.oid = d.objid
left join pg_catalog.pg_constraint k on d.classid = 'pg_catalog.pg_constraint'::regclass and k.oid = d.objid
where not (
    coalesce(dc.relkind in ('i', 't') or dc.relkind = 'S' and d.deptype = 'a', false)
    or coalesce(
        k.conrelid = t.oid and (k.contype in ('p', 'u', 'x', 'c', 'n') or k.contype = 'f' and k.confrelid <> t.oid),
        false
    )
    or d.classid = 'pg_catalog.pg_attrdef'::regclass
    or d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.reltype
)
union all
select 'other objects use its row type: ' || pg_catalog.pg_describe_object(d.classid, d.objid, 0) from t
join pg_catalog.pg_depend d
    on d.refclassid = 'pg_catalog.pg_type'::regclass and d.refobjid in (t.reltype, t.typarray)
where not (d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.typarray)
