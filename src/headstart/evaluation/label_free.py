"""What features say of themselves, without labels: scores of a backbone, of its head's outputs and of the head itself.

To add a score: one function and one row of SCORES (and its line of study/metrics.py, which gives it a column). RankMe,
alignment and uniformity are of geometry.py.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from headstart.geometry import alignment, effective_rank, rankme, singular_values, uniformity

MOST = 2000  # images whose two views are compared, every pair of them
CLASSES, VIEWS = 1000, 10  # images and views of each for LiDAR: 10 views come within 1 % of 50 (Thilak et al. 2024)
DELTA = 1e-4  # added to LiDAR's within-image covariance; the paper prints no value, this is that of Skean et al. (2025)
RANKS = (6, 100)  # of the eigenvalues that alpha-ReQ fits, as its authors' package reptrix: indices 5 to 99
FLAT = 1e-10  # an eigenvalue below this share of the largest is rounding of float32


def view_top1(z_ND: Tensor) -> Tensor:
    """Return the share of images whose first view has, of all second views, its own as the most similar by cosine.

    z_ND: (2B, D), rows i and i + B are the views of an image, as everywhere below.
    """
    first, second = torch.nn.functional.normalize(z_ND).chunk(2)
    found = (first @ second.T).argmax(1)
    return (found == torch.arange(len(found), device=found.device)).double().mean()


def raw_rank(z_ND: Tensor) -> Tensor:
    """Return RankMe (Garrido et al. 2023) of both views, not centred, as it is defined."""
    return rankme(singular_values(z_ND))


def centred_rank(z_ND: Tensor) -> Tensor:
    """Return the effective rank (Roy & Vetterli 2007) of both views minus their mean."""
    return effective_rank(singular_values(z_ND - z_ND.mean(0)))


def alpha_req(z_ND: Tensor) -> Tensor:
    """Return alpha-ReQ (Agrawal et al. 2022): the exponent with which the covariance's eigenvalues fall, best near 1.

    lambda_r ~ r^-alpha, least squares of logarithms with weights 1/r (Stringer et al. 2019) over RANKS, or as far as
    eigenvalues are above FLAT of the largest; NaN where fewer than two are.
    """
    eigenvalues = singular_values(z_ND - z_ND.mean(0)).flip(0).square()
    above = int((eigenvalues > FLAT * eigenvalues[0]).sum())
    if above <= RANKS[0]:
        return torch.tensor(torch.nan)
    ranks = torch.arange(RANKS[0], min(RANKS[1], above) + 1, dtype=torch.float64, device=z_ND.device)
    x, y, weights = ranks.log(), eigenvalues[ranks.long() - 1].log(), 1 / ranks / (1 / ranks).sum()
    x_0, y_0 = x - weights @ x, y - weights @ y
    return -(weights @ (x_0 * y_0)) / (weights @ x_0.square())


def lidar(x_QND: Tensor) -> Tensor:
    """Return LiDAR (Thilak et al. 2024): the effective rank of the LDA matrix whose classes are images.

    x_QND: Q random views of N images. With S_b the covariance of the images' means and S_w that of views around their
    image's mean, plus DELTA I: exp of the entropy of the shares of the eigenvalues of S_w^-1/2 S_b S_w^-1/2. At most
    min(N - 1, D): compare at equal N, Q and D. NaN where a feature is not finite.
    """
    x_QND = x_QND.double()
    if not x_QND.isfinite().all():
        return torch.tensor(torch.nan)
    num_views, number, width = x_QND.shape
    means = x_QND.mean(0)
    apart = (x_QND - means).flatten(0, 1)
    within = apart.T @ apart / (number * (num_views - 1)) + DELTA * torch.eye(width, device=x_QND.device).double()
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), (means - means.mean(0)).T, upper=False)
    return effective_rank(singular_values(whitened).square())


def sns(centres_KD: Tensor, widths_K: Tensor) -> Tensor:
    """Return scale-normalised separation of an RBF layer (arXiv:2606.21590): more is better, at most 1/e.

    The mean over i != j of x^2 exp(-x^2), x = |c_i - c_j| / (sqrt(s_i^2 + s_j^2) sqrt(D)), of K centres c with widths
    s > 0. Needs no images. NaN for a single centre.
    """
    centres, squares = centres_KD.double(), widths_K.double().square()
    apart = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
    x2 = apart / ((squares[:, None] + squares) * centres.shape[1])
    # the diagonal is 0
    return (x2 * (-x2).exp()).sum() / (len(x2) * (len(x2) - 1)) if len(x2) > 1 else torch.tensor(torch.nan)


@dataclass(frozen=True)
class Score:
    """A score and what it is computed from: one of PAIR, MANY and RBF."""

    compute: Callable[..., Tensor]
    needs: str


PAIR = "two views of images"  # (2B, D)
MANY = "many views of images"  # (Q, N, D)
RBF = "centres and widths of an RBF layer"  # (K, D), (K,)
SCORES = {
    "view_top1": Score(view_top1, PAIR),
    "alignment": Score(alignment, PAIR),
    "uniformity": Score(uniformity, PAIR),
    "rankme": Score(raw_rank, PAIR),
    "effective_rank": Score(centred_rank, PAIR),
    "alpha_req": Score(alpha_req, PAIR),
    "lidar": Score(lidar, MANY),
    "sns": Score(sns, RBF),
}


@torch.no_grad()
def label_free_scores(needed: dict[str, Iterable[Tensor]]) -> dict[str, float]:
    """Return name -> score of those of SCORES whose needs are given; one that is not finite is left out.

    needed: PAIR, MANY or RBF -> the tensors that its scores take. None of the scores is an accuracy of classes.
    """
    found = {
        name: float(score.compute(*(values.float() for values in needed[score.needs])))
        for name, score in SCORES.items()
        if score.needs in needed
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}
