"""See ``underpaint.triton.denoiser_model``."""

from underpaint.triton.denoiser_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
