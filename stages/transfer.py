"""Judge the backbones of one dataset on another one."""

from torch import nn

from headstart.data.arrays import Split, Standardize, load_split
from headstart.evaluation.features import extract_features
from headstart.evaluation.probe import Labelled, Linear, Splits
from headstart.evaluation.shift import same_classes, transfer_scores, zero_shot_top1
from headstart.models.backbone import build_backbone
from headstart.run import artifacts, paths, tracking
from headstart.run.inputs import backbone_of, pick_device
from headstart.run.params import Params, load_params
from headstart.run.stage import run_stage, say

STAGE = "transfer"


def main(source: str, target: str) -> None:
    """Leave summary.json: scores on `target` of the backbone trained on `source` and of the untrained one."""
    params = load_params()
    device = pick_device(params.device)
    meta = artifacts.read_json(paths.prepared(source) / "meta.json", made_by="prepare")
    folder = paths.target(target)
    classes = artifacts.read_json(folder / "meta.json", made_by="prepare_target")["classes"]
    splits = [load_split(folder, name).to(device) for name in ("train", "val", "test")]
    # as the backbone saw its own images: their size, their statistics
    size = params.dataset(source).image_size
    standardize = Standardize(tuple(meta["mean"]), tuple(meta["std"])) if params.options.standardize else None
    with tracking.stage_run(STAGE, source, params) as run:
        backbone = build_backbone(backbone_of(params), params.seed).to(device)
        untrained = score(backbone, splits, size, standardize, params, len(classes))[0]
        state = artifacts.read_tensors(paths.simclr(source) / "backbone.safetensors", made_by="train_simclr")
        backbone.load_state_dict(state)
        trained, features = score(backbone, splits, size, standardize, params, len(classes))
        places = same_classes(meta["classes"], classes)
        if places is not None:
            trained["top1_zero_shot"] = zero_shot_top1(read_probe(source), features.test, places)
        summary = {"trained": trained, "untrained": untrained, "num_test": len(splits[2].labels)}
        with artifacts.write_folder(paths.transfer_metrics(source, target)) as out:
            artifacts.write_json(out / "summary.json", summary)
        for name, scores in (("probe", trained), ("untrained", untrained)):
            run.log_metrics({f"{name}/{key}_on_{target}": value for key, value in scores.items()})
    say(f"transfer {source} to {target}: top-1 {trained['top1']:.4f}, untrained {untrained['top1']:.4f}")


def score(
    backbone: nn.Module,
    splits: list[Split],
    size: int,
    standardize: Standardize | None,
    params: Params,
    num_classes: int,
) -> tuple[dict[str, float], Splits]:
    """Return a backbone's scores on the other dataset, and its features there."""
    features = Splits(
        *(Labelled(extract_features(backbone, split, size, standardize), split.labels.numpy()) for split in splits)
    )
    device = splits[0].images.device
    return transfer_scores(features, params.probe.strengths, num_classes=num_classes, device=device), features


def read_probe(source: str) -> Linear:
    """Return the probe of the source's own classes."""
    tensors = artifacts.read_tensors(paths.probe(source) / "probe.safetensors", made_by="fit_probe")
    return Linear(**{name: tensor.numpy() for name, tensor in tensors.items()})


if __name__ == "__main__":
    run_stage(main)
