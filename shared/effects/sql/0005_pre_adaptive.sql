-- Budgets that follow what platforms answer. The rule is shared/effects/adapt.py: this file keeps
-- its state in the budget's row, gathers answers, and grants by the limit that is in force.
--
-- A step that settles only adds rows to `answers`, so that it locks no budget for them; whoever
-- claims next folds them into the budgets, under the claim lock, in a transaction of its own.

-- `limit_now` null: the cap (`per_second`, `concurrent`) is in force. `used` is what was spent of a
-- rate lately: it decays by 1/e in two seconds. Calls of claims up to `lowered_claim` were sent
-- before the limit was last lowered. The other columns are those of `Level` in the rule.
alter table budgets
    add column limit_now       float8,
    add column ceiling         float8 not null default 0,
    add column streak          float8 not null default 0,
    add column used            float8 not null default 0,
    add column throttled       bigint not null default 0,
    add column throttled_at    timestamptz,
    add column throttled_since timestamptz,
    add column changed_at      timestamptz,
    add column lowered_claim   bigint not null default 0,
    add column paused_until    timestamptz;
create index budgets_lowered on budgets (budget_id) where limit_now is not null;

-- One row per budget and step: `ended` outcomes, or a refusal of a call of claim `claim_no`, which
-- is not to be repeated before `until`.
create table answers (
    budget_id int not null,
    at        timestamptz not null default clock_timestamp(),
    ended     int not null default 0,
    refused   int not null default 0,
    claim_no  bigint not null default 0,
    until     timestamptz
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);

-- The limit in force: `limit_of` of the rule. FORGET_S is its hour.
create function work_limit(
    p_cap float8, p_limit float8, p_throttled_at timestamptz, p_now timestamptz
) returns float8 language sql immutable as $$
    select case when p_limit is null or p_throttled_at < p_now - interval '1 hour' then p_cap
        else least(p_limit, p_cap) end
$$;

-- What a bucket holds: `depth_of` of the rule says how much it may save up.
create function work_tokens(
    p_burst float8, p_cap float8, p_limit float8, p_tokens float8, p_refilled_at timestamptz,
    p_now timestamptz
) returns float8 language sql immutable as $$
    select least(
        case when p_limit >= p_cap then p_burst
            else least(p_burst, greatest(p_limit * 0.25, 1)) end,
        p_tokens + p_limit * greatest(extract(epoch from p_now - p_refilled_at)::float8, 0))
$$;

-- Whole units or tokens that a budget has room for.
create function work_room(b budgets, p_now timestamptz) returns float8 language sql immutable as $$
    select case
        when b.paused_until > p_now then 0
        when b.mode = 'rate' then work_tokens(
            b.burst, b.per_second,
            work_limit(b.per_second, b.limit_now, b.throttled_at, p_now),
            b.tokens, b.refilled_at, p_now)
        else floor(work_limit(b.concurrent, b.limit_now, b.throttled_at, p_now)) - b.in_use end
$$;

-- Seconds until time alone gives an empty bucket a token, or ends a pause; null if it never does.
create function work_wait_s(b budgets, p_now timestamptz, p_room float8) returns float8
language sql immutable as $$
    select case
        when p_room >= 1 then null
        when b.mode <> 'rate' then
            case when b.paused_until > p_now then extract(epoch from b.paused_until - p_now) end
        when b.per_second > 0 and b.burst >= 1 then
            greatest(extract(epoch from b.paused_until - p_now)::float8, 0)
            + (1 - least(greatest(b.tokens, p_room), 1))
            / work_limit(b.per_second, b.limit_now, b.throttled_at, p_now)
        end
$$;

-- Platforms refused calls of these effects: which budgets that is about is `concerned` of the rule.
create function work_pushed_back(
    a_id text[], a_busy bool[], a_quota text[], a_wait_s float8[]
) returns void language sql volatile as $$
    insert into answers (budget_id, refused, claim_no, until)
        select distinct on (a.id, b.budget_id) b.budget_id, 1, e.claim_no,
                -- Null where the platform named no time: `least` alone would make 300 of it.
                case when a.wait_s is not null
                    then clock_timestamp() + make_interval(secs => least(a.wait_s, 300)) end
            from unnest(a_id, a_busy, a_quota, a_wait_s) as a (id, busy, quota, wait_s)
            join effects e on e.effect_id = a.id
            cross join lateral (
                select b.budget_id,
                        a.quota = '' or split_part(split_part(b.name, '/', 2), ':', 1) = a.quota
                            as named
                    from lane_budgets lb join budgets b using (budget_id)
                    where lb.lane_id = e.lane_id and strpos(b.name, '/') > 0
                        and (b.mode <> 'rate') = a.busy
                union all
                select b.budget_id, null
                    from lane_budgets lb join budgets mine using (budget_id)
                    join budgets b
                        on b.name = split_part(mine.name, '/', 1) || '/' || a.quota
                    where lb.lane_id = e.lane_id and strpos(mine.name, '/') > 0
                        and a.quota <> '' and (b.mode <> 'rate') = a.busy
                        and not exists (
                            select from lane_budgets own join budgets o using (budget_id)
                            where own.lane_id = e.lane_id and strpos(o.name, '/') > 0
                                and (o.mode <> 'rate') = a.busy
                                and split_part(split_part(o.name, '/', 2), ':', 1) = a.quota)
            ) as b
            where b.named is not false
$$;

-- As before, and: outcomes of work that took lowered budgets are told.
create or replace function work_settle(
    s_id text[], s_lease bigint[], s_requeue_at timestamptz[], s_attempt int[]
) returns int[] language plpgsql as $$
declare
    v_dead  bigint[];
    v_done  text[];
    v_lanes int[];
    v_again int[];
    v_ended int[];
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
            array_agg(lane_id) filter (where budgeted and not again),
            coalesce(array_agg(effect_id), '{}')
        into v_lanes, v_again, v_ended, v_done from done;
    v_done := v_done || v_kept;
    if v_dead is not null or cardinality(v_done) < cardinality(s_id) then
        raise exception using errcode = 'SW002', message = 'claim', detail = (
            select json_agg(s.id) from unnest(s_id, s_lease) as s (id, lease)
            where s.lease = any (v_dead) or not s.id = any (v_done));
    end if;
    if v_again is not null then
        perform work_wake_lanes(v_again);
    end if;
    if v_ended is not null and exists (select from budgets where limit_now is not null) then
        insert into answers (budget_id, ended)
            select lb.budget_id, count(*)
                from unnest(v_ended) as u (lane_id) join lane_budgets lb using (lane_id)
                where lb.budget_id in (select budget_id from budgets where limit_now is not null)
                group by 1;
    end if;
    return v_lanes;
end $$;

-- As before, by the limits in force. `o_maintain` also asks for `answers` to be folded: refusals at
-- once, outcomes when OUTCOMES_EVERY_S is over.
create or replace function work_claim_open(
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

    -- A budget that nothing was learned about, as nearly all are, is spared the rule.
    select array_agg(budget_id), array_agg(room), min(wait_s) into o_budgets, o_rooms, o_next_s
        from (
            select b.budget_id, r.room, case
                    when r.room >= 1 then null
                    when b.limit_now is null and b.paused_until is null then
                        case when mode = 'rate' and per_second > 0 and burst >= 1
                            then (1 - r.room) / per_second end
                    else work_wait_s(b, v_now, r.room) end as wait_s
                from budgets b cross join lateral (
                    select case
                        when b.limit_now is not null or b.paused_until is not null
                            then work_room(b, v_now)
                        when b.mode = 'rate' then least(b.burst, b.tokens + b.per_second
                            * greatest(extract(epoch from v_now - b.refilled_at)::float8, 0))
                        else b.concurrent - b.in_use end as room
                ) as r
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
        or exists (select from slot_returns where at <= v_now)
        or exists (
            select from answers where refused > 0 or at <= v_now - interval '0.25 seconds');
    o_next_s := least(
        o_next_s,
        extract(epoch from (select min(ready_at) from effects where state = 'w') - v_now),
        extract(epoch from (select min(at) from slot_returns) - v_now),
        extract(epoch from (
            select min(greatest(expires_at,
                pg_postmaster_start_time() + make_interval(secs => lease_s))) from workers
            where lease_no <> p_lease_no) - v_now));
end $$;

-- As before, by the limits in force.
create or replace function work_claim_write(
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
                tokens = case
                    when b.mode <> 'rate' then 0
                    when b.limit_now is null then least(b.burst, b.tokens + b.per_second
                        * greatest(extract(epoch from v_now - b.refilled_at)::float8, 0)) - u.n
                    else work_tokens(
                        b.burst, b.per_second,
                        work_limit(b.per_second, b.limit_now, b.throttled_at, v_now),
                        b.tokens, b.refilled_at, v_now) - u.n end,
                used = case when b.mode <> 'rate' then 0 else u.n + b.used * exp(
                    -least(greatest(extract(epoch from v_now - b.refilled_at)::float8, 0), 1000)
                    / 2) end,
                refilled_at = case when b.mode = 'rate'
                    then greatest(b.refilled_at, v_now) else b.refilled_at end
            from unnest(p_budgets, p_units) as u (budget_id, n) where b.budget_id = u.budget_id;
    end if;
end $$;

-- Takes what was answered: one row per budget, with its level and all that the rule needs. The
-- caller writes the new levels in the same transaction, which holds the claim lock.
create function work_answers_take() returns table (
    budget_id int, mode text, concurrent int, burst float8, per_second float8, in_use int,
    limit_now float8, ceiling float8, streak float8, throttled bigint, throttled_at float8,
    throttled_since float8, changed_at float8, paused_until float8,
    ended bigint, refused bigint, fresh bigint, until float8, used_per_s float8, now float8
) language plpgsql as $$
#variable_conflict use_column
declare
    v_now timestamptz;
begin
    perform work_lock();
    v_now := clock_timestamp();
    return query
        with gone as (
            delete from answers returning *
        ), heard as (
            select g.budget_id, sum(g.ended) as ended, sum(g.refused) as refused,
                    coalesce(sum(g.refused) filter (where g.claim_no > b.lowered_claim), 0)
                        as fresh,
                    max(g.until) as until
                from gone g join budgets b using (budget_id) group by 1
        )
        select b.budget_id, b.mode, b.concurrent, b.burst, b.per_second, b.in_use,
                b.limit_now, b.ceiling, b.streak, b.throttled,
                extract(epoch from b.throttled_at)::float8,
                extract(epoch from b.throttled_since)::float8,
                coalesce(extract(epoch from b.changed_at)::float8, 0),
                extract(epoch from b.paused_until)::float8,
                h.ended, h.refused, h.fresh, extract(epoch from h.until)::float8,
                b.used * exp(-least(greatest(
                    extract(epoch from v_now - b.refilled_at)::float8, 0), 1000) / 2) / 2,
                extract(epoch from v_now)::float8
            from heard h join budgets b using (budget_id) order by b.name;
end $$;

-- New levels. `p_lowered`: whatever has been claimed up to now was sent before the change.
-- `p_tokens`: a bucket holds no more, and fills from the end of its pause on.
create function work_adapt(
    p_budgets int[], p_limits float8[], p_ceilings float8[], p_streaks float8[],
    p_throttled bigint[], p_throttled_at float8[], p_since float8[], p_changed_at float8[],
    p_paused_until float8[], p_lowered bool[], p_tokens float8[]
) returns void language plpgsql as $$
begin
    perform 1 from budgets where budget_id = any (p_budgets) order by name for no key update;
    update budgets b set
            limit_now = u.limit_now, ceiling = u.ceiling, streak = u.streak,
            throttled = u.throttled, throttled_at = to_timestamp(u.throttled_at),
            throttled_since = to_timestamp(u.since), changed_at = to_timestamp(u.changed_at),
            paused_until = to_timestamp(u.paused_until),
            lowered_claim = case when u.lowered
                then (select last_value from claim_numbers) else b.lowered_claim end,
            -- Never more than there are: answers give no tokens.
            tokens = case when u.tokens is null then b.tokens else least(u.tokens, work_tokens(
                b.burst, b.per_second,
                work_limit(b.per_second, b.limit_now, b.throttled_at, clock_timestamp()),
                b.tokens, b.refilled_at, clock_timestamp())) end,
            refilled_at = case when u.tokens is null then b.refilled_at
                else greatest(b.refilled_at, clock_timestamp(), to_timestamp(u.paused_until)) end
        from unnest(p_budgets, p_limits, p_ceilings, p_streaks, p_throttled, p_throttled_at,
                p_since, p_changed_at, p_paused_until, p_lowered, p_tokens)
            as u (budget_id, limit_now, ceiling, streak, throttled, throttled_at, since,
                changed_at, paused_until, lowered, tokens)
        where b.budget_id = u.budget_id;
end $$;

-- As before; what was learned of a budget stays, whatever its cap becomes.
create or replace function work_define(
    p_names text[], p_modes text[], p_concurrent int[], p_bursts float8[], p_rates float8[]
) returns text[] language plpgsql as $$
declare
    v_wrong text[];
    v_now   timestamptz;
begin
    perform work_lock();
    v_now := clock_timestamp();
    select array_agg(b.name) into v_wrong
        from unnest(p_names, p_modes) as u (name, mode) join budgets b using (name)
        where b.mode <> u.mode;
    if v_wrong is not null then
        return v_wrong;
    end if;
    insert into budgets (name, mode, concurrent, burst, per_second, tokens, refilled_at)
        select name, mode, concurrent, burst, rate, burst, v_now
            from unnest(p_names, p_modes, p_concurrent, p_bursts, p_rates)
                as u (name, mode, concurrent, burst, rate)
            order by name
        on conflict (name) do update set
            concurrent = excluded.concurrent, burst = excluded.burst,
            per_second = excluded.per_second,
            tokens = case when budgets.burst = 0 then excluded.burst
                else least(excluded.burst, work_tokens(
                    budgets.burst, budgets.per_second,
                    work_limit(
                        budgets.per_second, budgets.limit_now, budgets.throttled_at, v_now),
                    budgets.tokens, budgets.refilled_at, v_now)) end,
            refilled_at = greatest(budgets.paused_until, v_now)
            where (budgets.concurrent, budgets.burst, budgets.per_second)
                <> (excluded.concurrent, excluded.burst, excluded.per_second);
    return '{}';
end $$;

-- All budgets as they stand, with the limit in force and what led to it.
create function work_budget_states() returns table (
    name text, mode text, concurrent int, burst float8, per_second float8, in_use int,
    tokens float8, limit_now float8, throttled bigint, throttled_at timestamptz,
    throttled_since timestamptz, paused_until timestamptz, asked_at timestamptz
) language sql volatile as $$
    select b.name, b.mode, b.concurrent, b.burst, b.per_second, b.in_use,
            case when b.mode = 'rate' then work_tokens(
                b.burst, b.per_second,
                work_limit(b.per_second, b.limit_now, b.throttled_at, n.now),
                b.tokens, b.refilled_at, n.now) else 0 end,
            work_limit(
                case when b.mode = 'rate' then b.per_second else b.concurrent end,
                b.limit_now, b.throttled_at, n.now),
            b.throttled, b.throttled_at, b.throttled_since,
            case when b.paused_until > n.now then b.paused_until end, n.now
        from budgets b cross join (select clock_timestamp() as now) as n order by b.name
$$;

-- As before, by the limits in force.
create or replace function work_waiting(p_count int) returns table (
    effect_id text, service text, kind text, plan text, work_class int, priority int,
    due timestamptz, ready_at timestamptz, needs text, worker text, attempt int,
    blocked_by text[]
) language sql volatile as $$
    select e.effect_id, l.service, l.kind, l.plan, l.work_class, l.priority, e.due, e.ready_at,
            l.needs, coalesce(w.worker, ''), e.attempt,
            case when e.state = 'c' then '{}' else array(
                select b.name from lane_budgets lb join budgets b using (budget_id)
                where lb.lane_id = l.lane_id
                    and not exists (
                        select from seats s where s.budget_id = b.budget_id and s.stream = e.stream)
                    and work_room(b, clock_timestamp()) < 1
                order by b.name) end
        from effects e join lanes l using (lane_id) left join workers w using (lease_no)
        order by l.work_class, e.state <> 'c', l.priority, e.due, e.effect_id
        limit p_count
$$;
