"""What is measured for the model repository: how similar is similar enough, and how late LoRAs may join."""
