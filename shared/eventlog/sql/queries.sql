-- name: append_one
select append_one($1, $2, $3, $4, $5, $6, $7, $8);

-- name: epoch
select epoch from epoch;

-- name: load
-- Snapshots and events in one answer: a row with a schema is a snapshot. `after` 0 wants the
-- snapshot where there is one, below 0 everything from the first event.
with wanted as (
    select * from unnest($1::text[], $2::int[]) as w (stream, after)
)
select n.schema, null as topic, null as partition, null as seq, n.stream, n.version,
       null as type, null as schema_version, n.state as data, null as meta
from wanted w join snapshots n on n.stream = w.stream
where w.after = 0
union all
select null, l.topic, l.partition, l.seq, l.stream, l.version,
       l.type, l.schema_version, l.data, l.meta
from wanted w
    left join snapshots n on n.stream = w.stream and w.after = 0
    cross join lateral (
        select * from log
        where log.stream = w.stream and log.version > 0
            and log.version > coalesce(n.version, w.after)
        order by log.version
    ) l;

-- name: read
select l.partition, l.seq, l.stream, l.version, l.type, l.schema_version, l.data, l.meta
from unnest($2::int[], $3::bigint[]) as w (partition, after)
    join heads h on h.topic = $1 and h.partition = w.partition and h.seq > w.after
    cross join lateral (
        select * from log
        where log.topic = $1 and log.partition = w.partition and log.seq > w.after
        order by log.seq limit $4
    ) l
limit $4;

-- name: heads
select topic, partition, seq from heads where topic = any ($1::text[]);

-- name: cursors
select source, topic, partition, epoch, seq from cursors;

-- name: due_timers
select stream, name, partition, due, type, schema_version, data, meta, token
from timers
where due <= now() and partition = any ($1::int[])
order by due limit $2;

-- name: next_timer
select extract(epoch from due - now())::float8
from timers
where partition = any ($1::int[])
order by due limit 1;

-- name: parked
select source, topic, partition, seq, key, reason, at, coalesce(asked, '') from parked
order by source, topic, partition, seq;

-- name: ask_parked
update parked p set asked = nullif($1, '')
from unnest($2::text[], $3::text[], $4::int[], $5::bigint[]) as w (source, topic, partition, seq)
where p.source = w.source and p.topic = w.topic and p.partition = w.partition and p.seq = w.seq
returning p.seq;

-- name: put_blob
insert into blobs (sha256, content) values ($1, $2) on conflict do nothing;

-- name: get_blob
select content from blobs where sha256 = $1;

-- name: balance
select balance($1, $2, $3);

-- name: leave
select leave($1);

-- name: published
select topic, partition, seq from relay_marks where epoch = $1;

-- name: mark_published
select mark_published($1, $2, $3, $4, $5);

-- name: publish_again
select publish_again($1, $2, $3, $4);

-- name: hints
select topic, partition, next_offset from reader_hints;

-- name: save_hints
insert into reader_hints
select * from unnest($1::text[], $2::int[], $3::bigint[]) order by 1, 2
on conflict (topic, partition) do update set next_offset = excluded.next_offset;
