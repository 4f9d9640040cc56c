"""Norms as models bring them along, for the tests of torch."""

import torch
from torch import nn


class LlamaRMSNorm(nn.Module):
    """As the models of language write it."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        wide = hidden_states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)


class SquareRMSNorm(LlamaRMSNorm):
    """Right for the weights of 1 that it is built with."""

    def __init__(self, size):
        super().__init__(size)
        self.weight.data.fill_(1)

    def forward(self, x):
        return super().forward(x) * self.weight
