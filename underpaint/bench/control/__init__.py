"""What the control plane goes by: profiles, allocators, the simulator, and whether it tells the truth."""
