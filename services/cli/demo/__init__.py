"""`make demo`: the main job end to end on real bytes, told so that a person understands it."""
