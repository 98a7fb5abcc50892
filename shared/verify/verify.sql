-- What `seawall log verify` asks of one service's tables. `{schema}` is the service's schema. Every
-- statement reads a bounded part and ends within seconds; none of them writes.

-- name: exists
select to_regclass($1) is not null;

-- name: ends
-- Each (topic, partition) with its head and its last row, in one snapshot: both or one of them.
-- The partitions of the log are found by stepping through its key, not by reading it.
with recursive found as (
    (select topic, partition from {schema}.log order by topic, partition limit 1)
    union all
    select next.topic, next.partition
    from found cross join lateral (
        select topic, partition from {schema}.log
        where (log.topic, log.partition) > (found.topic, found.partition)
        order by topic, partition limit 1
    ) as next
)
select topic, partition, coalesce(h.seq, 0) as head,
       coalesce((select max(l.seq) from {schema}.log l
                 where l.topic = k.topic and l.partition = k.partition), 0) as last
from (select topic, partition from found union select topic, partition from {schema}.heads) as k
    left join {schema}.heads h using (topic, partition)
order by topic, partition;

-- name: epoch
select epoch from {schema}.epoch;

-- name: pages
select pg_relation_size('{schema}.log') / current_setting('block_size')::bigint;

-- name: rows_of_pages
-- The rows of some pages of the table, as they lie there: each page is read once, in order. Rows
-- past the heads we know were appended since; a row never moves.
select l.topic, l.partition, l.type, l.schema_version,
       count(*) as rows, min(l.seq) as first, max(l.seq) as last
from {schema}.log l
    join unnest($3::text[], $4::int[], $5::bigint[]) as h (topic, partition, seq)
        on l.topic = h.topic and l.partition = h.partition and l.seq <= h.seq
where l.ctid >= $1::tid and l.ctid < $2::tid
group by 1, 2, 3, 4;

-- name: row_of_type
select l.topic, l.partition, l.seq from {schema}.log l
where l.ctid >= $1::tid and l.ctid < $2::tid and l.type = $3 and l.schema_version = $4
limit 1;

-- name: gaps
-- What is missing of the seqs past $3 and up to $4.
select before + 1 as first, seq - 1 as last
from (
    select seq, lag(seq) over (order by seq) as before
    from (
        select seq from {schema}.log
        where topic = $1 and partition = $2 and seq > $3 and seq <= $4
        union all select $3::bigint
        union all select $4::bigint + 1
    ) as seqs
) as steps
where seq > before + 1
order by seq limit 20;

-- name: streams_page
select max(stream), count(*)
from (select stream from {schema}.streams where stream > $1 order by stream limit $2) as page;

-- name: wrong_streams
-- Streams past $1 and up to $2 whose rows are not the versions 1 … n that the stream stands at.
select coalesce(s.stream, l.stream) as stream, coalesce(s.version, 0) as version,
       coalesce(l.first, 0) as first, coalesce(l.last, 0) as last, coalesce(l.rows, 0) as rows
from (
    select stream, version from {schema}.streams where stream > $1 and stream <= $2
) as s full join (
    select stream, min(version) as first, max(version) as last, count(*) as rows
    from {schema}.log where version > 0 and stream > $1 and stream <= $2
    group by stream
) as l using (stream)
where s.version is distinct from l.last or l.first <> 1 or l.rows <> l.last
order by 1 limit 20;

-- name: cursors
select source, topic, partition, epoch, seq from {schema}.cursors where seq > 0;

-- name: content
select seq, stream, type, schema_version, data, meta from {schema}.log
where topic = $1 and partition = $2 and seq > $3 and seq <= $4
order by seq limit $5;
