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

-- name: log_rows
-- Rows of one log past the rebuilt cursors and up to the live ones, with the positions that the
-- live read models gave them.
select l.topic, l.partition, l.seq, l.stream, l.version, l.type, l.schema_version, l.data, l.meta,
       e.position
from unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[])
        as w (topic, partition, after, upto)
    cross join lateral (
        select * from {source}.log
        where log.topic = w.topic and log.partition = w.partition
            and log.seq > w.after and log.seq <= w.upto
        order by log.seq limit $6
    ) l
    left join {live}.events e
        on e.source = $1 and e.partition = l.partition and e.seq = l.seq
limit $6;
