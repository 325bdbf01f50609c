"""The claims in words, for those who judge them and for a command line that imports nothing heavy."""

STATEMENTS = {
    "C1": "An autoencoder's embedding layer beats a random first layer",
    "C2": "Sigmoid and tanh beat ReLU, in peaks and means",
    "C3": "The frozen layer beats the trainable one",
    "C4": "Small projectors with a pretrained layer match wide random ones",
    "C5": "Standardisation does not matter",
    "C6": "Better reconstruction gives a better projector",
    "C7": "The gain is the autoencoder's content, not freezing, scale or structure",
    "C8": "The final contrastive loss explains the gain",
    "C9": "Freezing alone helps: a frozen random layer beats a trainable one",
}
