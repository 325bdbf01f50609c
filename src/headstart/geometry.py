"""How features lie on their sphere: measures that need no labels."""

import torch
from torch import Tensor, nn

UNIFORMITY = 2.0  # t of the Gaussian potential (Wang & Isola 2020)
RANKME = 1e-7  # epsilon (Garrido et al. 2023, equation 3)


def alignment(z_ND: Tensor) -> Tensor:
    """Return the mean squared distance of the two views of an image on the unit sphere (Wang & Isola 2020, alpha 2).

    z_ND: (2B, D), rows i and i + B are the views of an image, as for nt_xent.
    """
    first, second = nn.functional.normalize(z_ND).chunk(2)
    return (first - second).square().sum(1).mean()


def uniformity(z_ND: Tensor) -> Tensor:
    """Return log of the mean of exp(-2 |x - y|^2) over pairs of images on the unit sphere, mean of the two views.

    At most 0, which is collapse; the lower, the more evenly spread (Wang & Isola 2020, t = 2).
    """
    losses = []
    for x_BD in nn.functional.normalize(z_ND).chunk(2):
        kernel = (x_BD @ x_BD.T).sub_(1).mul_(2 * UNIFORMITY).exp_()  # |x - y|^2 = 2 - 2 cosine
        pairs = len(x_BD) * (len(x_BD) - 1)
        losses.append(((kernel.sum() - kernel.diagonal().sum()) / pairs).log())
    return torch.stack(losses).mean()


def effective_rank(singular: Tensor, added: float = 0.0) -> Tensor:
    """Return exp of the entropy of singular values (K,) that are divided by their sum (Roy & Vetterli 2007).

    added: to each of these shares.
    """
    shares = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny)
    return torch.special.entr(shares + added).sum().exp()


def rankme(singular: Tensor) -> Tensor:
    """Return RankMe (Garrido et al. 2023, equation 3): the effective rank of features, 1e-7 added to each share."""
    return effective_rank(singular, RANKME)


def singular_values(z_ND: Tensor) -> Tensor:
    """Return the min(N, D) singular values of z_ND, from the smaller Gram matrix in float64; NaN where z_ND has one."""
    z_ND = z_ND.double()
    gram = z_ND.T @ z_ND if len(z_ND) > z_ND.shape[1] else z_ND @ z_ND.T
    # the solver raises on what is not finite; training itself will say so
    values = torch.linalg.eigvalsh(gram.nan_to_num(0.0, 0.0, 0.0)).clamp(min=0).sqrt()
    return torch.where(gram.isfinite().all(), values, torch.nan)
