"""A backbone as MLflow serves it: from pixels as files hold them to features."""

from torch import Tensor, nn

from headstart.data.arrays import Standardize


class FromPixels(nn.Module):
    """uint8 RGB images (N, S, S, 3) in, features (N, D) float32 out; S: the side of training images."""

    def __init__(self, backbone: nn.Module, standardize: Standardize | None):
        super().__init__()
        self.backbone, self.standardize = backbone, standardize

    def forward(self, x_NSSC: Tensor) -> Tensor:
        """Return the features of images."""
        x_NCSS = x_NSSC.permute(0, 3, 1, 2).float() / 255
        return self.backbone(x_NCSS if self.standardize is None else self.standardize(x_NCSS))
