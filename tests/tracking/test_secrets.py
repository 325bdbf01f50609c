"""Secrets, planted in every knob and variable that may hold one: nothing that is written or printed has them."""

import json
import re
import sqlite3
import sys

import pytest

from headstart import settings
from headstart.errors import UserError, brief, for_people, masked
from headstart.ingest.sources import Archive, Sources, fetch_archives
from headstart.ingest.transfer import Patience
from headstart.run.params import to_params
from headstart.sweep.run_cell import told
from headstart.tracking import guard, tracked
from headstart.tracking.mirror import Mirror
from tests.checkouts import ROOT, checkout, edit, environment, run
from tests.ingest import hosts

USER, WORD, TOKEN = "agent-smith", "pass-W0rd-x", "tok-3n-y"
AWAY = f"{USER}:{WORD}@127.0.0.1:9"  # port 9 discards: nothing listens there


def has_secret(text: str | bytes) -> list[str]:
    text = text if isinstance(text, str) else text.decode("latin-1")
    return [secret for secret in (USER, WORD, TOKEN) if secret in text]


# ---- the one function


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://u:p@host/a", "https://***@host/a"),
        ("get https://u:p@host:80/a?token=t#x, then", "get https://***@host:80/a?***, then"),
        ("postgresql+psycopg2://u:p@host/db", "postgresql+psycopg2://***@host/db"),
        ("'https://u@host' and 'http://v:w@other?q=1'", "'https://***@host' and 'http://***@other?***'"),
        ("https://u:p@ss@host/a", "https://***@host/a"),
        ("https://u:p/w@host/a", "https://***@host/a"),
        ("Max retries exceeded with url: /a?key=k (Caused by", "Max retries exceeded with url: /a?*** (Caused by"),
        ("https://host/a", "https://host/a"),
        ("who? /a/b: no such file", "who? /a/b: no such file"),
        ("mail@host", "mail@host"),
        (r"named like imagenette2/(?P<split>train|val)/x", r"named like imagenette2/(?P<split>train|val)/x"),
    ],
)
def test_masked_leaves_no_user_password_or_query(text, told):
    assert masked(text) == told
    assert masked(told) == told


@pytest.mark.parametrize("text", [f"https://{USER}:{WORD} x@h/a b?t={TOKEN}", f"ftp://{USER}:{WORD}'\"@h?{TOKEN}"])
def test_a_value_that_is_no_uri_at_all_shows_none_either(text):
    assert not has_secret(brief(text)) and "://***@h" in brief(text)
    assert not has_secret(brief([text, text]))


def test_every_message_to_a_user_is_masked():
    assert str(UserError(f"x: https://{USER}:{WORD}@h?{TOKEN}")) == "x: https://***@h?***"


def test_git_says_no_users_of_remotes():
    import subprocess

    error = subprocess.CalledProcessError(128, ["git", "fetch"], stderr=f"fatal: 'https://{USER}:{WORD}@h/x' not found")
    assert told(error) == "git fetch: fatal: 'https://***@h/x' not found"


# ---- knobs and variables, one by one


@pytest.mark.parametrize(
    "mirror",
    [
        f"ftp://{USER}:{WORD}@h/a?t={TOKEN}",
        f"https://{USER}:{WORD}@h/a b?t={TOKEN}",
        f"https://{USER}:{WORD}/{TOKEN}@h/a",
        f"https://{USER}:{WORD}@h:port/?{TOKEN}",
        f"https://{USER}:{WORD}@/?{TOKEN}",
        f"https://{USER}:{WORD}@[::1/?{TOKEN}",
        [f"https://{USER}:{WORD}@h/?{TOKEN}"],
        {"default": f"https://{USER}:{WORD}@h/?{TOKEN}", "other": 1},
    ],
)
def test_a_malformed_mirror_is_refused_without_its_secrets(mirror):
    tree = settings.with_overrides(settings.read_settings(ROOT), {"data.mirror": mirror})
    with pytest.raises(UserError, match=r"^params\.yaml: data\.mirror") as error:
        to_params(tree)
    assert not has_secret(str(error.value))


def test_what_is_stored_of_a_run_holds_a_masked_mirror(workspace):
    tree = settings.with_overrides(
        settings.read_settings(ROOT), {"data.mirror": f"https://{USER}:{WORD}@h/sets?t={TOKEN}"}
    )
    assert settings.of_run(tree)[settings.PARAMS]["data"]["mirror"] == "https://***@h/sets?***"
    assert Mirror(to_params(tree)).params["data.mirror"] == "https://***@h/sets?***"
    assert settings.of_run(settings.read_settings(ROOT))[settings.PARAMS]["data"]["mirror"] is None


PATIENCE = Patience(connect_seconds=1, read_seconds=1, retries=0)


@pytest.mark.parametrize("fault", [hosts.status(401), hosts.status(503), hosts.drop, hosts.reset, hosts.page])
def test_a_download_shows_and_keeps_no_secret(tmp_path, fault):
    with hosts.Host({f"/a.zip?token={TOKEN}": b"content" * 100}) as host:
        host.always = fault
        there = host.url().replace("//", f"//{USER}:{WORD}@")
        archive = Archive("a.zip", (f"{there}/a.zip?token={TOKEN}",), "md5:" + "0" * 32)
        notes: list[str] = []
        with pytest.raises(UserError) as error:
            sources = Sources(tmp_path / "parts", mirror=f"{there}/sets")
            (tmp_path / "out").mkdir()
            fetch_archives([archive], tmp_path / "out", sources, lambda n: None, notes.append, PATIENCE)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "parts").iterdir()}
    for text in (str(error.value), *notes, *kept.values()):
        assert not has_secret(text)
    if fault is hosts.drop:  # what is kept to go on tells one URL from another, all the same
        label = json.loads(kept["a.zip.part.json"])
        assert label["url"].startswith("http://***@127.0.0.1") and re.fullmatch("[0-9a-f]{64}", label["of"])


URIS = [
    f"http://{AWAY}/?token={TOKEN}",
    f"http://{USER}:{WORD}/{TOKEN}@127.0.0.1:9",
    f"postgresql://{AWAY}/db",
    f"https://{AWAY}",
    f"nonsense://{AWAY}",
    f"http://{USER}:{WORD}@127.0.0.1:port",
]


@pytest.mark.parametrize("uri", URIS)
def test_a_store_that_is_away_is_told_without_its_password(workspace, monkeypatch, capfd, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mirror = Mirror(to_params(settings.read_settings(ROOT)))
    assert not mirror.attempt(lambda: None, 5)
    with pytest.raises(UserError, match="MLflow cannot be read") as error:
        tracked.all_runs("headstart")
    out, err = capfd.readouterr()
    assert err.startswith("warning: MLflow does not take the record")
    assert not has_secret(out + err + str(error.value))


def test_the_guard_masks_what_a_service_says(tmp_path, capfd):
    guard.Guard("MLflow", tmp_path / "warned").warn(ValueError(f"\x1b[31m no answer from https://{AWAY}/a?{TOKEN}"))
    err = capfd.readouterr().err
    assert not has_secret(err) and "\x1b" not in err and r"\x1b[31m" in err


# ---- a whole run, and everything that it leaves


@pytest.mark.slow
def test_a_run_with_secrets_everywhere_leaves_and_prints_none(tmp_path):
    """Through dvc, with MLflow on; what the user's own files say, git and DVC keep as they stand there."""
    folder = checkout(tmp_path / "repository", tracking=True)
    secret = f"https://{AWAY}/sets?token={TOKEN}"
    edit(folder, {"data.mirror": secret, "datasets.yaml:mine.path": f"{USER}-{WORD}"})
    variables = {"MLFLOW_TRACKING_PASSWORD": WORD, "MLFLOW_TRACKING_USERNAME": USER, "HTTPS_PROXY": f"http://{AWAY}"}
    done = run(folder, "dvc", "repro", **variables)
    said = [done.stdout, done.stderr]
    edit(folder, {"datasets": ["country211"]})
    tree = settings.read_settings(folder)
    own = [
        {**archive, "urls": [f"http://{AWAY}/x?{TOKEN}"]} for archive in tree["datasets.yaml"]["country211"]["archives"]
    ]
    edit(folder, {"datasets.yaml:country211.archives": own, "data.mirror": f"http://{AWAY}/sets?{TOKEN}"})
    away = {"MLFLOW_TRACKING_URI": f"http://{AWAY}", "PYTHONPATH": "src"}
    for words in (
        ["-m", "stages.download", "--dataset", "country211"],
        ["-m", "headstart", "compare", "--rows", "mlflow"],
        ["-m", "headstart", "ui"],
        ["-m", "headstart", "check"],
        ["-m", "headstart", "datasets", "--format", "json"],
    ):
        done = run(folder, sys.executable, *words, check=False, **away)
        said += [done.stdout, done.stderr]
        assert "Traceback" not in done.stderr
    assert any("no source has it" in text for text in said)
    for text in said:
        assert not has_secret(text)
    given = {"params.yaml", "datasets.yaml"}
    left = [
        file
        for file in folder.rglob("*")
        if file.is_file() and not {".git", "tests"} & {*file.parts} and file.name not in given
    ]
    assert folder / "mlflow.db" in left and len(left) > 100
    assert {str(file): found for file in left if (found := has_secret(file.read_bytes()))} == {}
    with sqlite3.connect(folder / "mlflow.db") as database:
        told = database.execute("select distinct value from params where key = 'data.mirror'").fetchall()
    assert set(told) <= {("https://***@127.0.0.1:9/sets?***",)}
    assert environment()["PATH"]  # the tests' own variables hold none of them
    assert for_people(secret) == "https://***@127.0.0.1:9/sets?***"
