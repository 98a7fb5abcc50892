-- Run once, when the volume of the server is made: a database for each service that may have one of
-- its own. `seawall`, which the server makes itself, is that of the replicator and the recovery.
create database seawall_gateway;
create database seawall_scheduler;
create database seawall_notifier;
create database seawall_projector;
