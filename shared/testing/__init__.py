"""What tests of many packages share: a small service, given/when/then, virtual-time worlds."""
