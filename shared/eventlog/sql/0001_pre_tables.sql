-- The store of one service. Text is compared by byte, as Python compares it, whatever the
-- database's own collation: names that both sides sort must come out in one order.

-- One row per (topic, partition): its last seq. Locked by every append, so seq is dense and
-- in commit order. Rows are rewritten constantly: room in the page keeps the updates local.
create table heads (
    topic     text collate "C" not null,
    partition int not null,
    seq       bigint not null,
    primary key (topic, partition)
) with (fillfactor = 40);

create table streams (
    stream  text collate "C" primary key,
    version int not null
) with (fillfactor = 70);

create table log (
    topic          text collate "C" not null,
    partition      int not null,
    seq            bigint not null,
    stream         text collate "C" not null,
    version        int not null,      -- 0: a message, not an event of the stream
    type           text not null,
    schema_version int not null,
    data           json not null,
    meta           json not null,
    -- For partitioning by day, once a log is large enough for that to pay: neither dense seq nor
    -- stream versions rest on this table's own unique indexes, but on heads and streams.
    recorded_on    date not null default current_date,
    primary key (topic, partition, seq)
);
create unique index log_stream on log (stream, version) where version > 0;

-- Disposable folded states, apart from streams so that an append rewrites few bytes.
create table snapshots (
    stream  text collate "C" primary key,
    version int not null,
    schema  int not null,
    state   json not null
);

create table cursors (
    source    text collate "C" not null,
    topic     text collate "C" not null,
    partition int not null,
    epoch     int not null,
    seq       bigint not null,
    primary key (source, topic, partition)
) with (fillfactor = 40);

-- `token` names one setting of a timer: what replaced it has another.
create sequence timer_tokens;
create table timers (
    stream         text collate "C" not null,
    name           text collate "C" not null,
    partition      int not null,
    due            timestamptz not null,
    type           text not null,
    schema_version int not null,
    data           json not null,
    meta           json not null,
    token          bigint not null default nextval('timer_tokens'),
    primary key (stream, name)
);
-- By due first: the earliest come out in order, and other copies' partitions are passed over
-- inside the index.
create index timers_due on timers (due, partition);

create table reservations (
    name   text collate "C" primary key,
    stream text collate "C" not null
);

create table parked (
    source    text collate "C" not null,
    topic     text collate "C" not null,
    partition int not null,
    seq       bigint not null,
    key       text not null,
    reason    text not null,
    at        timestamptz not null,
    primary key (source, topic, partition, seq)
);

create table blobs (
    sha256  text collate "C" primary key,
    content bytea not null,
    kept_at timestamptz not null default now()
);

-- Living processes of this service, and which of them works on which partition.
create table copies (
    copy_id    text collate "C" primary key,
    expires_at timestamptz not null
);
create table partition_leases (
    partition  int primary key,
    copy_id    text collate "C" not null,
    expires_at timestamptz not null
);

-- Rises when this log is restored from a backup or promoted.
create table epoch (
    one   bool primary key default true check (one),
    epoch int not null
);
insert into epoch (epoch) values (1);
