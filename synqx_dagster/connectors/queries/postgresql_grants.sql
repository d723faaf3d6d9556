-- Privileges on a table and its columns as they are stored: column or NULL, grantee (NULL is PUBLIC), privilege,
-- grantable; in stored order.
-- Parameter: the table's OID. PostgreSQL 12 and later.
select null as column_name, r.rolname::text as grantee, x.privilege_type, x.is_grantable
from pg_catalog.pg_class c
cross join lateral pg_catalog.aclexplode(c.relacl) with ordinality
    as x (grantor, grantee, privilege_type, is_grantable, position)
left join pg_catalog.pg_roles r on r.oid = x.grantee
where c.oid = %(oid)s::oid
union all
select a.attname::text, r.rolname::text, x.privilege_type, x.is_grantable
from pg_catalog.pg_attribute a
cross join lateral pg_catalog.aclexplode(a.attacl) x
left join pg_catalog.pg_roles r on r.oid = x.grantee
where a.attrelid = %(oid)s::oid and a.attacl is not null and not a.attisdropped
