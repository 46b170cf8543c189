"""See ``underpaint.triton.tokenizer_model``."""

from underpaint.triton.tokenizer_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
