"""See ``underpaint.triton.generate_stream_model``."""

from underpaint.triton.generate_stream_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
