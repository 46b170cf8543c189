"""What step batching behind Triton leaves of the bare UNet's speed."""
