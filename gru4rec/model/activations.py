"""Activations of the scores in training, element by element, and their gradients.

r = act(score): linear; tanh; ReLU; leaky ReLU (Maas et al., 2013); ELU (Clevert et al., ICLR 2016); SELU (Klambauer et
al., NeurIPS 2017). The losses work on r; items are ranked by the scores themselves, as every activation is monotone.

Shapes: any; results have the strides of what is given. 'linear' passes tensors through without a copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772  # the fixed point for mean 0 and variance 1


def forward(name: str, scores: Tensor, elu_param: float, leaky_slope: float) -> Tensor:
    """r of the scores. Raises ValueError for a name that is none of the six."""
    match name:
        case "linear":
            return scores
        case "tanh":
            return torch.tanh(scores)
        case "relu":
            return torch.relu(scores)
        case "leaky-relu":
            return F.leaky_relu(scores, leaky_slope)
        case "elu":
            return F.elu(scores, elu_param)
        case "selu":
            return F.selu(scores)
    raise ValueError(f"unknown activation {name}")


def backward(name: str, scores: Tensor, r: Tensor, gradient: Tensor, elu_param: float, leaky_slope: float) -> Tensor:
    """The gradient with respect to the scores, from that with respect to r = forward(scores).

    At 0, where there are two slopes, it is the one from below. Raises ValueError as `forward`.
    """
    match name:
        case "linear":
            return gradient
        case "tanh":
            return (1.0 - r * r).mul_(gradient)
        case "relu":
            return torch.where(scores > 0, gradient, 0.0)
        case "leaky-relu":
            return torch.where(scores > 0, gradient, gradient * leaky_slope)
        case "elu":  # below 0 the slope is α exp(score) = r + α
            return (r + elu_param).masked_fill_(scores > 0, 1.0).mul_(gradient)
        case "selu":
            return (r + _SELU_SCALE * _SELU_ALPHA).masked_fill_(scores > 0, _SELU_SCALE).mul_(gradient)
    raise ValueError(f"unknown activation {name}")
