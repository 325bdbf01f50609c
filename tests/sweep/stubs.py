"""A checkout whose stages take no time: what is left is what a sweep itself costs."""

from pathlib import Path

from tests.checkouts import checkout, run

STAGE = '''"""A stage that only leaves what dvc.yaml says it leaves, and writes down that it ran."""

import json
import os
import sys
import time
from pathlib import Path

from headstart import lock, settings

stage = __spec__.name.rpartition(".")[2]
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
dataset = options.get("--dataset", "")
root = Path(os.environ.get("HEADSTART_ROOT") or os.environ.get("DVC_ROOT", "."))
tree = settings.read_settings()
params = tree["params.yaml"]
head, seed = params["projector"], params["seed"]
told = [stage, head["init"], head["activation"], seed]
with (root / ".cache" / "executed.jsonl").open("a") as file:
    file.write(json.dumps([*told, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")]) + "\\n")


def leave(folder, **values):
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "summary.json").write_text(json.dumps(values))


if stage not in ("check", "report", "track"):
    _, _, block = lock.names({key.removeprefix("--"): value for key, value in options.items()})
    used = Path("metrics/used", stage, "-".join(options.values()) + ".json")
    used.parent.mkdir(parents=True, exist_ok=True)
    used.write_text(json.dumps(lock.made_with(settings.deciding(tree, stage, block), settings.code_of(stage))))

if stage == "train_simclr":
    trap = root / ".cache" / "trap"
    if trap.exists() and trap.read_text() == f"{head['activation']} {seed}":
        print("the trap is shut")
        sys.exit(1)
    race = root / ".cache" / "race"
    if race.exists():
        print(race.read_text())
        race.unlink()
        sys.exit(1)
    slow = root / ".cache" / "slow"
    end = time.time() + 60
    while slow.exists() and time.time() < end:
        time.sleep(0.05)
loss = round(len(head["init"]) + len(head["activation"]) / 10 + seed / 100, 4)
if stage == "download":
    leave(f"data/raw/{dataset}")
if stage == "prepare":
    leave(f"data/prepared/{dataset}", seed=seed)
if stage == "prepare_source":
    leave(f"data/source/{options['--source']}")
if stage == "pretrain_autoencoder":
    leave(f"models/autoencoder/{dataset}/{options['--init']}-{options['--dim']}", seed=seed)
if stage == "train_simclr":
    leave(f"models/simclr/{dataset}", loss=loss)
    leave(f"metrics/simclr/{dataset}", loss=loss)
if stage == "fit_probe":
    leave(f"models/probe/{dataset}", loss=loss)
    leave(f"metrics/probe/{dataset}", loss=loss)
if stage == "fit_baselines":
    leave(f"metrics/baselines/{dataset}", seed=seed)
if stage == "report":
    table = {key: {"digits": loss / 20} for key in ("top1", "val_top1", "train_loss", "val_loss")}
    Path("metrics/metrics.json").write_text(json.dumps(table))
    frozen = head["init"] != "random" if head["freeze"] == "auto" else head["freeze"]
    needs = head["init"].startswith("autoencoder") or head["init"] == "random_matched"
    facts = {"digits": {"projector_frozen": frozen, "needs_autoencoder": needs, "precision": "fp32"}}
    made_with = {}
    for file in Path("metrics/used").glob("*/*.json"):
        made_with.setdefault(file.parent.name, {})[file.stem] = json.loads(file.read_text())
    Path("metrics/all.json").write_text(json.dumps({"metrics": table, "facts": facts, "made_with": made_with}))
    for name in ("report.md", "report.html"):
        Path("metrics", name).write_text(str(loss))
    leave("metrics/cards")
    leave("metrics/plots/images")
    Path("metrics/plots/simclr_loss.csv").write_text(f"epoch,dataset,train_loss\\n1,digits,{loss}\\n")
    Path("metrics/plots/probe_accuracy.csv").write_text(f"backbone,dataset,top1\\ntrained,digits,{loss / 20}\\n")
'''


def stub_checkout(folder: Path) -> Path:
    """As `checkout`, with stages that run for no time."""
    checkout(folder)
    for script in (folder / "stages").glob("*.py"):
        if script.name != "__init__.py":
            script.write_text(STAGE)
    (folder / ".cache").mkdir(exist_ok=True)
    run(folder, "git", "commit", "-qam", "stubs")
    return folder
