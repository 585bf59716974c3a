"""The network, its losses and optimizers, on torch and on kernels compiled here."""

import torch

# The vector mathematics of MKL (exp, log, tanh, …; through torch on CPUs) set themselves up at a process's first call,
# and that is not safe for threads: where two make it at once, one of them now and then computes its half in a mode of
# low accuracy (float32 log: relative error 1e-4; seen in about one of 500 processes). So one thread makes it here.
for _dtype in (torch.float32, torch.float64):
    torch.exp(torch.ones(8, dtype=_dtype))  # far too short to be split
