"""The services of Seawall, one folder each, all with the same file names inside."""
