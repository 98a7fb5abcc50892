"""The engine: log, bus, effects, timers and services. It knows nothing of disaster recovery."""
