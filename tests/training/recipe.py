"""The contrastive recipe of small trainings: every term of it acts within three epochs."""

from headstart.training.contrastive import SimCLR

RECIPE = SimCLR(
    epochs=3,
    temperature=0.5,
    learning_rate=1.0,
    momentum=0.9,
    weight_decay=1e-3,
    schedule="cosine",
    warmup_epochs=1,
    final_lr=0.02,
    precision="fp32",
    num_processes=1,
    sync_batchnorm=True,
    monitor_epochs=0,
)
