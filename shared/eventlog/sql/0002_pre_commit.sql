-- One step, one transaction, one round trip. Both functions take only what the caller has sorted
-- and counted (shared/eventlog/steps.py); a part that is null costs nothing.
--
-- Locks are taken in one order everywhere, rows of a table in the order of their keys: streams that
-- begin, streams that go on, cursors, timers, reservations, snapshots, parked messages, heads, then
-- the work queue's own.

-- The commonest step: a single row and nothing else.
create function append_one(
    p_topic text, p_partition int, p_stream text, p_version int,
    p_type text, p_schema_version int, p_data json, p_meta json
) returns bigint language plpgsql as $$
declare
    last bigint;
begin
    if p_version > 0 then
        if p_version > 1 then
            update streams set version = p_version
                where stream = p_stream and version = p_version - 1;
        else
            insert into streams values (p_stream, 1) on conflict do nothing;
        end if;
        if not found then
            raise exception using errcode = 'SW001', message = 'conflict',
                detail = json_build_array(p_stream)::text;
        end if;
    end if;
    update heads set seq = seq + 1 where topic = p_topic and partition = p_partition
        returning seq into last;
    if not found then
        insert into heads values (p_topic, p_partition, 1)
            on conflict (topic, partition) do update set seq = heads.seq + 1
            returning seq into last;
    end if;
    insert into log values
        (p_topic, p_partition, last, p_stream, p_version, p_type, p_schema_version, p_data, p_meta);
    return last;
end $$;

-- A row that this transaction wrote carries its id: the others moved on, or are not there.
create function raise_conflict(p_streams text[]) returns void language plpgsql as $$
begin
    raise exception using errcode = 'SW001', message = 'conflict', detail = (
        select json_agg(w.stream order by w.stream)::text
        from unnest(p_streams) as w (stream) left join streams s on s.stream = w.stream
        where s.xmin is distinct from pg_current_xact_id()::xid);
end $$;

-- Compare-and-set of many cursors, all or none. A cursor never moved yet has no row, or seq 0.
create function move_cursors(
    k_source text[], k_epoch int[], k_topic text[], k_partition int[],
    k_before bigint[], k_after bigint[]
) returns void language plpgsql as $$
declare
    done bigint;
    more bigint := 0;
begin
    update cursors c set seq = k.after
        from unnest(k_source, k_epoch, k_topic, k_partition, k_before, k_after)
            as k (source, epoch, topic, partition, before, after)
        where c.source = k.source and c.topic = k.topic and c.partition = k.partition
            and c.epoch = k.epoch and c.seq = k.before;
    get diagnostics done = row_count;
    if done < cardinality(k_source) and 0 = any (k_before) then
        insert into cursors (source, topic, partition, epoch, seq)
            select k.source, k.topic, k.partition, k.epoch, k.after
            from unnest(k_source, k_epoch, k_topic, k_partition, k_before, k_after)
                as k (source, epoch, topic, partition, before, after)
            where k.before = 0
            on conflict do nothing;
        get diagnostics more = row_count;
    end if;
    if done + more <> cardinality(k_source) then
        raise exception using errcode = 'SW002', message = 'cursor', detail = (
            select json_agg(concat_ws('/', k.source, k.topic, k.partition)
                order by k.source, k.topic, k.partition)::text
            from unnest(k_source, k_topic, k_partition) as k (source, topic, partition)
                left join cursors c on c.source = k.source and c.topic = k.topic
                    and c.partition = k.partition
            where c.xmin is distinct from pg_current_xact_id()::xid);
    end if;
end $$;

-- Take unique names. One that its own stream holds already is no violation.
create function reserve(p_names text[], p_streams text[]) returns void language plpgsql as $$
declare
    done  bigint;
    other record;
begin
    insert into reservations select * from unnest(p_names, p_streams) on conflict do nothing;
    get diagnostics done = row_count;
    if done = cardinality(p_names) then
        return;
    end if;
    select r.name, r.stream into other
        from unnest(p_names, p_streams) as w (name, stream)
            left join reservations r on r.name = w.name
        where r.stream is distinct from w.stream
        order by w.name limit 1;
    if found and other.name is null then
        -- Its holder gave it back between the two statements: the caller may try again.
        raise exception using errcode = '40001', message = 'a name was given back meanwhile';
    elsif found then
        raise exception using errcode = 'SW003', message = 'name taken',
            detail = json_build_array(other.name, other.stream)::text;
    end if;
end $$;

-- Gives the last seq of each head, in the order of the heads given.
create function commit_step(
    p_service text,
    -- heads, sorted, with the number of rows each gets
    h_topic text[], h_partition int[], h_count int[],
    -- streams that begin, and streams that go on; sorted
    b_stream text[], b_version int[],
    v_stream text[], v_before int[], v_after int[],
    -- rows: the index of the head (from 1), the place among that head's rows (from 1)
    l_head int[], l_place int[], l_stream text[], l_version int[],
    l_type text[], l_schema_version int[], l_data json[], l_meta json[],
    -- streams that decisions rest on and that get no event: they must be where they were
    d_stream text[], d_version int[],
    -- cursors
    k_source text[], k_epoch int[], k_topic text[], k_partition int[],
    k_before bigint[], k_after bigint[],
    -- timers: fired, cancelled, set
    f_stream text[], f_name text[], f_token bigint[],
    x_stream text[], x_name text[],
    t_stream text[], t_name text[], t_partition int[], t_due timestamptz[],
    t_type text[], t_schema_version int[], t_data json[], t_meta json[],
    -- reservations: given back, taken
    g_name text[], g_stream text[],
    r_name text[], r_stream text[],
    -- snapshots
    n_stream text[], n_version int[], n_schema int[], n_state json[],
    -- parked messages: taken up again, set aside
    u_source text[], u_topic text[], u_partition int[], u_seq bigint[],
    p_source text[], p_topic text[], p_partition int[], p_seq bigint[],
    p_key text[], p_reason text[], p_at timestamptz[],
    -- the work queue's share, see shared/effects/sql
    has_work bool,
    e_id text[], e_stream text[], e_partition int[], e_kind text[], e_type text[],
    e_schema_version int[], e_data json[], e_meta json[], e_class int[], e_priority int[],
    e_plan text[], e_due timestamptz[], e_not_before timestamptz[], e_interval_s float8[],
    e_needs text[], e_stream_version int[],
    s_id text[], s_lease bigint[], s_requeue_at timestamptz[], s_attempt int[],
    c_id text[],
    q_budget text[], q_stream text[]
) returns bigint[] language plpgsql as $$
declare
    last   bigint;
    bases  bigint[] := '{}';
    ends   bigint[] := '{}';
    done   bigint;
    more   bigint;
    tokens bigint[];
begin
    if b_stream is not null or v_stream is not null then
        insert into streams select * from unnest(b_stream, b_version) on conflict do nothing;
        get diagnostics done = row_count;
        update streams s set version = w.after
            from unnest(v_stream, v_before, v_after) as w (stream, before, after)
            where s.stream = w.stream and s.version = w.before;
        get diagnostics more = row_count;
        if done + more <> coalesce(cardinality(b_stream), 0) + coalesce(cardinality(v_stream), 0) then
            perform raise_conflict(b_stream || v_stream);
        end if;
    end if;

    if d_stream is not null and exists (
        select from unnest(d_stream, d_version) as w (stream, version)
            left join streams s on s.stream = w.stream
            where coalesce(s.version, 0) <> w.version
    ) then
        raise exception using errcode = 'SW001', message = 'conflict', detail = (
            select json_agg(w.stream)::text
            from unnest(d_stream, d_version) as w (stream, version)
                left join streams s on s.stream = w.stream
            where coalesce(s.version, 0) <> w.version);
    end if;

    if k_source is not null then
        perform move_cursors(k_source, k_epoch, k_topic, k_partition, k_before, k_after);
    end if;

    if f_stream is not null then
        with gone as (
            delete from timers t using unnest(f_stream, f_name, f_token) as w (stream, name, token)
            where t.stream = w.stream and t.name = w.name and t.token = w.token
            returning t.token
        )
        select array_agg(token) into tokens from gone;
        if coalesce(cardinality(tokens), 0) <> cardinality(f_stream) then
            raise exception using errcode = 'SW002', message = 'timer', detail = (
                select json_agg(w.stream || '/' || w.name)::text
                from unnest(f_stream, f_name, f_token) as w (stream, name, token)
                where w.token <> all (coalesce(tokens, '{}')));
        end if;
    end if;
    if x_stream is not null then
        delete from timers t using unnest(x_stream, x_name) as w (stream, name)
            where t.stream = w.stream and t.name = w.name;
    end if;
    if t_stream is not null then
        insert into timers (stream, name, partition, due, type, schema_version, data, meta)
            select * from unnest(t_stream, t_name, t_partition, t_due,
                                 t_type, t_schema_version, t_data, t_meta)
            on conflict (stream, name) do update set
                partition = excluded.partition, due = excluded.due, type = excluded.type,
                schema_version = excluded.schema_version, data = excluded.data,
                meta = excluded.meta, token = excluded.token;
    end if;

    if g_name is not null then
        delete from reservations r using unnest(g_name, g_stream) as w (name, stream)
            where r.name = w.name and r.stream = w.stream;
    end if;
    if r_name is not null then
        perform reserve(r_name, r_stream);
    end if;

    if n_stream is not null then
        insert into snapshots select * from unnest(n_stream, n_version, n_schema, n_state)
            on conflict (stream) do update set
                version = excluded.version, schema = excluded.schema, state = excluded.state
            where excluded.version >= snapshots.version or excluded.schema <> snapshots.schema;
    end if;

    if u_source is not null then
        delete from parked p using unnest(u_source, u_topic, u_partition, u_seq)
                as w (source, topic, partition, seq)
            where p.source = w.source and p.topic = w.topic
                and p.partition = w.partition and p.seq = w.seq;
        get diagnostics done = row_count;
        if done <> cardinality(u_source) then
            raise exception using errcode = 'SW002', message = 'parked message', detail = (
                select json_agg(concat_ws('/', w.source, w.topic, w.partition, w.seq))::text
                from unnest(u_source, u_topic, u_partition, u_seq)
                    as w (source, topic, partition, seq));
        end if;
    end if;
    if p_source is not null then
        insert into parked
            select * from unnest(p_source, p_topic, p_partition, p_seq, p_key, p_reason, p_at)
            on conflict (source, topic, partition, seq) do update set
                key = excluded.key, reason = excluded.reason, at = excluded.at;
    end if;
    -- Late, because every step of a partition waits here for the one before it to commit.
    if h_topic is not null then
        for i in 1 .. cardinality(h_topic) loop
            update heads set seq = seq + h_count[i]
                where topic = h_topic[i] and partition = h_partition[i]
                returning seq into last;
            if not found then
                insert into heads values (h_topic[i], h_partition[i], h_count[i])
                    on conflict (topic, partition) do update set seq = heads.seq + excluded.seq
                    returning seq into last;
            end if;
            bases[i] := last - h_count[i];
            ends[i] := last;
        end loop;
    end if;
    if l_head is not null then
        insert into log
            select h_topic[l.head], h_partition[l.head], bases[l.head] + l.place, l.stream,
                   l.version, l.type, l.schema_version, l.data, l.meta
            from unnest(l_head, l_place, l_stream, l_version,
                        l_type, l_schema_version, l_data, l_meta)
                 as l (head, place, stream, version, type, schema_version, data, meta);
    end if;

    -- Last: it locks budgets, which every claim wants.
    if has_work then
        perform apply_work(
            p_service,
            e_id, e_stream, e_partition, e_kind, e_type, e_schema_version, e_data, e_meta,
            e_class, e_priority, e_plan, e_due, e_not_before, e_interval_s, e_needs,
            e_stream_version, s_id, s_lease, s_requeue_at, s_attempt, c_id, q_budget, q_stream);
    end if;
    return ends;
end $$;
