-- Replication slots, and how far behind the end of the log each keeps it; from 13 on also what becomes of it.
with log_end as (
    select
        case
            when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn())
            else pg_current_wal_lsn()
        end as lsn
)

select
    slot.slot_name::text as name,
    slot.slot_type as slot_type,
    slot.plugin::text as plugin,
    slot.database::text as database_name,
    slot.temporary as temporary,
    slot.active as active,
    slot.active_pid as active_pid,
    (log_end.lsn - slot.restart_lsn)::int8 as restart_lag_bytes,
    (log_end.lsn - slot.confirmed_flush_lsn)::int8 as confirmed_lag_bytes,
    slot.wal_status as wal_status,
    slot.safe_wal_size as safe_wal_bytes,
    null::timestamptz as inactive_since,
    null::text as invalidation_reason
from pg_replication_slots as slot
cross join log_end
order by slot.slot_name
