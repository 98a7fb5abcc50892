"""Platform adapters behind capability ports; deciders read capabilities, never a name."""
