-- Prep nodes as the pool of their site knows them: <site>/<node>.
create table prep_nodes (
    id           text collate "C" primary key,
    site         text collate "C" not null,
    doc          json not null,
    projected_at timestamptz not null
);
create index prep_nodes_site on prep_nodes (site, id);
