"""Growth: a deeper UNet that starts by painting exactly as a trained shallower one does.

The layers that both have keep their weights; what is new adds nothing yet (the last weights of a new residual
branch are zero, its shortcut passes the hidden states on), as in Net2Net (Chen et al. 2015, arXiv:1511.05641).
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn


@torch.no_grad()
def grow_unet(deep: UNet2DConditionModel, shallow: UNet2DConditionModel) -> None:
    """Make `deep` compute what `shallow`, of one layer a block and otherwise the same shape, does."""
    deep.load_state_dict({**deep.state_dict(), **_alike(shallow, deep)})
    for block in deep.down_blocks:
        for position in range(1, len(block.resnets)):
            _silence(block, position)
    # The first layer of an upward block takes the deepest skip connection, the last one that of the level's entry.
    for block, trained in zip(deep.up_blocks, shallow.up_blocks, strict=True):
        last = len(block.resnets) - 1
        for position in range(1, last):
            _silence(block, position)
        block.resnets[last].load_state_dict(trained.resnets[1].state_dict())
        if hasattr(block, "attentions"):
            block.attentions[last].load_state_dict(trained.attentions[1].state_dict())


def _alike(trained: nn.Module, other: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors whose place and shape are the same in both."""
    shapes = {name: tensor.shape for name, tensor in other.state_dict().items()}
    return {name: tensor for name, tensor in trained.state_dict().items() if tensor.shape == shapes.get(name)}


def _silence(block: nn.Module, position: int) -> None:
    """Fresh weights in one layer of a block, such that it passes the hidden states on unchanged."""
    resnet = block.resnets[position]
    _reset(resnet)
    _zero(resnet.conv2)
    if resnet.conv_shortcut is not None:
        _pass_hidden_states(resnet)
    if hasattr(block, "attentions"):
        attention = block.attentions[position]
        _reset(attention)
        _zero(attention.proj_out)


def _pass_hidden_states(resnet: ResnetBlock2D) -> None:
    """The shortcut sees hidden states and then the skip connection; the hidden states come first."""
    shortcut = resnet.conv_shortcut
    assert shortcut is not None and shortcut.bias is not None
    shortcut.weight.zero_()
    nn.init.eye_(shortcut.weight[:, : resnet.out_channels, 0, 0])
    shortcut.bias.zero_()


def _reset(module: nn.Module) -> None:
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.zero_()
