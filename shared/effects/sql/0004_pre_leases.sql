-- Leases of workers, the return of what dead ones held, definition of budgets, and lists for
-- people.

-- Effects claimed under these leases are ready again, with the same attempt. What they held
-- returns after `p_slow_s` (0: at once), for kinds that return quickly at once. Effects that a
-- step is settling at this moment are left to it; the number of those left is given.
create function work_reap(p_leases bigint[], p_slow_s float8) returns int language plpgsql as $$
declare
    v_slow  int[];
    v_quick int[];
    v_lanes int[];
    v_left  int;
begin
    with held as (
        select effect_id from effects where state = 'c' and lease_no = any (p_leases)
            order by effect_id for no key update skip locked
    ), freed as (
        update effects e
            set state = case when e.cancel_requested then 'x'::"char" else 'r' end,
                lease_no = null, budgeted = false
            from held h where e.effect_id = h.effect_id
            returning e.lane_id, old.budgeted, old.quick_return
    )
    select array_agg(lane_id),
            array_agg(lane_id) filter (where budgeted and not quick_return and p_slow_s > 0),
            array_agg(lane_id) filter (where budgeted and (quick_return or p_slow_s <= 0))
        into v_lanes, v_slow, v_quick from freed;
    if v_lanes is not null then
        perform work_wake_lanes(v_lanes);
    end if;
    if v_slow is not null then
        insert into slot_returns
            select budget_id, count(*), clock_timestamp() + make_interval(secs => p_slow_s)
            from unnest(work_slots(v_slow)) as u (budget_id) group by 1;
    end if;
    select count(*) into v_left from effects where state = 'c' and lease_no = any (p_leases);
    if v_left = 0 then
        delete from workers where lease_no = any (p_leases);
    end if;
    if v_quick is not null then
        perform work_give_back(v_quick, null, null);
    end if;
    return v_left;
end $$;

-- Reap dead workers; let their slots return when it is time.
create function work_maintain(p_slow_s float8) returns void language plpgsql as $$
declare
    v_dead    bigint[];
    v_budgets int[];
    v_counts  int[];
begin
    perform work_lock();
    select array_agg(lease_no) into v_dead
        from workers where not work_alive(expires_at, lease_s);
    if v_dead is not null then
        perform work_reap(v_dead, p_slow_s);
    end if;
    with due as (
        delete from slot_returns where at <= clock_timestamp() returning budget_id, count
    ), counted as (
        select budget_id, sum(count)::int as n from due group by 1
    )
    select array_agg(budget_id), array_agg(n) into v_budgets, v_counts from counted;
    if v_budgets is not null then
        perform 1 from budgets where budget_id = any (v_budgets)
            order by name for no key update;
        update budgets b set in_use = b.in_use - u.n
            from unnest(v_budgets, v_counts) as u (budget_id, n)
            where b.budget_id = u.budget_id;
    end if;
end $$;

-- Lanes without ready effects for longer than any step lasts are put aside; claims then need not
-- look into them. Whoever makes an effect ready takes its lane out again.
create function work_idle_lanes(p_empty_s float8) returns void language plpgsql as $$
begin
    perform work_lock();
    with seen as (
        select l.lane_id, exists (
                select from effects e where e.lane_id = l.lane_id and e.state = 'r') as busy
            from lanes l where l.active
    )
    update lanes l set
            active = s.busy or l.empty_since is null
                or l.empty_since > clock_timestamp() - make_interval(secs => p_empty_s),
            empty_since = case when s.busy then null
                else coalesce(l.empty_since, clock_timestamp()) end
        from seen s
        where l.lane_id = s.lane_id and (s.busy = (l.empty_since is not null) or not s.busy);
end $$;

-- Leases of the same worker that came before are over: their effects are ready at once.
create function work_lease(p_worker text, p_service text, p_lease_s float8, p_slow_s float8)
returns bigint language plpgsql as $$
declare
    v_before bigint[];
    v_lease  bigint;
begin
    perform work_lock();
    select array_agg(lease_no) into v_before
        from workers where worker = p_worker and service = p_service;
    if v_before is not null then
        -- Should a step be settling some of its effects just now, the old lease ends by itself.
        perform work_reap(v_before, p_slow_s);
    end if;
    insert into workers (worker, service, lease_s, expires_at)
        values (p_worker, p_service, p_lease_s,
            clock_timestamp() + make_interval(secs => p_lease_s))
        returning lease_no into v_lease;
    return v_lease;
end $$;

-- Gives the claimed effects that were asked to stop; null when the lease is over.
create function work_heartbeat(p_lease_no bigint) returns text[] language plpgsql as $$
declare
    v_stop text[];
begin
    update workers set expires_at = clock_timestamp() + make_interval(secs => lease_s)
        where lease_no = p_lease_no and work_alive(expires_at, lease_s);
    if not found then
        return null;
    end if;
    select array_agg(effect_id) into v_stop from effects
        where state = 'c' and lease_no = p_lease_no and cancel_requested;
    return coalesce(v_stop, '{}');
end $$;

create function work_end_lease(p_lease_no bigint) returns void language plpgsql as $$
begin
    perform work_lock();
    perform work_reap(array[p_lease_no], 0);
    -- What a step is settling at this moment is left: the lease then dies of age.
    update workers set expires_at = '-infinity' where lease_no = p_lease_no;
end $$;

-- Whether all these effects are still claimed under the living lease.
create function work_holds(p_lease_no bigint, p_ids text[]) returns text[]
language sql volatile as $$
    select coalesce(array_agg(i.id), '{}') from unnest(p_ids) as i (id)
        where not exists (
            select from effects e join workers w using (lease_no)
            where e.effect_id = i.id and e.state = 'c' and e.lease_no = p_lease_no
                and work_alive(w.expires_at, w.lease_s))
$$;

-- New buckets start full. A changed limit keeps what is in use and the tokens there are, up to the
-- new burst. Gives the names of budgets that exist with another mode; nothing is changed then.
create function work_define(
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
            tokens = case when budgets.burst = 0 then excluded.burst else least(excluded.burst,
                budgets.tokens + budgets.per_second * greatest(
                    extract(epoch from v_now - budgets.refilled_at)::float8, 0)) end,
            refilled_at = v_now
            where (budgets.concurrent, budgets.burst, budgets.per_second)
                <> (excluded.concurrent, excluded.burst, excluded.per_second);
    return '{}';
end $$;

create function work_budgets() returns table (
    name text, mode text, concurrent int, burst float8, per_second float8, in_use int,
    tokens float8
) language sql volatile as $$
    select name, mode, concurrent, burst, per_second, in_use,
            case when mode = 'rate' then least(burst, tokens + per_second * greatest(
                extract(epoch from clock_timestamp() - refilled_at)::float8, 0)) else 0 end
        from budgets order by name
$$;

-- Running effects first, then ready ones, in order of class, priority, due.
create function work_waiting(p_count int) returns table (
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
                    and case b.mode
                        when 'rate' then least(b.burst, b.tokens + b.per_second * greatest(
                            extract(epoch from clock_timestamp() - b.refilled_at)::float8, 0)) < 1
                        else b.in_use >= b.concurrent end
                order by b.name) end
        from effects e join lanes l using (lane_id) left join workers w using (lease_no)
        order by l.work_class, e.state <> 'c', l.priority, e.due, e.effect_id
        limit p_count
$$;
