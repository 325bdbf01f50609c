"""What features say of themselves where there are no labels: are two views of an image alike, and unlike all others?"""

import torch
from torch import Tensor

from headstart.geometry import alignment, rankme, singular_values, uniformity

MOST = 2000  # images: every pair of them is compared


@torch.no_grad()
def label_free_scores(first_ND: Tensor, second_ND: Tensor) -> dict[str, float]:
    """Return scores of the features (N, D) of two random views of N images.

    view_top1: the share of images whose first view has, of all second views, its own as the most similar by cosine;
    alignment and uniformity: Wang & Isola 2020, less is better; rankme: the effective rank of features, at most D, more
    is better (Garrido et al. 2023). None of them is an accuracy of classes.
    """
    first, second = (torch.nn.functional.normalize(views.float()) for views in (first_ND, second_ND))
    both = torch.cat([first_ND, second_ND]).float()
    found = (first @ second.T).argmax(1)
    return {
        "view_top1": float((found == torch.arange(len(found), device=found.device)).double().mean()),
        "alignment": float(alignment(both)),
        "uniformity": float(uniformity(both)),
        "rankme": float(rankme(singular_values(both))),
    }
