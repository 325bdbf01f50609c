"""The method in one file: an autoencoder's embedding layer as the frozen first layer of SimCLR's projector, on digits.

It prints the linear probe's accuracy with that layer and with a random, trainable one: one seed each, which decides
nothing. A test holds its loss and its step against those of src/headstart.
"""

from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.transforms import v2

EPOCHS, BATCH, FEATURES, HIDDEN, OUT, TEMPERATURE = 3, 128, 512, 128, 64, 0.5


def nt_xent(z_ND: Tensor, temperature: float) -> Tensor:
    """Row i and row i + N/2 are two views of one image: each must find the other among all rows but itself."""
    unit_ND = nn.functional.normalize(z_ND, dim=1)
    similar_NN = (unit_ND @ unit_ND.T / temperature).fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(similar_NN, torch.arange(len(z_ND)).roll(len(z_ND) // 2))


def pretrain_autoencoder(x_NP: Tensor, epochs: int = 50) -> nn.Sequential:
    """Pixels -> 512 -> HIDDEN -> 512 -> pixels; the layer from 512 to HIDDEN is what the projector begins with."""
    sizes = [x_NP.shape[1], FEATURES, HIDDEN, FEATURES, x_NP.shape[1]]
    first, embed, grow, last = (nn.Linear(a, b) for a, b in pairwise(sizes))
    autoencoder = nn.Sequential(first, nn.ReLU(), embed, grow, nn.ReLU(), last, nn.Sigmoid())
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-3)
    for rows in [rows for _ in range(epochs) for rows in torch.randperm(len(x_NP)).split(100)]:
        optimizer.zero_grad()
        nn.functional.mse_loss(autoencoder(x_NP[rows]), x_NP[rows]).backward()
        optimizer.step()
    return autoencoder


def simclr_step(model: nn.Module, optimizer: torch.optim.Optimizer, pairs_BCHW: Tensor) -> float:
    """One step on both views of a batch, one half after the other; the loss in nats."""
    loss = nt_xent(model(pairs_BCHW), TEMPERATURE)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train(backbone: nn.Module, projector: nn.Module, x_NCHW: Tensor) -> None:
    """SimCLR: each image twice, as two random views."""
    model = nn.Sequential(backbone, projector)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.3 * BATCH / 256, momentum=0.9, weight_decay=1e-4)
    view = v2.Compose([v2.RandomResizedCrop(32, (0.5, 1.0)), v2.RandomRotation(15), v2.ColorJitter(0.4, 0.4)])
    for epoch in range(EPOCHS):
        rows = torch.randperm(len(x_NCHW)).split(BATCH)[:-1]
        losses = [simclr_step(model, optimizer, torch.stack([view(x) for _ in "ab" for x in x_NCHW[r]])) for r in rows]
        print(f"epoch {epoch + 1}: NT-Xent {sum(losses) / len(losses):.3f}")


def main() -> None:
    """Both heads, one after the other."""
    images, labels = load_digits(return_X_y=True)
    x_NP = torch.tensor(images / 16, dtype=torch.float32)
    x_NCHW = nn.functional.interpolate(x_NP.view(-1, 1, 8, 8), 32).expand(-1, 3, -1, -1)
    train_rows, test_rows = torch.arange(len(x_NP)).split([1438, 359])
    for start in ("random", "autoencoder"):
        torch.manual_seed(0)
        backbone, first = resnet18(), nn.Linear(FEATURES, HIDDEN)
        backbone.fc = nn.Identity()
        if start == "autoencoder":
            first = pretrain_autoencoder(x_NP[train_rows])[2].requires_grad_(False)
        train(backbone, nn.Sequential(first, nn.ReLU(), nn.Linear(HIDDEN, OUT)), x_NCHW[train_rows])
        with torch.no_grad():
            z_NF = backbone.eval()(x_NCHW).numpy()
        probe = LogisticRegression(max_iter=1000).fit(z_NF[train_rows], labels[train_rows])
        print(f"{start}: linear probe {probe.score(z_NF[test_rows], labels[test_rows]):.4f}")


if __name__ == "__main__":
    main()
