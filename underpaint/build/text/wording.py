"""What diffusers' pipelines do to the words of a prompt before they are tokenized."""

from __future__ import annotations

import inspect

from underpaint.errors import InvalidArgument
from underpaint.triton.tokenization import Wording

_INSTRUCTION = "complex_human_instruction"


def wording(pipeline: str, instructed: bool) -> Wording:
    """Of a pipeline class; ``instructed``: with the instruction that it puts before prompts.

    Raises:
        InvalidArgument: this pipeline has no instruction.
    """
    if pipeline != "SanaPipeline":
        if instructed:
            raise InvalidArgument.of(_INSTRUCTION, True, f"false for {pipeline}, which has none")
        return Wording()
    return Wording(lowercase=True, instruction=_instruction() if instructed else "")


def _instruction() -> str:
    """The installed pipeline's own, the default of its parameter."""
    from diffusers import SanaPipeline

    lines: list[str] = inspect.signature(SanaPipeline.__call__).parameters[_INSTRUCTION].default
    return "\n".join(lines)
