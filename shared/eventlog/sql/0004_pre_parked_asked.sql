-- What a person asked for a parked message: to be decided again (`retry`), or to be dropped so that
-- those behind it go on (`skip`). Null: nobody asked. A message that is set aside anew is not asked
-- for any more. The copy that holds the partition looks for it.
alter table parked add column asked text;
