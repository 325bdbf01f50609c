"""Where archives come from, in which order, what is checked, what is left behind; the stage, killed and in parallel."""

import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hosts
import pytest
from hosts import Host
from known import copy_settings, settle

from headstart.errors import UserError
from headstart.ingest import sources as sources_module
from headstart.ingest.sources import Archive, Sources, fetch_archives, num_bytes_present
from headstart.ingest.transfer import Patience
from headstart.run import files
from stages import download

DATA = {name: random.Random(name).randbytes(20_000) for name in ("one.zip", "two.gz")}
PATIENCE = Patience(connect_seconds=5, read_seconds=5, retries=1, wait_seconds=0.001)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def archive(name: str = "one.zip", *urls: str, **changes) -> Archive:
    return Archive(name, urls, **{"hash": sha256(DATA[name]), "num_bytes": len(DATA[name]), **changes})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def host():
    with Host({f"/{name}": data for name, data in DATA.items()}) as running:
        yield running


@pytest.fixture
def places(tmp_path):
    """Folders for parts, outs and a user's archives."""
    for name in ("parts", "out", "local", "mirror"):
        (tmp_path / name).mkdir()
    return tmp_path


def fetch(archives: list[Archive], folder: Path, **sources) -> list[str]:
    """Fetch into folder/out; the notes, after a look at what came."""
    notes: list[str] = []
    where = Sources(folder / "parts", dataset="set", **sources)
    present, steps = num_bytes_present(archives, where), []
    fetch_archives(archives, folder / "out", where, steps.append, notes.append, PATIENCE)
    assert present + sum(steps) == sum(len(DATA[one.file]) for one in archives)
    for one in archives:
        assert (folder / "out" / one.file).read_bytes() == DATA[one.file]
    return notes


def refused(archives: list[Archive], folder: Path, **sources) -> str:
    with pytest.raises(UserError) as error:
        fetch(archives, folder, **sources)
    assert "\n" not in str(error.value)
    assert names(folder / "out") == []
    return str(error.value)


# ---- the order


def test_local_directory_then_mirror_then_upstream(places, host):
    found = {}
    for served, holding in {"local": ["local", "mirror"], "mirror": ["mirror"], "upstream": []}.items():
        for folder in ("parts", "out", "local", "mirror"):
            shutil.rmtree(places / folder)
            (places / folder).mkdir()
        for folder in holding:
            (places / folder / "one.zip").write_bytes(DATA["one.zip"])
        wanted = [archive("one.zip", host.url("/one.zip"))]
        found[served] = fetch(wanted, places, local=places / "local", mirror=(places / "mirror").as_uri())[-1]
    assert found == {
        "local": f"one.zip: from {places}/local/one.zip",
        "mirror": f"one.zip: from {places}/mirror/one.zip",
        "upstream": f"one.zip: from {host.url('/one.zip')}",
    }
    assert len(host.asked) == 1


@pytest.mark.parametrize("below", ["", "set"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_may_have_a_folder_per_dataset(places, host, below, slash):
    with Host({f"/sets/{below}{'/' * bool(below)}one.zip": DATA["one.zip"]}) as mirror:
        fetch([archive("one.zip", host.url("/one.zip"))], places, mirror=mirror.url("/sets") + slash)
        assert [path for path, _ in mirror.asked] == ["/sets/set/one.zip", "/sets/one.zip"][: 2 - bool(below)]
    assert host.asked == []


def test_a_local_directory_may_have_a_folder_per_dataset(places):
    """MNIST and Fashion-MNIST publish files of the same names: the right one is chosen by its hash."""
    (places / "local/set").mkdir()
    (places / "local/set/one.zip").write_bytes(b"another")
    (places / "local/one.zip").write_bytes(DATA["one.zip"])
    notes = fetch([archive()], places, local=places / "local")
    assert notes == [
        f"one.zip: not from {places}/local/set/one.zip: wrong size: 7 bytes, expected 20000",
        f"one.zip: from {places}/local/one.zip",
    ]


def test_upstream_urls_in_order(places, host):
    fetch([archive("one.zip", host.url("/gone.zip"), host.url("/one.zip"), host.url("/never.zip"))], places)
    assert [path for path, _ in host.asked] == ["/gone.zip", "/one.zip"]


def test_several_archives(places, host):
    fetch([archive(name, host.url(f"/{name}")) for name in DATA], places)
    assert names(places / "out") == sorted(DATA)
    (places / "out/one.zip").unlink()
    (places / "out/two.gz").unlink()
    refused([archive(), archive("two.gz", hash=sha256(b"new"))], places)


def test_nothing_anywhere_is_one_line_that_says_what_to_do(places, host):
    (places / "local/one.zip").write_bytes(bytes(20_000))
    message = refused(
        [archive("one.zip", host.url("/gone.zip"))], places, local=places / "local", mirror=host.url("/sets")
    )
    assert message == (
        f"one.zip: no source has it: {places}/local/one.zip: wrong hash: found {sha256(bytes(20_000))}, expected "
        f"{sha256(DATA['one.zip'])}; {host.url('/sets/set/one.zip')}: answers 404 Not Found; "
        f"{host.url('/sets/one.zip')}: answers 404 Not Found; {host.url('/gone.zip')}: answers 404 Not Found; "
        "put one.zip into a directory and set data.archives to it, or set data.mirror"
    )
    assert (places / "local/one.zip").read_bytes() == bytes(20_000)
    assert names(places / "parts") == []


def test_no_source_at_all(places):
    assert refused([archive()], places).startswith("one.zip: no source has it: none is known; put one.zip into")


def test_passwords_and_tokens_are_not_said(places, host):
    address = host.url().replace("http://", "http://user:secret@")
    message = refused([archive("one.zip", f"{address}/gone.zip?token=secret")], places, mirror=f"{address}/sets")
    assert "secret" not in message
    assert f"{host.url('/gone.zip')}: answers 404" in message


# ---- what is checked


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_hashes_by_name_in_any_case(places, host, algorithm):
    digest = hashlib.new(algorithm, DATA["one.zip"]).hexdigest().upper()
    fetch([archive("one.zip", host.url("/one.zip"), hash=f"{algorithm}:{digest}")], places)


def test_another_wrapping_is_accepted_whatever_its_size(places, host):
    """`also`: the size of the first form says nothing about the second."""
    other = archive("one.zip", host.url("/one.zip"), hash=sha256(b"x"), also=(sha256(DATA["one.zip"]),), num_bytes=7)
    fetch([other], places)
    (places / "out/one.zip").unlink()
    (places / "parts/one.zip").unlink()
    host.files["/one.zip"] = b"neither"
    assert f"expected {sha256(b'x')} or {sha256(DATA['one.zip'])}, kept as" in refused([other], places)


def test_a_wrong_hash_is_kept_aside_and_the_next_source_asked(places, host):
    host.files["/bad.zip"] = bytes(20_000)
    notes = fetch([archive("one.zip", host.url("/bad.zip"), host.url("/one.zip"))], places)
    kept = places / "parts/one.zip.bad"
    assert notes[0] == (
        f"one.zip: not from {host.url('/bad.zip')}: wrong hash: found {sha256(bytes(20_000))}, "
        f"expected {sha256(DATA['one.zip'])}, kept as {kept}"
    )
    assert kept.read_bytes() == bytes(20_000)
    assert names(places / "parts") == ["one.zip", "one.zip.bad"]


@pytest.mark.parametrize("again", [False, True])
def test_what_has_no_published_hash_is_pinned_and_said(places, host, again):
    wanted = [archive("one.zip", host.url("/one.zip"), hash=None)]
    for _ in range(1 + again):
        notes = fetch(wanted, places)
    digest = sha256(DATA["one.zip"]).partition(":")[2]
    assert notes[-1] == f"one.zip: no published hash; sha256 {digest} is pinned in dvc.lock"
    assert len(host.asked) == 1


def test_disk_space_is_checked_for_all_archives_before_anything_is_asked(places, host, monkeypatch):
    from headstart.ingest import transfer

    usage = shutil.disk_usage(places)._replace(free=39_999)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage)
    message = refused([archive(name, host.url(f"/{name}")) for name in DATA], places)
    assert message == f"one.zip, two.gz: needs 40000 more bytes in {places}/parts, 39999 are free; make room"
    assert host.asked == []
    (places / "parts/one.zip").write_bytes(DATA["one.zip"])
    fetch([archive(name, host.url(f"/{name}")) for name in DATA], places)


# ---- what is left behind


def test_finished_downloads_are_used_again_and_damaged_ones_replaced(places, host):
    wanted = [archive("one.zip", host.url("/one.zip"))]
    fetch(wanted, places)
    assert fetch(wanted, places) == [f"one.zip: already in {places}/parts"]
    assert len(host.asked) == 1
    (places / "parts/one.zip").unlink()
    (places / "parts/one.zip").write_bytes(b"damaged")
    notes = fetch(wanted, places)
    assert notes[0] == f"{places}/parts/one.zip: wrong size: 7 bytes, expected 20000; kept as one.zip.bad"
    assert len(host.asked) == 2


def test_outs_are_links_that_may_become_read_only(places, host):
    """DVC protects what it tracks; the shared file has the same inode."""
    wanted = [archive("one.zip", host.url("/one.zip"))]
    fetch(wanted, places)
    shared, out = places / "parts/one.zip", places / "out/one.zip"
    assert shared.stat().st_ino == out.stat().st_ino
    out.chmod(0o444)
    fetch(wanted, places)
    out.unlink()
    fetch(wanted, places)
    shared.chmod(0o644)
    shared.write_bytes(b"damaged")
    shared.chmod(0o444)
    fetch(wanted, places)
    assert stat.S_IMODE((places / "parts/one.zip.bad").stat().st_mode) == 0o444


def test_a_copy_where_links_cannot_be(places, host, monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", lambda self, target: os.link("/nowhere", self))
    fetch([archive("one.zip", host.url("/one.zip"))], places)
    assert (places / "parts/one.zip").stat().st_nlink == 1


def test_a_users_file_is_copied_never_linked_or_touched(places):
    source = places / "local/one.zip"
    source.write_bytes(DATA["one.zip"])
    source.chmod(0o444)
    before = source.stat()
    fetch([archive()], places, local=places / "local")
    after = source.stat()
    assert (before.st_ino, before.st_nlink, before.st_mode, before.st_mtime_ns) == (
        *(after.st_ino, after.st_nlink, after.st_mode, after.st_mtime_ns),
    )
    (places / "out/one.zip").chmod(0o600)


def test_a_wrong_local_file_does_not_cost_the_part(places, host):
    (places / "local/one.zip").write_bytes(bytes(20_000))
    (places / "parts/one.zip.part").write_bytes(DATA["one.zip"][:5000])
    fetch([archive("one.zip", host.url("/one.zip"))], places, local=places / "local")
    assert host.ranges() == ["bytes=5000-"]


def test_a_local_file_that_cannot_be_read_is_one_source_less(places, host, monkeypatch):
    def denied(path, name):
        raise PermissionError(13, "Permission denied", str(path)) if path.parent.name == "local" else AssertionError

    (places / "local/one.zip").write_bytes(DATA["one.zip"])
    with monkeypatch.context() as patched:
        patched.setattr(sources_module, "_digest", denied)
        message = refused([archive()], places, local=places / "local")
    assert f"{places}/local/one.zip: Permission denied; put" in message


def test_an_interrupt_leaves_a_part_alone(places, host):
    class Interrupt:
        def __call__(self, num_bytes: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_archives(
            [archive("one.zip", host.url("/one.zip"))], places / "out", Sources(places / "parts"), Interrupt()
        )
    assert names(places / "out") == []
    assert set(names(places / "parts")) <= {"one.zip.part", "one.zip.part.json"}
    fetch([archive("one.zip", host.url("/one.zip"))], places)
    assert names(places / "parts") == ["one.zip"]


def test_a_full_disk_is_one_line(places, host, monkeypatch):
    def full(self, position):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources_module._Fetch, "_moved", full)
    message = refused([archive("one.zip", host.url("/one.zip"))], places)
    assert message == f"{places}/parts: No space left on device; make room"


# ---- the stage


@pytest.fixture
def project(workspace, host):
    """`project(archives=..)`: a workspace whose digits are published as one.zip on the loopback host, and options."""
    published = {"file": "one.zip", "urls": [host.url("/one.zip")], "hash": sha256(DATA["one.zip"])}
    block = {"decoder": "cifar10", "archives": [published | {"num_bytes": len(DATA["one.zip"])}]}

    def change(changes: dict[str, Any] | None = None, **options: str) -> Path:
        digits = {f"datasets.yaml:digits.{key}": value for key, value in (block | (changes or {})).items()}
        settle(workspace, digits | {f"data.{key}": value for key, value in options.items()})
        return workspace

    return change


def stage(workspace: Path) -> subprocess.Popen[str]:
    """`python -m stages.download --dataset digits` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "stages.download", "--dataset", "digits"],
        cwd=workspace,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(ask: Callable[[], Any]) -> Any:
    """What `ask` returns once it is true: a file system sends no events."""
    deadline = time.monotonic() + 60
    while not (answer := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return answer


def test_the_stage_fetches_and_says_from_where(project, host, capsys):
    workspace = project()
    download.main("digits")
    assert capsys.readouterr().out == f"one.zip: from {host.url('/one.zip')}\n"
    assert names(workspace / "data/raw/digits") == ["one.zip"]
    before = (workspace / "data/raw/digits/one.zip").stat().st_ino
    download.main("digits")
    assert "one.zip: already in" in capsys.readouterr().out
    assert (workspace / "data/raw/digits/one.zip").stat().st_ino == before


@pytest.mark.parametrize("source", ["archives", "mirror"])
def test_the_out_does_not_tell_which_source_served(project, host, source, capsys):
    workspace = project()
    (workspace / "sets").mkdir()
    (workspace / "sets/one.zip").write_bytes(DATA["one.zip"])
    project(**{source: {"archives": "sets", "mirror": (workspace / "sets").as_uri()}[source]})
    download.main("digits")
    assert capsys.readouterr().out == f"one.zip: from {workspace}/sets/one.zip\n"
    assert {path.name: path.read_bytes() for path in (workspace / "data/raw/digits").iterdir()} == {
        "one.zip": DATA["one.zip"]
    }
    assert host.asked == []


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"archives": "gone"}, "params.yaml: data.archives: 'gone': no such directory (looked for "),
        ({}, {"archives": "params.yaml"}, "params.yaml: data.archives: 'params.yaml': no directory, but a file"),
        (
            {"path": "x.zip"},
            {},
            "datasets.yaml: digits.path: 'x.zip' must be null for decoder cifar10: for its published files (one.zip) "
            "set data.archives, for images of your own another decoder",
        ),
        (
            {"decoder": "digits"},
            {},
            "datasets.yaml: digits.archives: must be null for decoder digits, which downloads nothing",
        ),
        (
            {"decoder": "image_archive", "path": "params.yaml"},
            {},
            "datasets.yaml: digits.archives: must be null for decoder image_archive, which downloads nothing; by_",
        ),
        ({"archives": None}, {}, "datasets.yaml: digits.archives: must name the files that decoder cifar10 reads"),
        ({"archives": []}, {}, "datasets.yaml: digits.archives: must name the files that decoder cifar10 reads"),
    ],
)
def test_the_stage_refuses_in_one_line(project, changes, options, message):
    workspace = project(changes, **options)
    with pytest.raises(UserError) as error:
        download.main("digits")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert names(workspace / "data/raw") == []


def test_a_failed_stage_leaves_no_out(project, host):
    host.always = hosts.status(404)
    workspace = project()
    with pytest.raises(UserError, match=r"one\.zip: no source has it"):
        download.main("digits")
    assert names(workspace / "data/raw") == []


def test_a_killed_stage_goes_on_in_another_workspace(project, host, tmp_path_factory, monkeypatch, capsys):
    """SIGKILL midway, as a queue does it; what came stays in the main workspace, also for DVC's copies."""
    workspace, copy = project(), tmp_path_factory.mktemp("copy")
    host.faults = [hosts.stall_midway]
    process = stage(workspace)
    (part,) = wait_for(lambda: list(workspace.glob(".cache/downloads/one.zip-*/one.zip.part")))
    wait_for(lambda: part.stat().st_size == 10_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert names(part.parent) == ["one.zip.part", "one.zip.part.json"]
    assert not list(workspace.glob("data/raw/**/one.zip"))
    copy_settings(workspace, copy)
    monkeypatch.chdir(copy)
    download.main("digits")
    assert capsys.readouterr().out == f"one.zip: from {host.url('/one.zip')}\n"
    assert host.ranges() == [None, "bytes=10000-"]
    assert (copy / "data/raw/digits/one.zip").read_bytes() == DATA["one.zip"]
    assert names(part.parent) == ["one.zip"]


def test_two_processes_download_once(project, host, tmp_path_factory, monkeypatch, capsys):
    """The first one is held in the middle of the file until the second one, this one, says that it waits."""
    workspace, copy = project(), tmp_path_factory.mktemp("copy")
    host.faults = [hosts.paused]
    first = stage(workspace)
    assert host.arrived.wait(60)
    waiting: list[str] = []
    monkeypatch.setattr(files, "say", lambda text: (waiting.append(text), host.resume.set()))
    copy_settings(workspace, copy)
    monkeypatch.chdir(copy)
    download.main("digits")
    assert first.communicate(timeout=60)[0] == f"one.zip: from {host.url('/one.zip')}\n"
    assert first.returncode == 0
    assert waiting == ["download: waits for another worker that makes the same"]
    assert capsys.readouterr().out.startswith(f"one.zip: already in {workspace}/.cache/downloads/one.zip-")
    assert len(host.asked) == 1
    for folder in (workspace, copy):
        assert (folder / "data/raw/digits/one.zip").read_bytes() == DATA["one.zip"]
