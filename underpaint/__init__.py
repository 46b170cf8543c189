"""underpaint: text-to-image diffusion on NVIDIA Triton that paints on what the server already has."""

__version__ = "0.1.0"
