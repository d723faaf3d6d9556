-- What a session is doing, asked by another one of the same user; PostgreSQL 12 and later.
select
    a.state,
    a.wait_event_type,
    a.wait_event,
    extract(epoch from a.backend_start)::text as started,
    pg_catalog.inet_server_addr()::text as server_address,
    pg_catalog.inet_server_port() as server_port,
    extract(epoch from pg_catalog.pg_postmaster_start_time())::text as server_started
from (select %s::int as pid) p
left join pg_catalog.pg_stat_activity a on a.pid = p.pid
