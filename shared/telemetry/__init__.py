"""What an operator sees of a process: health, metrics, structured logs."""
