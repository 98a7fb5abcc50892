-- How far this log was published on a broker, per epoch: a restored log is published anew.

create table relay_marks (
    topic     text collate "C" not null,
    partition int not null,
    epoch     int not null,
    seq       bigint not null,
    primary key (topic, partition)
) with (fillfactor = 40);

-- Compare-and-set of many marks, all or none. One never set stands at 0 (`before`).
create function mark_published(
    p_epoch int, p_topic text[], p_partition int[], p_before bigint[], p_after bigint[]
) returns void language plpgsql as $$
declare
    done bigint;
begin
    perform 1 from relay_marks m join unnest(p_topic, p_partition) as w (topic, partition)
        using (topic, partition) order by m.topic, m.partition for no key update of m;
    insert into relay_marks as m (topic, partition, epoch, seq)
        select w.topic, w.partition, p_epoch, w.after
        from unnest(p_topic, p_partition, p_before, p_after) as w (topic, partition, before, after)
            left join relay_marks m using (topic, partition)
        where w.before = case when m.epoch = p_epoch then m.seq else 0 end
        order by w.topic, w.partition
        on conflict (topic, partition) do update set epoch = p_epoch, seq = excluded.seq;
    get diagnostics done = row_count;
    if done <> cardinality(p_topic) then
        raise exception using errcode = 'SW002', message = 'mark',
            detail = json_build_array(p_topic[1] || '/' || p_partition[1])::text;
    end if;
end $$;

-- Publish again from `p_seq` on: a reader misses rows that were published before.
create function publish_again(p_epoch int, p_topic text, p_partition int, p_seq bigint)
returns void language sql as $$
    update relay_marks set seq = least(seq, p_seq - 1)
        where topic = p_topic and partition = p_partition and epoch = p_epoch
$$;

-- Where this service's readers of a broker may begin; a little behind the cursors.
create table reader_hints (
    topic       text collate "C" not null,
    partition   int not null,
    next_offset bigint not null,
    primary key (topic, partition)
) with (fillfactor = 40);
