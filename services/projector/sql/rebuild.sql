-- The rebuild's statements. Unqualified names are the new tables in `read_next`; the live ones are
-- named with their schema.

-- name: drop_next
drop schema if exists read_next cascade;
drop schema if exists read_old cascade;

-- name: drop_old
set lock_timeout = '2s';
drop schema if exists read_old cascade;

-- name: indexes
-- Everything but the keys of documents and cursors, by which a rebuild itself finds rows: how it
-- goes, and how it is made again.
select case when k.oid is null
            then format('drop index %I', c.relname)
            else format('alter table %I drop constraint %I', t.relname, k.conname) end as gone,
       case when k.oid is null
            then pg_get_indexdef(i.indexrelid)
            else format('alter table %I add constraint %I %s', t.relname, k.conname,
                        pg_get_constraintdef(k.oid)) end as made
from pg_index i
    join pg_class c on c.oid = i.indexrelid
    join pg_class t on t.oid = i.indrelid
    left join pg_constraint k on k.conindid = i.indexrelid and k.contype in ('p', 'u')
where c.relnamespace = 'read_next'::regnamespace
    and (k.oid is null or t.relname = 'events')
order by c.relname;

-- name: live_cursors
select source, topic, partition, seq from read.cursors;

-- name: log_rows_elsewhere
-- The rows of `log_rows` where the log is in another database; `positions` are asked for apart.
select (select epoch from {source}.epoch), l.partition, l.seq, l.stream, l.version, l.type,
       l.schema_version, l.data, l.meta
from unnest($2::int[], $3::bigint[], $4::bigint[]) as w (partition, after, upto)
    cross join lateral (
        select * from {source}.log
        where log.topic = $1 and log.partition = w.partition
            and log.seq > w.after and log.seq <= w.upto
        order by log.seq limit $5
    ) l
limit $5;

-- name: positions
-- The positions that the live read models gave to events, in the order that they are asked in.
select e.position
from unnest($2::int[], $3::bigint[]) with ordinality as w (partition, seq, at)
    left join read.events e on e.source = $1 and e.partition = w.partition and e.seq = w.seq
order by w.at;

-- name: log_rows
-- Rows of one log past the rebuilt cursors and up to the live ones, in order, with the positions
-- that the live read models gave to their events.
select (select epoch from {source}.epoch), l.partition, l.seq, l.stream, l.version, l.type,
       l.schema_version, l.data, l.meta, e.position
from unnest($3::int[], $4::bigint[], $5::bigint[]) as w (partition, after, upto)
    cross join lateral (
        select * from {source}.log
        where log.topic = $2 and log.partition = w.partition
            and log.seq > w.after and log.seq <= w.upto
        order by log.seq limit $6
    ) l
    left join read.events e on e.source = $1 and e.partition = l.partition and e.seq = l.seq
limit $6;

-- name: take_positions
update read.event_head set position = position + $1 returning position;

-- name: move_cursors
update cursors c set seq = k.seq, epoch = k.epoch
from unnest($1::text[], $2::int[], $3::text[], $4::int[], $5::bigint[])
    as k (source, epoch, topic, partition, seq)
where c.source = k.source and c.topic = k.topic and c.partition = k.partition;

-- name: prune
delete from jobs where id in (
    select id from jobs
    where created_at < now() - make_interval(days => $1)
        and ended_at < now() - make_interval(days => $1)
        and kind in ('iteration', 'replication-run'));

-- name: lock_live_cursors
select source, topic, partition, seq from read.cursors
order by source, topic, partition for update;

-- name: take_over
update event_head
    set position = live.position, generation = live.generation + 1
    from read.event_head live;
insert into progress select * from read.progress;
insert into freshness select * from read.freshness;
delete from read.cursors;

-- name: swap
alter schema read rename to read_old;
alter schema read_next rename to read;
