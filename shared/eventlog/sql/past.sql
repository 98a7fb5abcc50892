-- name: stretch
-- Events of the streams from $1 to below $2, stream by stream in their versions' order, past
-- (stream, version) = ($3, $4). The one index over streams gives them as they lie in it.
select (select epoch from {source}.epoch) as epoch, topic, partition, seq, stream, version, type,
       schema_version, data, meta
from {source}.log
where version > 0 and stream >= $1 and stream < $2 and (stream, version) > ($3, $4)
    and type <> all ($5::text[])
order by stream, version limit $6;

-- name: which_exist
-- Which of some streams have events.
select stream from {source}.streams where stream = any ($1::text[]);
