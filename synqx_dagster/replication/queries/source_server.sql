-- What a source's server and the user's rights allow; one row. PostgreSQL 12 and later.
select
    pg_catalog.current_setting('server_version_num')::int,
    pg_catalog.current_setting('wal_level'),
    current_user::text,
    pg_catalog.current_database()::text,
    pg_catalog.pg_is_in_recovery(),
    -- The right itself is not inherited; on Amazon RDS it comes with a role.
    r.rolsuper or r.rolreplication or exists (
        select
        from pg_catalog.pg_roles m
        where m.rolname = 'rds_replication' and pg_catalog.pg_has_role(m.oid, 'USAGE')
    ),
    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
    pg_catalog.current_setting('max_replication_slots')::int,
    (select count(*) from pg_catalog.pg_replication_slots)::int,
    array(select slot_name::text from pg_catalog.pg_replication_slots where not active order by slot_name),
    pg_catalog.current_setting('max_wal_senders')::int,
    (select count(*) from pg_catalog.pg_stat_replication)::int
from pg_catalog.pg_roles r
where r.rolname = current_user
