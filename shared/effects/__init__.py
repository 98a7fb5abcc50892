"""Effects: durable work for the outside world, claimed under budgets by leased workers."""
