"""The published language of Seawall: events, commands, ids and definitions, as plain data."""
