-- Where the log ends, and since when this server runs. A standby's log ends where it was replayed to.
select
    current_user::text as user_name,
    current_setting('server_version') as server_version,
    pg_postmaster_start_time() as started_at,
    extract(epoch from clock_timestamp())::float8 as server_seconds,
    pg_is_in_recovery() as is_standby,
    pg_has_role(current_user, 'pg_read_all_stats', 'usage') as reads_all_stats,
    (
        case
            when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn())
            else pg_current_wal_lsn()
        end - '0/0'::pg_lsn
    )::int8 as wal_lsn,
    case when pg_is_in_recovery() then (pg_last_wal_receive_lsn() - '0/0'::pg_lsn)::int8 end as received_lsn,
    case
        when pg_is_in_recovery() then extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8
    end as replay_age_seconds,
    case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end as timeline
