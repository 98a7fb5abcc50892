-- Spreads the 64 logical partitions over the living copies of a service. Calls take turns.
-- Expiry is judged by the database's clock, read after the turn has come.

create function balance(p_copy text, p_lease_s float8, p_count int) returns int[]
language plpgsql as $$
declare
    at     timestamptz;
    until  timestamptz;
    live   int;
    rank   int;
    target int;
    mine   int;
begin
    perform pg_advisory_xact_lock(hashtextextended('balance ' || current_schema(), 0));
    at := clock_timestamp();
    until := at + make_interval(secs => p_lease_s);
    delete from copies where expires_at <= at;
    insert into copies values (p_copy, until)
        on conflict (copy_id) do update set expires_at = excluded.expires_at;
    delete from partition_leases where expires_at <= at;

    select count(*), count(*) filter (where copy_id < p_copy) into live, rank from copies;
    target := p_count / live + (rank < p_count % live)::int;
    delete from partition_leases where partition in (
        select partition from partition_leases where copy_id = p_copy
        order by partition offset target);
    update partition_leases set expires_at = until where copy_id = p_copy;
    get diagnostics mine = row_count;
    insert into partition_leases
        select free.partition, p_copy, until
        from generate_series(0, p_count - 1) as free (partition)
        where not exists (
            select from partition_leases taken where taken.partition = free.partition)
        order by free.partition limit target - mine;
    return array(select partition from partition_leases where copy_id = p_copy order by partition);
end $$;

create function leave(p_copy text) returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('balance ' || current_schema(), 0));
    delete from partition_leases where copy_id = p_copy;
    delete from copies where copy_id = p_copy;
end $$;
