"""Recovery: brings VMs up from their copies in boot order, and cleans up afterwards."""
