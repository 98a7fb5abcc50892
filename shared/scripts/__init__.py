"""Run one script of an operator at a time, fenced in: limits, own user, no trace left behind.

Knows nothing of plans, jobs or recovery. That a script ran is for the caller to remember: it
records the start in `on_started` and the end from the result. A start on record without an end
(the service died in between) is looked up in what the guard left of the run (record.py): it was
never given, it ended, or it is the caller's *unknown*, which nothing here starts again.

Nothing is imported here: the guard process starts from this package, and must start quickly.
"""
