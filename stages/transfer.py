"""Judge the backbones of one dataset on another one."""

from functools import partial

from headstart.data.arrays import Standardize, load_split
from headstart.errors import UserError
from headstart.evaluation.probe import Linear
from headstart.experiment.judging import judge_elsewhere, own_probe_elsewhere
from headstart.experiment.prepared import prepare
from headstart.models.backbone import build_backbone
from headstart.run import files, paths, tensors
from headstart.run.inputs import Inputs
from headstart.run.processes import pick_device
from headstart.run.stage import run_stage, say
from headstart.tracking import tracking

STAGE = "transfer"


def main(source: str, target: str) -> None:
    """Leave summary.json: scores on `target` of the backbone trained on `source` and of the untrained one."""
    inputs = Inputs(STAGE, f"{source}-on-{target}", source)
    params, device = inputs.params, pick_device(inputs.params.device)
    own = files.read_json(paths.prepared(source) / "meta.json", made_by="prepare")
    meta = files.read_json(paths.target(target) / "meta.json", made_by="prepare_target")
    # as the backbone saw its own images: their size, their statistics
    size, options = params.dataset(source).image_size, params.data
    standardize = Standardize(tuple(own["mean"]), tuple(own["std"])) if options.standardize else None
    data = prepare(meta, partial(load_split, paths.target(target)), size=size, standardize=standardize, device=device)
    if not data.num_classes:
        raise UserError(f"params.yaml: probe.datasets: {target!r} has no labels, so nothing can be judged on it")
    with tracking.stage_run(STAGE, source, params) as run:
        backbone = build_backbone(params.backbone_here(), params.seed).to(device)
        untrained = judge_elsewhere(backbone, data, params.probe.strengths)[0]
        state = tensors.read_tensors(paths.simclr(source) / "backbone.safetensors", made_by="train_simclr")
        backbone.load_state_dict(state)
        trained, features = judge_elsewhere(backbone, data, params.probe.strengths)
        if own["classes"]:
            fitted = tensors.read_tensors(paths.probe(source) / "probe.safetensors", made_by="fit_probe")
            probe = Linear(**{name: tensor.numpy() for name, tensor in fitted.items()})
            trained |= own_probe_elsewhere(probe, features, tuple(own["classes"]), data)
        summary = {"trained": trained, "untrained": untrained, "num_test": len(data.test.split.labels)}
        with files.write_folder(paths.transfer_metrics(source, target)) as out, inputs.leaving():
            files.write_json(out / "summary.json", summary)
        for name, scores in (("probe", trained), ("untrained", untrained)):
            run.log_metrics({f"{name}/{key}_on_{target}": value for key, value in scores.items()})
    say(f"transfer {source} to {target}: top-1 {trained['top1']:.4f}, untrained {untrained['top1']:.4f}")


if __name__ == "__main__":
    run_stage(main)
