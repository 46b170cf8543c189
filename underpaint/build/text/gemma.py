"""The text of SANA: Gemma 2, a language model of which the last layer is taken, as ``SanaPipeline`` has it read."""

from __future__ import annotations

import torch
from torch import nn
from transformers import Gemma2Model

from underpaint.build.graph import Extent, Graph


class GemmaTextGraph(Graph):
    """input_ids int32 [B, N] to last_hidden_state [B, T, D] and attention_mask float32 [B, T] (1: text, 0: padding).

    A prompt may follow an instruction (see ``build.tokenizers``), so that N is more than T: of the states, the first
    and the last T − 1 are kept (arXiv 2410.10629, section 3.1). Padding is on the right and attended by nobody.
    """

    outputs = ("last_hidden_state", "attention_mask")
    weights: Gemma2Model

    def __init__(self, weights: nn.Module, max_sequence_length: int = 300, instructed: bool = False) -> None:
        """``instructed``: prompts follow an instruction, so that N is not always T."""
        super().__init__(weights)
        self.max_sequence_length = max_sequence_length
        if instructed:
            self.open = {"input_ids": {1: "tokens"}}

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = input_ids != self.weights.config.pad_token_id
        states = self.weights(input_ids.long(), attention_mask=self._biases(mask), use_cache=False).last_hidden_state
        return self._selected(states).float(), self._selected(mask).float()

    def _biases(self, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is added to the attention of each kind of layer, [B, 1, N, N]: a token attends to text before it.

        Made here because transformers makes it by looking at the mask's values, which a graph cannot.
        """
        places = torch.arange(mask.shape[1])
        distance = places[:, None] - places[None, :]
        seen = (distance >= 0)[None, None] & mask[:, None, None, :]
        near = distance < self.weights.config.sliding_window
        return {"full_attention": self._bias(seen), "sliding_attention": self._bias(seen & near)}

    def _bias(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.where(seen, 0.0, torch.finfo(self.dtype).min).to(self.dtype)

    def _selected(self, tokens: torch.Tensor) -> torch.Tensor:
        last = torch.arange(1 - self.max_sequence_length, 0) + tokens.shape[1]
        return tokens[:, torch.cat([torch.zeros_like(last[:1]), last])]

    def examples(self, extent: Extent) -> dict[str, torch.Tensor]:
        instruction = 8 if self.open else 0
        ids = torch.ones(extent.batch, instruction + self.max_sequence_length, dtype=torch.int32)
        ids[-1, self.max_sequence_length // 2 :] = self.weights.config.pad_token_id
        return {"input_ids": ids}
