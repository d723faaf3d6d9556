-- Checkpoints, counted since a moment; from 17 on in a view of their own.
select
    num_timed::int8 as timed,
    num_requested::int8 as requested,
    write_time / 1000.0 as write_seconds,
    sync_time / 1000.0 as sync_seconds,
    buffers_written::int8 as buffers,
    stats_reset as reset_at
from pg_stat_checkpointer
