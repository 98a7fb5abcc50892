"""What a person sees of a job that runs: what is going on, what it waits for, what to type next.

`look` is what was asked for, `waits` and `advice` are rules over it, `screen` draws. All but
`look` is pure: the same answers of the control plane give the same picture.
"""
