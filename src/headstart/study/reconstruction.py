"""Is an autoencoder any good? Its error against that of the mean image: the first of the paper's signs of failure."""

POOR = 0.5  # an autoencoder that leaves more than this share of the mean image's error is a poor one


def poor_autoencoder(dataset: str, error: float, mean: float) -> tuple[bool, str]:
    """Return whether an autoencoder is poor, and in a sentence what it leaves of the mean image's error.

    error, mean: mean squared errors over the test images, of the autoencoder and of always answering the mean image.
    """
    poor = error > POOR * mean
    words = "poor, no benefit to expect" if poor else "not poor"
    share = f"it leaves {error / mean:.0%}" if mean > 0 else "there is nothing to rebuild"
    return poor, (
        f"Autoencoder of {dataset}: test MSE {error:.4f}, that of the mean image {mean:.4f}: {share} "
        f"({words}; poor is above {POOR:.0%})."
    )
