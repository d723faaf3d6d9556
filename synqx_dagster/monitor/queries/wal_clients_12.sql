-- Who reads the log. Without the role pg_read_all_stats the server shows a process and nothing else of it.
with log_end as (
    select
        case
            when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn())
            else pg_current_wal_lsn()
        end as lsn
)

select
    client.pid as pid,
    client.usename::text as user_name,
    client.application_name as application_name,
    host(client.client_addr) as address,
    client.state as state,
    client.sync_state as sync_state,
    (log_end.lsn - client.sent_lsn)::int8 as sent_lag_bytes,
    (log_end.lsn - client.write_lsn)::int8 as write_lag_bytes,
    (log_end.lsn - client.flush_lsn)::int8 as flush_lag_bytes,
    (log_end.lsn - client.replay_lsn)::int8 as replay_lag_bytes,
    extract(epoch from client.replay_lag)::float8 as replay_lag_seconds,
    client.backend_start as connected_at
from pg_stat_replication as client
cross join log_end
order by client.pid
