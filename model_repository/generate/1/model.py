"""See ``underpaint.triton.generate_model``."""

from underpaint.triton.generate_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
