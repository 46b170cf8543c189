"""The simulator: the server's policies and the monitor's allocators, on as many devices as one likes to imagine."""
