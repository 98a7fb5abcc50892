-- The work queue: ready effects by lane, budgets, leases of workers. Functions name these tables
-- without a schema: the search path is the service's schema, then the work schema.
--
-- Locks are taken in one order everywhere: effects (by id where more than one may wait for them;
-- a claim never waits, it skips), then budgets by name. Whatever raises `in_use` or spends tokens
-- holds the advisory lock of `work_lock()` as well, so what a claim has read stays true until it
-- has written: others only ever give back.

create sequence lease_numbers;

-- One row per lease. A worker that leases again has a new number and its old row is gone.
create table workers (
    lease_no   bigint primary key default nextval('lease_numbers'),
    worker     text collate "C" not null,
    service    text collate "C" not null,
    kinds      text[] not null default '{}',    -- what its last claim asked for
    lease_s    float8 not null,
    expires_at timestamptz not null
) with (fillfactor = 50);

-- `concurrent` limits modes hold and seat, `burst` and `per_second` mode rate. A budget that
-- effects name before anyone has defined it has no room. Rows are rewritten by every claim.
create table budgets (
    budget_id   int generated always as identity primary key,
    name        text collate "C" not null unique,
    mode        text not null check (mode in ('hold', 'seat', 'rate')),
    concurrent  int not null default 0,
    burst       float8 not null default 0,
    per_second  float8 not null default 0,
    in_use      int not null default 0,
    tokens      float8 not null default 0,
    refilled_at timestamptz not null default clock_timestamp(),
    constraint budgets_in_use_not_negative check (in_use >= 0)
) with (fillfactor = 40);

-- A lane is all effects that a claim may treat alike: it is open or blocked as a whole. `slots` are
-- the concurrency budgets it holds while it runs. The row never changes but for `active` (false: a
-- claim need not look), `empty_since` and `reserved_until`.
create table lanes (
    lane_id        int generated always as identity primary key,
    service        text collate "C" not null,
    kind           text collate "C" not null,
    work_class     int not null,
    priority       int not null,
    plan           text collate "C" not null,
    interval_s     float8 not null,
    needs          text collate "C" not null,   -- lines `mode budget`, sorted by budget
    slots          int[] not null default '{}',
    active         bool not null default true,
    empty_since    timestamptz,
    reserved_until timestamptz,
    unique (service, kind, work_class, priority, plan, interval_s, needs)
) with (fillfactor = 70);

create table lane_budgets (
    lane_id   int not null,
    budget_id int not null,
    primary key (lane_id, budget_id)
);
create index lane_budgets_budget on lane_budgets (budget_id, lane_id);

-- state: w waits for ready_at; r ready; x ready and to be cancelled (needs no budget); c claimed.
-- `budgeted`: the claim took the lane's budgets. `quick_return`: its slots are free at once when
-- its worker dies. `attempt`: failures committed so far. `claim_no` rises with every claim of any
-- worker: of two claims of one effect or disk, the later has the higher one (lease numbers do not
-- tell, since two live workers have one each).
-- A new database begins above every number that an earlier one can have left at a target, which
-- refuses lower ones: nobody claims a thousand times a second for ever.
create sequence claim_numbers;
select setval('claim_numbers', (extract(epoch from clock_timestamp()) * 1000)::bigint);
create table effects (
    effect_id        text collate "C" primary key,
    lane_id          int not null,
    stream           text collate "C" not null,
    partition        int not null,
    stream_version   int not null,
    type             text not null,
    schema_version   int not null,
    data             json not null,
    meta             json not null,
    due              timestamptz not null,
    ready_at         timestamptz not null,
    attempt          int not null default 0,
    state            "char" not null,
    lease_no         bigint,
    claim_no         bigint not null default 0,
    budgeted         bool not null default false,
    quick_return     bool not null default false,
    cancel_requested bool not null default false,
    seated           bool not null            -- the lane needs a seat
) with (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);
create index effects_ready on effects (lane_id, due) where state = 'r';
create index effects_waiting on effects (ready_at) where state = 'w';
create index effects_claimed on effects (lease_no) where state = 'c';
create index effects_cancelled on effects (lane_id) where state = 'x';
create index effects_seated on effects (stream) where state = 'r' and seated;

create table seats (
    budget_id int not null,
    stream    text collate "C" not null,
    primary key (budget_id, stream)
);
create index seats_stream on seats (stream);

-- Slots of dead workers: they count as in use until the platform has ended their last calls.
create table slot_returns (
    budget_id int not null,
    count     int not null,
    at        timestamptz not null
);
create index slot_returns_at on slot_returns (at);

-- Round robin over plans: the plan whose last turn is oldest goes first. `turn` is microseconds
-- of the claim's time plus the place in that claim.
create table turns (
    work_class int not null,
    priority   int not null,
    plan       text collate "C" not null,
    turn       bigint not null,
    primary key (work_class, priority, plan)
) with (fillfactor = 50);
