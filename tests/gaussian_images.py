"""Gaussian images whose factors are linear, so that denoiser, factors and conditional law are exact: what tests of guidance and of sampling share."""

import numpy as np
import torch

from gencausal import scm, seeding
from gencausal.guidance import Guide

N, SIZE = 3, 4
X = torch.randn(6, 3, SIZE, SIZE, generator=seeding.generator(0, "x"), dtype=torch.float64)
W = torch.linalg.qr(torch.randn(3 * SIZE**2, N, generator=seeding.generator(1, "w"), dtype=torch.float64))[0].T.contiguous()  # orthonormal rows: z = W x ~ N(0, I)


class Reader(torch.nn.Module):
    """The exact projector of x_0 ~ N(0, I): E[W x_0 | x_t] = alpha W x_t; it recovers alpha from ln(kappa) / 4."""

    def forward(self, x, c_noise):
        alpha = (1 + (8 * c_noise).exp()).rsqrt()
        return alpha[:, None] * (x.flatten(1) @ W.T)


def exact_guide():
    return Guide(Reader(), scm.make("independent", np.zeros((N, N)), seeding.generator(0, "scm")))


def exact_denoiser(x, alpha, sigma):
    return alpha * x
