-- What exports and imports ask of one service's tables. `{schema}` is the service's schema,
-- `{work}` the one of its work queue.

-- name: exists
select to_regclass($1) is not null;

-- name: epoch
select epoch from {schema}.epoch;

-- name: heads
select topic, partition, seq from {schema}.heads order by topic, partition;

-- name: rows
select seq, stream, version, type, schema_version, data, meta, recorded_on::text
from {schema}.log
where topic = $1 and partition = $2 and seq > $3 and seq <= $4
order by seq limit $5;

-- name: cursors
select source, topic, partition, epoch, seq from {schema}.cursors order by 1, 2, 3;

-- name: reservations
select name, stream from {schema}.reservations order by 1;

-- name: parked
select source, topic, partition, seq, key, reason, at, coalesce(asked, '')
from {schema}.parked order by 1, 2, 3, 4;

-- name: timers
select stream, name, partition, due, type, schema_version, data, meta
from {schema}.timers order by 1, 2;

-- name: blobs
select sha256 from {schema}.blobs order by 1;

-- name: blob
select content from {schema}.blobs where sha256 = $1;

-- name: effects
-- `ready_at` of one that runs is in the past: it is as good as ready.
select e.effect_id, e.stream, e.partition, e.stream_version, l.kind, e.type, e.schema_version,
       e.data, e.meta, l.work_class, l.priority, l.plan, e.due, e.ready_at, l.interval_s, l.needs,
       e.attempt, e.cancel_requested
from {work}.effects e join {work}.lanes l using (lane_id)
where l.service = '{schema}'
order by e.due, e.effect_id;

-- name: budgets
select name, mode, concurrent, burst, per_second from {work}.budgets order by 1;

-- name: seats
select b.name, s.stream from {work}.seats s join {work}.budgets b using (budget_id) order by 1, 2;

-- name: claim_no
select last_value from {work}.claim_numbers;

-- name: used
-- Whether anything was ever written, and whether a copy of the service is alive.
select exists (select from {schema}.heads) or exists (select from {schema}.streams)
           or exists (select from {schema}.log) or exists (select from {schema}.cursors)
           or exists (select from {schema}.timers),
       exists (select from {schema}.copies where expires_at > clock_timestamp());

-- name: lock
-- No copy gets partitions before this transaction has ended.
select pg_advisory_xact_lock(hashtextextended('balance {schema}', 0));

-- name: put_head
insert into {schema}.heads values ($1, $2, $3);

-- name: put_streams
insert into {schema}.streams
    select stream, max(version) from {schema}.log where version > 0 group by stream;

-- name: put_epoch
update {schema}.epoch set epoch = greatest(epoch, $1) + 1 returning epoch;

-- name: put_parked
insert into {schema}.parked (source, topic, partition, seq, key, reason, at, asked)
    values ($1, $2, $3, $4, $5, $6, $7, nullif($8, ''));

-- name: put_blob
insert into {schema}.blobs (sha256, content) values ($1, $2) on conflict do nothing;

-- name: put_budgets
select work_define($1::text[], $2::text[], $3::int[], $4::float8[], $5::float8[]);

-- name: put_effects
select work_enqueue('{schema}', $1::text[], $2::text[], $3::int[], $4::text[], $5::text[],
    $6::int[], $7::json[], $8::json[], $9::int[], $10::int[], $11::text[], $12::timestamptz[],
    $13::timestamptz[], $14::float8[], $15::text[], $16::int[]);

-- name: put_attempts
update effects e set attempt = u.attempt
from unnest($1::text[], $2::int[]) as u (id, attempt) where e.effect_id = u.id;

-- name: cancel_effects
select work_cancel($1::text[]);

-- name: put_seats
insert into seats
    select b.budget_id, u.stream
    from unnest($1::text[], $2::text[]) as u (name, stream) join budgets b using (name)
    on conflict do nothing;

-- name: count_seats
update budgets b set in_use = (select count(*) from seats s where s.budget_id = b.budget_id)
where b.mode = 'seat';

-- name: raise_claim_no
-- Above whatever the targets can have seen: claims are fewer than a thousand a second.
select setval('{work}.claim_numbers', greatest(
    (select last_value from {work}.claim_numbers), $1::bigint,
    (extract(epoch from clock_timestamp()) * 1000)::bigint));

-- name: analyze
analyze {schema}.log, {schema}.streams, {schema}.heads;
