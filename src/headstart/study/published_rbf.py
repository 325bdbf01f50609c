"""The published runs of RBF heads (arXiv:2606.21590): CSV exports in its authors' repository (Apache-2.0), never copied
into this one.

Five methods (simclr, simsiam, moco, byol, swav) on ImageNet-100 and three Open Images sets, from an ImageNet ResNet-50,
one seed. What the rows do not hold: SNS, whose centres and widths lie in checkpoints that are not published; test
images, whose number the exports do not say.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from headstart.study.published import SEED, Export, Row, blamed_on, number, read_export, seconds

COMMIT = "14b32b50e3b5563135c4f14539fcaa2980dac8f4"
SOURCE = f"https://raw.githubusercontent.com/andreas-schliebitz/rbfn-ssl-projector/{COMMIT}/results"
KINDS = {"default": "mlp", "rbfn": "rbf"}
HALVES = {"": "training", "-eval": "evaluation"}
_DIGESTS = {  # dataset -> of the halves of each kind, in this order
    "imagenet-100": (
        "fa674c5e7e099dc34502d599b1092067fa20ba6601974136d8c876a5cd15be0a",
        "227bebacefc3f06b4015ba3360be61e4b704054675cf8d622f301fbdb4f4fb14",
        "9d86782275d3bb02fcfd2bdf6d87188be9b8d8507a1109e38bfea53333a66be7",
        "d0aec31780fa2ccee927fa612c50912cda77c2ba29415e64a790a1ea226c58c7",
    ),
    "open-images-v7-10": (
        "ac2941fd20c8ad2f88ceb3a709415c508fc58a72e9be824a585418d4cfb2aed2",
        "679d2ed8e9f02a20b7ce08c8c8885ad84862478a8eb73e28d8ecddf204ba01e5",
        "a9b1c335058ca300ffcb2e862abc20fc7094ad8dd30206e911914bedf9774d08",
        "0aba07638b6023af299fbacfcb09ec2b0edc3aaddab0890a0fb3b793981c5b2f",
    ),
    "open-images-v7-30": (
        "25b54db1935e683804197903cd96573aff93de7d216943127785a68629967c0e",
        "824541ac7a490b680ae3202ca202dcf25bbea66ddd88a6edb6f5b4a019355dfd",
        "d74b1773e24db848cfaa51e004a491c15a8cbd22d0cd4a13c46901513162db96",
        "4cb832b53dc18087dedc25fa5f6a1a3008e6823ed7375b7cc1576f54ce78d004",
    ),
    "open-images-v7-50": (
        "71d4920f98a3fc22b7aa48f0bdad712d9c16182f4c5ff68791a0385838c2f62c",
        "7436a47170f7c57ea59b06e1b43473a179d3808553c2197fc5e233a63dd330e9",
        "03a184eada96989aa001207e66dc40244ae96da4c83666bb691329c8b4215dcd",
        "2b70128c6e4fad5eb3ec0275456238f79c0f7fda07767850906ebe6e9064310a",
    ),
}


def _name(dataset: str, kind: str, half: str) -> str:
    return f"rbfn-ssl-projector-{kind}{half}_{dataset}.csv"


SHA256 = {
    f"{dataset}/{kind}/{_name(dataset, kind, half)}": digest
    for dataset, digests in _DIGESTS.items()
    for (kind, half), digest in zip(product(KINDS, HALVES), digests, strict=True)
}
BATCH_NORM = ("simsiam", "byol", "swav")  # whose MLP heads are lightly's with batch norm; the others turn it off
NOTE = (
    "Their accuracy is the mean over classes (torchmetrics' macro average, equal to the recall in every row). A radial "
    "function with its kernels stands as the activation, the method as the protocol; losses are told of simclr alone, "
    "whose are NT-Xent."
)


def read_runs(folder: Path) -> list[Row]:
    """Return the published runs as records of rows.COLUMNS, sorted by dataset, kind of head and name.

    Training and evaluation are joined by the run's name; a run without a finished half has no accuracy.
    """
    return [row for dataset in _DIGESTS for kind in KINDS for row in _runs(folder, dataset, kind)]


def _runs(folder: Path, dataset: str, kind: str) -> Iterator[Row]:
    halves = {half: _exports(folder / _name(dataset, kind, half)) for half in HALVES}
    for name, training in sorted(halves[""].items()):
        with blamed_on(folder / _name(dataset, kind, "")):
            row = _training(training, dataset.replace("-", "_"), kind)
        evaluated = halves["-eval"].get(name)
        if evaluated and training["Status"] == evaluated["Status"] == "FINISHED":
            with blamed_on(folder / _name(dataset, kind, "-eval")):
                row |= _evaluation(evaluated)
                row["wall_seconds"] = round(row["train_seconds"] + row["probe_seconds"], 3)
        yield row


def _exports(path: Path) -> dict[str, Export]:
    """The runs of a file by their names."""
    with blamed_on(path):
        exports = read_export(path)
        found = {export["run_name"]: export for export in exports}
        if len(found) < len(exports):
            raise ValueError("run_name: two runs have the same name")
        return found


def _training(export: Export, dataset: str, kind: str) -> Row:
    method = export["architecture"]
    row = {
        "dataset": dataset,
        "projector_init": "random",
        "projector_frozen": False,
        "projector_hidden_dim": int(export["projection_head_hidden_dim"]),
        "projector_out_dim": int(export["projection_head_output_dim"]),
        "projector_activation": _radial(export) if kind == "rbfn" else "relu",
        "projector_kind": KINDS[kind],
        "projector_num_layers": int(export["projection_head_num_layers"]),
        "projector_norm": "batch" if kind == "default" and method in BATCH_NORM else "none",
        "standardize": export["normalize"] == "True",
        "seed": SEED,
        "image_size": int(export["img_size"]),
        "batch_size": int(export["batch_size"]),
        "learning_rate": number(export["learning_rate"]),
        "epochs": int(export["epochs"]),
        "backbone": export["backbone"],
        "optimizer": export["optimizer"].lower(),
        "protocol": f"published, {method}",
        "run": f"{method}, {KINDS[kind]}, {export['run_name']}",
        "train_seconds": seconds(export["Duration"]),
    }
    # the other methods' losses are no NT-Xent
    losses = {key: number(export[key]) for key in ("train_loss", "val_loss")}
    return row | (losses if method == "simclr" else {})


def _radial(export: Export) -> str:
    """What stands in the activation's place: a network of so many radial functions, normalised or not."""
    function, kernels = (export[f"rbfn_projection_head_{key}"] for key in ("radial_function", "num_kernels"))
    normalised = ", normalised" if export["rbfn_projection_head_normalize"] == "True" else ""
    return f"{function}, {kernels} kernels{normalised}"


def _evaluation(export: Export) -> Row:
    return {
        "probe_val_top1": number(export["val_MulticlassAccuracy"]),
        "probe_test_top1": number(export["test_MulticlassAccuracy"]),
        "probe_test_macro_f1": number(export["test_MulticlassF1Score"]),
        "probe_test_macro_recall": number(export["test_MulticlassRecall"]),
        "probe_seconds": seconds(export["Duration"]),
    }
