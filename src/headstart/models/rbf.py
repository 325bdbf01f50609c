"""Gaussian radial basis functions, for heads of the kind `rbf` (Schliebitz, Tapken and Atzmueller, arXiv:2606.21590).

What their head is, the trainable parameters in their published results tell: SimCLR's head, num_layers Linear layers,
with a network of K radial functions in place of each activation (ResNet-50, 2 layers, K = 128: 4,983,040 =
Linear(2048, 2048) + 128 (2048 + 1 + 2048) + Linear(2048, 128)). The names in their checkpoints (kernels_centers,
log_shapes) are those of github.com/rssalessio/PytorchRBFLayer, whose defaults stand here for an initialisation that
cannot be read: centres uniform in +-1, log widths normal with deviation 0.1, weights as Glorot and Bengio (2010).

Chosen here: distances are divided by sqrt(d), as in their score SNS. Without that the functions of a wide layer are 0
in float32 wherever the input is: all 72 of their SimCLR runs with Gaussians, 18 on each of four datasets, end at a
training loss of 8.31752, which is log(2B - 1) at B = 2048, the loss of a head that says nothing.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from headstart.randomness import derived_seed, generator

CENTRES, LOG_WIDTHS = 1.0, 0.1  # bound of the uniform draw, deviation of the normal draw
NEAREST = 2  # centres that a width is taken from


class GaussianRBF(nn.Module):
    """K Gaussian radial functions and their linear combinations: (.., d) -> (.., H), of the dtype of its parameters.

    phi_k(x) = exp(-(|x - c_k| / (s_k sqrt(d)))^2), and the output is phi @ weight.T. Parameters: `centres` (K, d), in
    the units of the input; `log_widths` (K,), natural logarithms of `widths`, so that these stay positive; `weight`
    (H, K). All zero but the widths, which are 1, until one of the functions below fills them.
    """

    def __init__(self, in_features: int, num_kernels: int, out_features: int):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(num_kernels, in_features))
        self.log_widths = nn.Parameter(torch.zeros(num_kernels))
        self.weight = nn.Parameter(torch.zeros(out_features, num_kernels))

    @property
    def widths(self) -> Tensor:
        """The widths s (K,), above 0: a distance of s_k sqrt(d) lets phi_k fall to 1/e."""
        return self.log_widths.exp()

    def kernels(self, x_Bd: Tensor) -> Tensor:
        """Return phi (B, K), each in [0, 1]."""
        products = x_Bd @ self.centres.T
        squared = x_Bd.square().sum(-1, keepdim=True) - 2 * products + self.centres.square().sum(-1)
        # rounding may leave less than nothing where an input is a centre
        return torch.exp(-squared.clamp(min=0) / (self.widths.square() * self.centres.shape[1]))

    def forward(self, x_Bd: Tensor) -> Tensor:
        """Return the combinations (B, H)."""
        return self.kernels(x_Bd) @ self.weight.T

    def extra_repr(self) -> str:
        """Return the widths of input, kernels and output, for printing."""
        kernels, width = self.centres.shape
        return f"{width}, {kernels}, {self.weight.shape[0]}"


def rbf_layers(projector: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield centres (K, d) and widths (K,) of each RBF layer of a head, in order and detached; nothing of an MLP."""
    for layer in projector.modules():
        if isinstance(layer, GaussianRBF):
            yield layer.centres.detach(), layer.widths.detach()


@torch.no_grad()
def fill_random(layer: GaussianRBF, seed: int, *purpose: str | int) -> None:
    """Draw centres, widths and weights as the module says, from generator(seed, *purpose)."""
    source = generator(seed, *purpose)
    layer.centres.uniform_(-CENTRES, CENTRES, generator=source)
    layer.log_widths.normal_(0, LOG_WIDTHS, generator=source)
    nn.init.xavier_uniform_(layer.weight, generator=source)


@torch.no_grad()
def fill_from_data(layer: GaussianRBF, x_Nd: Tensor, seed: int) -> None:
    """Take centres and widths from the inputs (N, d) that the layer gets; its weights stay.

    Centres are those of k-means (scikit-learn's, by k-means++), drawn by `seed`. A width is the root mean square
    distance to the two nearest other centres (Moody and Darken 1989), over sqrt(d). Raises ValueError where there are
    fewer different inputs than centres, or but one centre.
    """
    from sklearn.cluster import KMeans

    number, width = layer.centres.shape
    different = len(torch.unique(x_Nd, dim=0))
    if not 2 <= number <= different:
        raise ValueError(f"projector.init kmeans finds 2 to {different} centres, hidden_dim is {number}")
    state = derived_seed(seed, "k-means") % 2**32
    found = KMeans(number, n_init=1, random_state=state).fit(x_Nd.double().numpy())
    centres = torch.from_numpy(found.cluster_centers_)
    distances = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.fill_diagonal_(torch.inf).topk(min(NEAREST, number - 1), largest=False).values
    layer.centres.copy_(centres)
    layer.log_widths.copy_((nearest.square().mean(1).sqrt() / width**0.5).log())
