-- A claim is one transaction of three calls: `work_claim_open` takes the claim lock and tells how
-- everything stands, `work_claim_heads` reads the first effects of the lanes that the caller
-- (shared/effects/select.py) wants to see, `work_claim_write` writes what it chose.

-- Held until the transaction ends; one lock per work schema.
create function work_lock() returns void language sql volatile as $$
    select pg_advisory_xact_lock(741, ('effects'::regclass::oid::bigint - 2147483648)::int)
$$;

-- `o_now` is the claim's instant (seconds), taken under the lock. Rooms are whole units or tokens,
-- of every budget. `o_shadow_*`: what other living workers wait for. `o_next_s`: seconds until
-- time alone may make something claimable. `o_maintain`: call work_maintain first.
create function work_claim_open(
    p_lease_no bigint, p_kinds text[], p_count int,
    out o_now float8, out o_service text, out o_maintain bool, out o_next_s float8,
    out o_budgets int[], out o_rooms float8[],
    out o_lanes int[], out o_reserved int[],
    out o_shadow_services text[], out o_shadow_kinds text[],
    out o_cancelled text[]
) language plpgsql as $$
declare
    v_now timestamptz;
    v_old text[];
    v_lanes int[];
begin
    perform work_lock();
    v_now := clock_timestamp();
    o_now := extract(epoch from v_now);
    select service, kinds into o_service, v_old from workers
        where lease_no = p_lease_no and work_alive(expires_at, lease_s);
    if not found then
        return;
    end if;
    if v_old is distinct from p_kinds then
        update workers set kinds = p_kinds where lease_no = p_lease_no;
    end if;

    with ripe as (
        select effect_id from effects where state = 'w' and ready_at <= v_now
            order by ready_at limit 500 for no key update skip locked
    ), woken as (
        update effects e set state = 'r' from ripe where e.effect_id = ripe.effect_id
            returning e.lane_id
    )
    select array_agg(distinct lane_id) into v_lanes from woken;
    if v_lanes is not null then
        perform work_wake_lanes(v_lanes);
    end if;

    select array_agg(budget_id), array_agg(room), min(wait_s) into o_budgets, o_rooms, o_next_s
        from (
            select budget_id, room, case
                    when mode = 'rate' and room < 1 and per_second > 0 and burst >= 1
                    then (1 - room) / per_second end as wait_s
                from (
                    select budget_id, mode, per_second, burst, case mode
                        when 'rate' then least(burst, tokens + per_second * greatest(
                            extract(epoch from v_now - refilled_at)::float8, 0))
                        else concurrent - in_use end as room
                    from budgets
                ) as b
        ) as r;
    select array_agg(lane_id), array_agg(lane_id) filter (where reserved_until > v_now)
        into o_lanes, o_reserved from lanes where active;
    select array_agg(service), array_agg(kind) into o_shadow_services, o_shadow_kinds
        from (
            select distinct service, unnest(kinds) as kind from workers
            where lease_no <> p_lease_no and work_alive(expires_at, lease_s)
        ) as w;
    select array_agg(effect_id) into o_cancelled
        from (
            select e.effect_id from effects e join lanes l using (lane_id)
            where e.state = 'x' and l.service = o_service and l.kind = any (p_kinds)
            limit p_count
        ) as x;

    o_maintain := exists (select from workers where not work_alive(expires_at, lease_s))
        or exists (select from slot_returns where at <= v_now);
    o_next_s := least(
        o_next_s,
        extract(epoch from (select min(ready_at) from effects where state = 'w') - v_now),
        extract(epoch from (select min(at) from slot_returns) - v_now),
        extract(epoch from (
            select min(greatest(expires_at,
                pg_postmaster_start_time() + make_interval(secs => lease_s))) from workers
            where lease_no <> p_lease_no) - v_now));
end $$;

create function work_lanes(p_lanes int[]) returns table (
    lane_id int, service text, kind text, work_class int, priority int, plan text,
    interval_s float8, budgets int[], modes text[]
) language sql stable as $$
    select l.lane_id, l.service, l.kind, l.work_class, l.priority, l.plan, l.interval_s,
            array_agg(b.budget_id order by b.name) filter (where b.budget_id is not null),
            array_agg(b.mode order by b.name) filter (where b.budget_id is not null)
        from lanes l left join lane_budgets lb using (lane_id) left join budgets b using (budget_id)
        where l.lane_id = any (p_lanes) group by l.lane_id
$$;

-- The first `p_depths` effects of each lane in order of due. Of `p_seat_lanes` (blocked, at most
-- by seats) those effects whose stream holds a seat already. Streams are given where lanes need
-- seats. `p_skip`: effects that are locked by a step at this moment.
create function work_claim_heads(
    p_lanes int[], p_depths int[], p_seat_lanes int[], p_seats bool, p_skip text[],
    p_turn_classes int[], p_turn_priorities int[], p_turn_plans text[],
    out o_lanes int[], out o_ids text[], out o_dues float8[], out o_streams text[],
    out o_seat_lanes int[], out o_seat_ids text[], out o_seat_dues float8[],
    out o_seat_streams text[],
    out o_held_budgets int[], out o_held_streams text[], out o_turns bigint[]
) language plpgsql as $$
begin
    select array_agg(h.lane_id), array_agg(h.effect_id),
            array_agg(extract(epoch from h.due)::float8),
            array_agg(case when h.seated then h.stream end)
        into o_lanes, o_ids, o_dues, o_streams
        from unnest(p_lanes, p_depths) as l (lane_id, depth)
        cross join lateral (
            select e.lane_id, e.effect_id, e.due, e.stream, e.seated from effects e
            where e.lane_id = l.lane_id and e.state = 'r' and e.effect_id <> all (p_skip)
            order by e.due limit l.depth
        ) as h;
    if p_seats then
        select array_agg(budget_id), array_agg(stream) into o_held_budgets, o_held_streams
            from seats;
    end if;
    if cardinality(p_seat_lanes) > 0 then
        select array_agg(lane_id), array_agg(effect_id),
                array_agg(extract(epoch from due)::float8), array_agg(stream)
            into o_seat_lanes, o_seat_ids, o_seat_dues, o_seat_streams
            from (
                select distinct e.lane_id, e.effect_id, e.due, e.stream
                from seats s join effects e on e.stream = s.stream and e.state = 'r' and e.seated
                where e.lane_id = any (p_seat_lanes) and e.effect_id <> all (p_skip)
                order by e.due
            ) as h;
    end if;
    select array_agg(coalesce(t.turn, 0) order by u.place) into o_turns
        from unnest(p_turn_classes, p_turn_priorities, p_turn_plans) with ordinality
            as u (work_class, priority, plan, place)
        left join turns t using (work_class, priority, plan);
end $$;

-- Gives the claimed effects. Fewer than asked for: some moved on meanwhile; roll back, claim again.
-- Ready ones take their lanes' budgets, those to be cancelled none. Read by address, which is half
-- the work of finding each by its id again; one that a step has moved meanwhile is not found.
create function work_claim_write(
    p_lease_no bigint, p_now float8,
    p_ids text[], p_quick_lanes int[],
    p_budgets int[], p_units int[],
    p_seat_budgets int[], p_seat_streams text[],
    p_turn_classes int[], p_turn_priorities int[], p_turn_plans text[], p_turns bigint[],
    p_reserve int[], p_reserve_s float8, p_unreserve int[]
) returns table (
    effect_id text, lane_id int, stream text, partition int, type text, schema_version int,
    data json, meta json, attempt int, stream_version int, cancelled bool, claim_no bigint
) language plpgsql as $$
#variable_conflict use_column
declare
    v_now timestamptz := to_timestamp(p_now);
    v_claim bigint := nextval('claim_numbers');
begin
    return query
        update effects e
            set state = 'c', lease_no = p_lease_no, claim_no = v_claim, budgeted = e.state = 'r',
                quick_return = e.lane_id = any (p_quick_lanes)
            where e.ctid = any (array(
                select f.ctid from effects f
                where f.effect_id = any (p_ids) and f.state in ('r', 'x')
                for no key update skip locked))
            returning e.effect_id, e.lane_id, e.stream, e.partition, e.type, e.schema_version,
                e.data, e.meta, e.attempt, e.stream_version, not e.budgeted, e.claim_no;
    if p_turns is not null then
        insert into turns
            select * from unnest(p_turn_classes, p_turn_priorities, p_turn_plans, p_turns)
            on conflict (work_class, priority, plan) do update set turn = excluded.turn;
    end if;
    if p_reserve is not null then
        update lanes set reserved_until = v_now + make_interval(secs => p_reserve_s)
            where lane_id = any (p_reserve);
    end if;
    if p_unreserve is not null then
        update lanes set reserved_until = null where lane_id = any (p_unreserve);
    end if;
    if p_seat_budgets is not null then
        insert into seats select * from unnest(p_seat_budgets, p_seat_streams);
    end if;
    if p_budgets is not null then
        perform 1 from budgets where budget_id = any (p_budgets)
            order by name for no key update;
        update budgets b set
                in_use = case when b.mode = 'rate' then 0 else b.in_use + u.n end,
                tokens = case when b.mode <> 'rate' then 0 else least(b.burst,
                    b.tokens + b.per_second
                    * greatest(extract(epoch from v_now - b.refilled_at)::float8, 0)) - u.n end,
                refilled_at = case when b.mode = 'rate'
                    then greatest(b.refilled_at, v_now) else b.refilled_at end
            from unnest(p_budgets, p_units) as u (budget_id, n) where b.budget_id = u.budget_id;
    end if;
end $$;

-- Effects claimed under the lease that the worker does not know of: their claim's answer was lost.
create function work_unanswered(p_lease_no bigint, p_known text[]) returns table (
    effect_id text, lane_id int, stream text, partition int, type text, schema_version int,
    data json, meta json, attempt int, stream_version int, cancelled bool, claim_no bigint
) language sql stable as $$
    select effect_id, lane_id, stream, partition, type, schema_version, data, meta, attempt,
            stream_version, not budgeted, claim_no
        from effects where state = 'c' and lease_no = p_lease_no and effect_id <> all (p_known)
$$;
