"""What LoRAs and ControlNets cost."""
