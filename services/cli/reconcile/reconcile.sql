-- name: unsettled
-- Work that is still to be done, page by page.
select effect_id, stream, type, schema_version, data
from {work}.effects
where effect_id > $1
order by effect_id limit $2;
