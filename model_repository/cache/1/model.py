"""See ``underpaint.triton.cache_model``."""

from underpaint.triton.cache_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
