-- The read models of schema `read`. A row is one document (schemas/views.py) and the columns that
-- queries filter by. No name is qualified: a rebuild fills the same tables in schema `read_next`
-- and swaps the schemas by renaming them.
--
-- Everything but `projected_at`, `progress` and `freshness` is a function of the logs.

create table sites (
    id           text collate "C" primary key,   -- the site's name
    doc          json not null,
    projected_at timestamptz not null
);

create table plans (
    id           text collate "C" primary key,   -- the plan's name
    version      int not null,
    doc          json not null,
    projected_at timestamptz not null
);

create table vms (
    id           text collate "C" primary key,   -- protected-vm:<plan>:<vm>
    plan         text collate "C" not null,
    vm           text collate "C" not null,
    sync_state   text not null,
    doc          json not null,
    projected_at timestamptz not null
) with (fillfactor = 70);
create index vms_plan on vms (plan, vm);
create index vms_vm on vms (vm, plan);

create table checkpoints (
    id           text collate "C" primary key,   -- also the id of the job that makes it
    plan         text collate "C" not null,
    state        text not null,
    created_at   timestamptz not null,
    doc          json not null,
    projected_at timestamptz not null
);
create index checkpoints_plan on checkpoints (plan, created_at, id);

-- The scheduler's word on a checkpoint: joined by id.
create table checkpoint_marks (
    id           text collate "C" primary key,
    plan         text collate "C" not null,
    doc          json not null,
    projected_at timestamptz not null
);

-- Jobs of plans, of VMs (`vm` set) and of disks (`vm` and `disk` set).
create table jobs (
    id           text collate "C" primary key,
    kind         text not null,
    plan         text collate "C" not null,
    vm           text collate "C",
    disk         text collate "C",
    parent_id    text collate "C",
    state        text not null,
    created_at   timestamptz not null,
    ended_at     timestamptz,
    doc          json not null,
    projected_at timestamptz not null
) with (fillfactor = 80);
create index jobs_created on jobs (created_at, id);
create index jobs_plan on jobs (plan, created_at, id);
create index jobs_parent on jobs (parent_id) where parent_id is not null;
create index jobs_running on jobs (plan, id) where ended_at is null;

-- Jobs that were decided and that their service has not begun, or not ended, yet.
create table job_requests (
    id           text collate "C" primary key,
    kind         text not null,
    plan         text collate "C" not null,
    vm           text collate "C",
    disk         text collate "C",
    parent_id    text collate "C",
    state        text not null,
    created_at   timestamptz not null,
    ended_at     timestamptz,
    doc          json not null,
    projected_at timestamptz not null
);
create index job_requests_plan on job_requests (plan, created_at, id);

-- What to ask for jobs: those begun, and those decided and not begun.
create view job_list as
    select * from jobs
    union all
    select * from job_requests r where not exists (select from jobs j where j.id = r.id);

create table alerts (
    id           text collate "C" primary key,
    plan         text collate "C" not null,
    job          text collate "C" not null,
    state        text not null,
    severity     text not null,
    last_at      timestamptz not null,
    doc          json not null,
    projected_at timestamptz not null
);
create index alerts_last on alerts (last_at, id);

-- A command: what the gateway recorded, and its owner's answer. Two logs, two tables, one id.
create table command_accepts (
    id           text collate "C" primary key,
    doc          json not null,
    projected_at timestamptz not null
);
create table command_settlements (
    id           text collate "C" primary key,
    doc          json not null,
    projected_at timestamptz not null
);

-- Every event as a CloudEvent. `position` is dense and in the order of commits here: nothing ever
-- appears below a position that was read (docs/decisions, positions of events).
create table events (
    position     bigint primary key,
    source       text collate "C" not null,
    partition    int not null,
    seq          bigint not null,
    type         text collate "C" not null,
    plan         text collate "C" not null,
    job          text collate "C" not null,
    occurred_at  timestamptz not null,
    doc          json not null,
    projected_at timestamptz not null,
    unique (source, partition, seq)
);
create index events_plan on events (plan, position);
create index events_job on events (job, position) where job <> '';

-- The last position given, and the generation of these tables: it rises with every rebuild, and a
-- projector that cached documents of another generation cannot commit.
create table event_head (
    one        bool primary key default true check (one),
    position   bigint not null,
    generation bigint not null
);
insert into event_head (position, generation) values (0, 1);

-- One row per (source, topic, partition), made before the first event: a cursor only ever moves
-- by compare-and-set of an existing row. Epoch 0: nothing was read yet.
create table cursors (
    source    text collate "C" not null,
    topic     text collate "C" not null,
    partition int not null,
    epoch     int not null,
    seq       bigint not null,
    primary key (source, topic, partition)
) with (fillfactor = 40);
insert into cursors
    select source, 'seawall.' || source || '.events', partition, 0, 0
    from unnest(array['gateway', 'scheduler', 'replicator', 'recovery', 'notifier']) as s (source),
         generate_series(0, 63) as p (partition);

-- How far running jobs are: written by the services that run them, lossy.
create unlogged table progress (
    job         text collate "C" primary key,
    bytes_done  bigint not null,
    bytes_total bigint not null,
    percent     float8 not null,
    rate        float8 not null,
    at          timestamptz not null
);

-- How far each copy of the projector is behind; a copy that says nothing for long is gone.
create unlogged table freshness (
    copy_id text collate "C" primary key,
    lag_s   float8 not null,
    at      timestamptz not null
);

-- `as_of` of every listing: the last position, and how many seconds the read models are behind.
create view as_of as
    select (select position from event_head) as position,
           coalesce(
               (select max(lag_s + greatest(extract(epoch from now() - at) - 2, 0)) from freshness
                where at > now() - interval '30 seconds'),
               (select extract(epoch from now() - max(at)) from freshness), 0)::float8 as lag_s;
