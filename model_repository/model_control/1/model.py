"""See ``underpaint.triton.model_control_model``."""

from underpaint.triton.model_control_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
