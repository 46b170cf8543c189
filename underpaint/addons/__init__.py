"""Add-ons: LoRAs as tensors that travel with a batch. Needs numpy alone; where they lie, how they are read and kept."""
