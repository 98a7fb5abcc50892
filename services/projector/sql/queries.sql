-- name: cursors
select c.source, c.topic, c.partition, c.epoch, c.seq, h.generation
from cursors c, event_head h;

-- name: move_cursors
select move_cursors($1, $2, $3, $4, $5, $6, $7);

-- name: append_events
select append_events($1, $2, $3, $4, $5, $6, $7, $8);

-- name: tell_freshness
insert into freshness values ($1, $2, now())
on conflict (copy_id) do update set lag_s = excluded.lag_s, at = excluded.at;

-- name: prune_jobs
-- The children of a job that goes go with it: they ended before it did.
delete from jobs where id in (
    select id from jobs
    where created_at < now() - make_interval(days => $1)
        and ended_at < now() - make_interval(days => $1)
        and kind in ('iteration', 'replication-run')
    order by created_at limit 5000);

-- name: prune_progress
delete from progress where at < now() - interval '1 hour';
