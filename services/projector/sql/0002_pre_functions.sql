-- What every batch does to cursors and events. Callers give cursors sorted by (source, topic,
-- partition): batches and a rebuild's swap lock them in that order, and `event_head` last.

-- Compare-and-set of many cursors, all or none. SW002: another copy moved them, or the read models
-- were rebuilt meanwhile.
create function move_cursors(
    p_generation bigint, k_source text[], k_epoch int[], k_topic text[], k_partition int[],
    k_before bigint[], k_after bigint[]
) returns void language plpgsql as $$
declare
    done bigint;
begin
    update cursors c set seq = k.after, epoch = k.epoch
        from unnest(k_source, k_epoch, k_topic, k_partition, k_before, k_after)
            as k (source, epoch, topic, partition, before, after)
        where c.source = k.source and c.topic = k.topic and c.partition = k.partition
            and c.seq = k.before and c.epoch in (0, k.epoch);
    get diagnostics done = row_count;
    if done <> cardinality(k_source)
        or p_generation <> (select generation from event_head) then
        raise exception using errcode = 'SW002', message = 'cursors of the read models moved';
    end if;
end $$;

-- Appends events in the order given; the head's row serialises positions in the order of commits.
create function append_events(
    e_source text[], e_partition int[], e_seq bigint[], e_type text[], e_plan text[],
    e_job text[], e_occurred_at timestamptz[], e_doc json[]
) returns void language plpgsql as $$
declare
    base bigint;
begin
    update event_head set position = position + cardinality(e_source)
        returning position - cardinality(e_source) into base;
    insert into events
        select base + e.place, e.source, e.partition, e.seq, e.type, e.plan, e.job,
               e.occurred_at, e.doc, now()
        from unnest(e_source, e_partition, e_seq, e_type, e_plan, e_job, e_occurred_at, e_doc)
            with ordinality
            as e (source, partition, seq, type, plan, job, occurred_at, doc, place);
end $$;
