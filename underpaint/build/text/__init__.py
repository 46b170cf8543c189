"""Text encoders as graphs, one file a way of joining them, found by the class of diffusers' pipeline.

The contract: ``input_ids`` int32 [B, N] (and ``input_ids_2``, ``input_ids_3``, one for each encoder) to
``last_hidden_state`` float32 [B, T, D] and, only where the network takes them, ``pooled_projections`` float32 [B, P]
and ``attention_mask`` float32 [B, T].
"""
