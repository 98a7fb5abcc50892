-- A lane that was seen empty says so in its row (`empty_since`), and whoever makes an effect ready
-- takes the word back, also while claims still look into the lane. Else a lane could be put aside
-- while a step that had not committed yet put an effect into it, which nobody would ever claim: the
-- lane would have been called empty since a look long ago, whatever had passed through it since.
--
-- Steps that began before the word was written and do not see it have ended when the lane is put
-- aside, since that is later than any step lasts. Steps that see it and `work_idle_lanes` wait for
-- each other at the row, and the later one finds what the earlier wrote.

create or replace function work_wake_lanes(p_lanes int[]) returns void
language plpgsql volatile as $$
begin
    perform 1 from lanes where lane_id = any (p_lanes) and empty_since is not null
        order by lane_id for no key update;  -- one order, or two steps wait for each other
    if found then
        update lanes set active = true, empty_since = null
            where lane_id = any (p_lanes) and empty_since is not null;
    end if;
end $$;
