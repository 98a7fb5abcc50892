-- What a step does to the work queue, inside the step's own transaction. `apply_work` is called
-- last: it locks budgets, which every claim wants.

create function work_lane_ensure(
    p_service text, p_kind text, p_class int, p_priority int, p_plan text, p_interval_s float8,
    p_needs text
) returns void language plpgsql as $$
declare
    v_lane int;
begin
    insert into lanes (service, kind, work_class, priority, plan, interval_s, needs)
        values (p_service, p_kind, p_class, p_priority, p_plan, p_interval_s, p_needs)
        on conflict do nothing returning lane_id into v_lane;
    if v_lane is null or p_needs = '' then
        return;
    end if;
    insert into budgets (mode, name)
        select split_part(line, ' ', 1), substr(line, strpos(line, ' ') + 1)
        from unnest(string_to_array(p_needs, E'\n')) as line
        order by 2
        on conflict (name) do nothing;
    insert into lane_budgets
        select distinct v_lane, b.budget_id
        from unnest(string_to_array(p_needs, E'\n')) as line
        join budgets b on b.name = substr(line, strpos(line, ' ') + 1);
    update lanes set slots = array(
            select b.budget_id from lane_budgets lb join budgets b using (budget_id)
            where lb.lane_id = v_lane and b.mode = 'hold')
        where lane_id = v_lane;
end $$;

-- The concurrency budgets held by claims of these lanes, one element for each unit.
create function work_slots(p_lanes int[]) returns int[] language sql stable as $$
    select array_agg(s.budget_id)
        from unnest(p_lanes) as u (lane_id)
        cross join lateral (select slots from lanes l where l.lane_id = u.lane_id limit 1) as l
        cross join lateral unnest(l.slots) as s (budget_id)
$$;

-- Give back what claims of these lanes held, one unit of each concurrency budget per element, and
-- the seats that streams release. Locks budgets: nothing else may be locked after it.
create function work_give_back(p_lanes int[], q_budget text[], q_stream text[])
returns void language plpgsql as $$
declare
    v_seats   int[];
    v_budgets int[];
    v_counts  int[];
begin
    if q_budget is not null then
        with freed as (
            delete from seats s
                using unnest(q_budget, q_stream) as q (name, stream)
                cross join lateral (select budget_id from budgets where name = q.name limit 1) as b
                where s.budget_id = b.budget_id and s.stream = q.stream
                returning s.budget_id
        )
        select array_agg(budget_id) into v_seats from freed;
    end if;
    select array_agg(budget_id), array_agg(n) into v_budgets, v_counts
        from (
            select budget_id, count(*)::int as n
            from unnest(work_slots(p_lanes) || v_seats) as u (budget_id) group by 1
        ) as u;
    if v_budgets is null then
        return;
    end if;
    perform 1 from budgets where budget_id = any (v_budgets) order by name for no key update;
    update budgets b set in_use = b.in_use - u.n
        from unnest(v_budgets, v_counts) as u (budget_id, n) where b.budget_id = u.budget_id;
end $$;

create function work_wake_lanes(p_lanes int[]) returns void language sql volatile as $$
    update lanes set active = true, empty_since = null
        where lane_id = any (p_lanes) and not active
$$;

-- A lease lives until it expires, but never dies within its own length of the server's start:
-- while the server was down no worker could prolong.
create function work_alive(p_expires_at timestamptz, p_lease_s float8) returns bool
language sql volatile as $$
    select clock_timestamp() < greatest(
        p_expires_at, pg_postmaster_start_time() + make_interval(secs => p_lease_s))
$$;

-- Gives the lanes of the settled effects that held budgets. `s_attempt` -1 without a requeue:
-- the effect goes on, its claim only has to stand until the step commits.
create function work_settle(
    s_id text[], s_lease bigint[], s_requeue_at timestamptz[], s_attempt int[]
) returns int[] language plpgsql as $$
declare
    v_dead  bigint[];
    v_done  text[];
    v_lanes int[];
    v_again int[];
    v_kept  text[];
begin
    select array_agg(l.lease_no) into v_dead
        from (select distinct unnest(s_lease) as lease_no) as l
        left join workers w using (lease_no)
        where w.lease_no is null or not work_alive(w.expires_at, w.lease_s);
    if -1 = any (s_attempt) then
        select array_agg(effect_id) into v_kept from (
            select e.effect_id
                from unnest(s_id, s_lease, s_attempt) as s (id, lease, attempt)
                join effects e on e.effect_id = s.id and e.state = 'c' and e.lease_no + 0 = s.lease
                where s.attempt = -1
                for no key update of e
        ) as k;
    end if;
    -- `+ 0`: by the id's index. All claims of a worker have one lease number, so its index would
    -- read all of them for each effect that is settled.
    with ended as (
        delete from effects e
            using unnest(s_id, s_lease, s_requeue_at, s_attempt) as s (id, lease, again, attempt)
            where e.effect_id = s.id and e.state = 'c' and e.lease_no + 0 = s.lease
                and s.again is null and s.attempt >= 0
            returning e.effect_id, e.lane_id, e.budgeted, false as again
    ), again as (
        update effects e
            set state = case when e.cancel_requested then 'x'::"char"
                             when s.again > clock_timestamp() then 'w' else 'r' end,
                ready_at = s.again, attempt = s.attempt, lease_no = null, budgeted = false
            from unnest(s_id, s_lease, s_requeue_at, s_attempt) as s (id, lease, again, attempt)
            where e.effect_id = s.id and e.state = 'c' and e.lease_no + 0 = s.lease
                and s.again is not null
            returning e.effect_id, e.lane_id, old.budgeted, true
    ), done as (
        select * from ended union all select * from again
    )
    select array_agg(lane_id) filter (where budgeted), array_agg(lane_id) filter (where again),
            coalesce(array_agg(effect_id), '{}')
        into v_lanes, v_again, v_done from done;
    v_done := v_done || v_kept;
    if v_dead is not null or cardinality(v_done) < cardinality(s_id) then
        raise exception using errcode = 'SW002', message = 'claim', detail = (
            select json_agg(s.id) from unnest(s_id, s_lease) as s (id, lease)
            where s.lease = any (v_dead) or not s.id = any (v_done));
    end if;
    if v_again is not null then
        perform work_wake_lanes(v_again);
    end if;
    return v_lanes;
end $$;

-- Ready effects become claimable at once without budgets, claimed ones are asked to stop; either
-- way the owner hears of the end by an outcome with code `cancelled`. Unknown ids are ignored.
create function work_cancel(c_id text[]) returns void language plpgsql as $$
begin
    perform 1 from effects where effect_id = any (c_id) order by effect_id for no key update;
    update effects
        set cancel_requested = true, state = case state when 'c' then state else 'x' end
        where effect_id = any (c_id) and not cancel_requested;
end $$;

-- The lanes of these effects in their order; shorter where some do not exist yet. Lateral, with a
-- limit, so that each is one descent of the index whatever the planner believes.
create function work_find_lanes(
    p_service text, e_kind text[], e_class int[], e_priority int[], e_plan text[],
    e_interval_s float8[], e_needs text[]
) returns int[] language sql volatile as $$
    select array_agg(l.lane_id order by e.place)
        from unnest(e_kind, e_class, e_priority, e_plan, e_interval_s, e_needs) with ordinality
            as e (kind, class, priority, plan, interval_s, needs, place)
        cross join lateral (
            select lane_id from lanes l
            where l.service = p_service and l.kind = e.kind and l.work_class = e.class
                and l.priority = e.priority and l.plan = e.plan and l.interval_s = e.interval_s
                and l.needs = e.needs limit 1
        ) as l;
$$;

create function work_enqueue(
    p_service text,
    e_id text[], e_stream text[], e_partition int[], e_kind text[], e_type text[],
    e_schema_version int[], e_data json[], e_meta json[], e_class int[], e_priority int[],
    e_plan text[], e_due timestamptz[], e_not_before timestamptz[], e_interval_s float8[],
    e_needs text[], e_stream_version int[]
) returns void language plpgsql as $$
declare
    v_now timestamptz := clock_timestamp();
    v_done bigint;
    v_lanes int[];
begin
    v_lanes := work_find_lanes(
        p_service, e_kind, e_class, e_priority, e_plan, e_interval_s, e_needs);
    if coalesce(cardinality(v_lanes), 0) < cardinality(e_id) then
        perform work_lane_ensure(p_service, kind, class, priority, plan, interval_s, needs)
            from (
                select distinct * from unnest(e_kind, e_class, e_priority, e_plan, e_interval_s, e_needs)
                    as e (kind, class, priority, plan, interval_s, needs)
                order by 1, 2, 3, 4, 5, 6  -- one order, or two steps wait for each other
            ) as missing;
        v_lanes := work_find_lanes(
            p_service, e_kind, e_class, e_priority, e_plan, e_interval_s, e_needs);
    end if;
    perform work_wake_lanes(v_lanes);
    insert into effects (
            effect_id, lane_id, stream, partition, stream_version, type, schema_version, data,
            meta, due, ready_at, state, seated)
        select e.id, e.lane_id, e.stream, e.partition, e.stream_version, e.type,
            e.schema_version, e.data, e.meta, e.due, coalesce(e.not_before, v_now),
            case when e.not_before > v_now then 'w'::"char" else 'r' end,
            starts_with(e.needs, 'seat ') or strpos(e.needs, E'\nseat ') > 0
        from unnest(e_id, v_lanes, e_stream, e_partition, e_stream_version, e_type,
                e_schema_version, e_data, e_meta, e_due, e_not_before, e_needs)
            as e (id, lane_id, stream, partition, stream_version, type,
                schema_version, data, meta, due, not_before, needs)
        on conflict (effect_id) do nothing;
end $$;

-- e_: new effects; `e_needs` holds lines `mode budget` sorted by budget, '' for none.
-- s_: settled claims; `s_requeue_at` null removes the effect. c_: effects to cancel.
-- q_: seats that streams release. Null arrays cost nothing. Settling comes first, so a step may
-- enqueue an effect under the id it settles; an id that exists already stays as it is.
-- Raises SW002 `claim` with the ids (a JSON array as detail) of settled effects that are not
-- claimed under the lease number given, or whose lease is over.
create function apply_work(
    p_service text,
    e_id text[], e_stream text[], e_partition int[], e_kind text[], e_type text[],
    e_schema_version int[], e_data json[], e_meta json[], e_class int[], e_priority int[],
    e_plan text[], e_due timestamptz[], e_not_before timestamptz[], e_interval_s float8[],
    e_needs text[], e_stream_version int[],
    s_id text[], s_lease bigint[], s_requeue_at timestamptz[], s_attempt int[],
    c_id text[],
    q_budget text[], q_stream text[]
) returns void language plpgsql as $$
declare
    v_lanes int[];
begin
    if s_id is not null then
        v_lanes := work_settle(s_id, s_lease, s_requeue_at, s_attempt);
    end if;
    if c_id is not null then
        perform work_cancel(c_id);
    end if;
    if e_id is not null then
        perform work_enqueue(
            p_service, e_id, e_stream, e_partition, e_kind, e_type, e_schema_version, e_data,
            e_meta, e_class, e_priority, e_plan, e_due, e_not_before, e_interval_s, e_needs,
            e_stream_version);
    end if;
    if v_lanes is not null or q_budget is not null then
        perform work_give_back(v_lanes, q_budget, q_stream);
    end if;
end $$;
