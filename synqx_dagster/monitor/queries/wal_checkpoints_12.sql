-- Checkpoints, counted since a moment.
select
    checkpoints_timed::int8 as timed,
    checkpoints_req::int8 as requested,
    checkpoint_write_time / 1000.0 as write_seconds,
    checkpoint_sync_time / 1000.0 as sync_seconds,
    buffers_checkpoint::int8 as buffers,
    stats_reset as reset_at
from pg_stat_bgwriter
