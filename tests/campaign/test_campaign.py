"""Hostile inputs in numbers: mutated settings, hostile files, kills, full disks, network faults.

`make campaign` runs the full numbers (docs/armour.md has what they found), the slow group a sample of each. Every case
ends in a result or in one line, within a minute; what it found goes into .cache/campaign/<kind>.json.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from known import PUBLISHED, archives, link_code, listing
from publications import PUBLICATIONS
from samples import encode, noise, tree, write_archive

from headstart import settings
from headstart.errors import UserError
from headstart.ingest.formats import image_archive
from headstart.ingest.pack import Packing, pack
from headstart.ingest.sources import Archive, Sources, fetch_archives
from headstart.ingest.transfer import Patience
from headstart.run.params import to_params
from headstart.run.stage import ending
from headstart.settings import DATASETS, PARAMS
from tests.checkouts import ROOT, edit, shrink
from tests.ingest import hosts

SECRETS = ("agent-smith", "pass-W0rd-x", "tok-3n-y")
SECRET_URL = "https://{}:{}@host/sets?token={}".format(*SECRETS)
SECONDS = 60
MOST_MB = 1500
FIGURES = ROOT / ".cache" / "campaign"


def sizes(sample: int, full: int) -> list[Any]:
    """A few cases in the slow group, all of them in the campaign."""
    return [
        pytest.param(sample, marks=pytest.mark.slow, id=f"sample of {sample}"),
        pytest.param(full, marks=pytest.mark.campaign, id=f"all {full}"),
    ]


def ignore(done: int) -> None:
    """Progress that nobody watches."""


GREW: list[float] = []  # by how many megabytes a process of a case grew, at its peak


def megabytes(name: str) -> float:
    """VmRSS, what is resident now; RssAnon, what of it no file holds; VmHWM, the most that was resident."""
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


class Findings:
    """What became of the cases of a kind."""

    def __init__(self, kind: str, number: int):
        self.kind, self.number = kind, number
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0
        self.longest = 0
        self.started = time.monotonic()
        GREW.clear()
        Path("/proc/self/clear_refs").write_text("5")  # the peak, VmHWM, begins anew
        self.before = megabytes("VmRSS")

    def add(self, case: str, end: str, seconds: float = 0.0, fault: str = "") -> None:
        """Note how a case ended; fault: why it should not have."""
        self.ends[end] += 1
        self.slowest = max(self.slowest, seconds)
        if seconds > SECONDS:
            fault = fault or f"took {seconds:.0f} s"
        if fault:
            self.wrong.append(f"{case}: {fault}")

    def message(self, text: str, most: int) -> str:
        """What is wrong with a message, empty where nothing is."""
        self.longest = max(self.longest, len(text))
        shown = [secret for secret in SECRETS if secret in text]
        if shown:
            return f"shows {shown}"
        if "Traceback" in text or len(text.strip().splitlines()) != 1 or len(text) > most:
            return f"is no line of at most {most} characters: {text[-300:]!r}"
        return ""

    def close(self) -> None:
        """Write the figures, and fail where a case was wrong."""
        grew = max(GREW, default=0.0) or megabytes("VmHWM") - self.before
        found = {
            "cases": self.number,
            "ends": dict(self.ends.most_common()),
            "wrong": self.wrong,
            "slowest_seconds": round(self.slowest, 2),
            "longest_message": self.longest,
            "grew_mb": round(grew),
            "seconds": round(time.monotonic() - self.started),
        }
        FIGURES.mkdir(parents=True, exist_ok=True)
        (FIGURES / f"{self.kind}-{self.number}.json").write_text(json.dumps(found, indent=1) + "\n")
        assert not self.wrong, "\n".join(self.wrong[:20])
        assert grew < MOST_MB
        assert sum(self.ends.values()) == self.number


@contextlib.contextmanager
def at_most(seconds: int = SECONDS) -> Iterator[None]:
    """End what takes longer, as a hang."""

    def hang(number: int, frame: Any) -> None:
        raise TimeoutError(f"a hang of {seconds} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ---- settings

VALUES = [
    *("null", "''", "~", "true", "0", "-1", "1.5", "1e308", "-1e308", ".inf", "-.inf", ".nan", "1e-320", "9" * 4400),
    *("9" * 30, "-" + "9" * 30, "010", "0o10", "0x10", "1_000", "1:40", "yes", "off", "2020-13-45", "2020-01-01"),
    *("!!int foo", "!!python/object:os.system x", "!!binary x", "!!timestamp x", "&a [*a]", "*nowhere", "=", "<<"),
    *("'x$(touch PWNED)'", "'../../src'", "/etc/passwd", "/dev/zero", "'~nobody/x'", "'x y'", "'-h'", "'\\0'"),
    *("x" * 5000, "'" + "é" * 300 + "'", '"\\x1b[31m"', "[" * 60, "[]", "{}", "[1, [2, [3]]]", "{a: {b: {c: 1}}}"),
    *("{default: 1}", "{paper: 1}", "{default: x, other: y}", "[null]", "[digits, digits]", "[cifar10, mine]"),
    *(
        SECRET_URL,
        f"[{SECRET_URL}]",
        f"'{SECRET_URL} x'",
        SECRET_URL.replace("https", "ftp"),
        "resnet18",
        "sgd",
        "auto",
    ),
    *("0.1", "64", "10000000", "4611686018427387904", "-0.0", "1e-5", "[0.1, 1.0]", "[1.0, 0.1]", "[0.1]", "- 1\n- 2"),
]
LINES = [
    "default: 1", "simclr: 1", "2020-01-01: 1", "? [a]\n: 1", "1: 2", "<<: *x", "...", "---", "%TAG ! x", "\t", "- 1",
    "a: &a {b: *a}", "unknown: 1", "recipe: paper", "seed: 1\nseed: 2", "'': 1", "same: 1", '"\\u2028": 1', "\ufeff",
]  # fmt: skip


def another_value(lines: list[str], at: int, chance: random.Random) -> None:
    """A value of any kind for a key."""
    lines[at] = f"{lines[at].partition(':')[0]}: {chance.choice(VALUES)}"


def near_value(lines: list[str], at: int, chance: random.Random) -> None:
    """A value that may be meant."""
    head, found, value = lines[at].rpartition(": ")
    if found and re.fullmatch(r"-?\d+(\.\d+)?", value):
        lines[at] = f"{head}: {float(value) * chance.choice([0, 0.5, 1, 2, 3, 10]):g}"
    elif value == "false":
        lines[at] = f"{head}: {chance.choice(['TRUE', 'true', 'False'])}"


def another_key(lines: list[str], at: int, chance: random.Random) -> None:
    head, _, rest = lines[at].partition(":")
    lines[at] = f"{head[: len(head) - len(head.strip())]}{chance.choice(VALUES)}:{rest}"


def another_byte(lines: list[str], at: int, chance: random.Random) -> None:
    if lines[at]:
        place = chance.randrange(len(lines[at]))
        lines[at] = lines[at][:place] + chr(chance.randrange(1, 300)) + lines[at][place + 1 :]


def another_line(lines: list[str], at: int, chance: random.Random) -> None:
    lines.insert(at, chance.choice([*LINES, lines[at]]))


def indented(lines: list[str], at: int, chance: random.Random) -> None:
    lines[at] = chance.choice([" ", "  ", "\t"]) + lines[at]


def shorter(lines: list[str], at: int, chance: random.Random) -> None:
    del lines[at : chance.choice([at + 1, at + 1, len(lines)])]


CHANGES = [another_value] * 5 + [near_value] * 6 + [another_key, another_byte, another_line, another_line]
CHANGES += [indented, shorter, shorter]


def mutated(text: str, chance: random.Random) -> str:
    """A file of settings with one to three changes: of values, of keys, of lines, of bytes."""
    lines = text.splitlines()
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        change = chance.choice(CHANGES)
        keyed = [number for number, line in enumerate(lines) if re.match(r"\s*[\w-]+:", line)]
        of_keys = change in (another_value, near_value, another_key) and keyed
        if lines:
            change(lines, chance.choice(keyed) if of_keys else chance.randrange(len(lines)), chance)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("number", sizes(150, 2000))
def test_mutated_settings_are_used_as_dvc_reads_them_or_refused_in_one_line(tmp_path, number):
    """A wrong result would be settings that we take for others than DVC, which puts them into commands and the lock."""
    from dvc.utils.serialize import parse_yaml

    texts = {name: (ROOT / name).read_text() for name in (PARAMS, DATASETS)}
    kept = yaml.safe_load(texts[DATASETS])
    texts[DATASETS] = yaml.safe_dump({name: kept[name] for name in ("same", "digits", "mine", "cifar10")})
    found = Findings("settings", number)
    for case in range(number):
        chance = random.Random(f"settings {case}")
        name = DATASETS if case % 4 == 3 else PARAMS
        own = {**texts, name: mutated(texts[name], chance)}
        for file, text in own.items():
            (tmp_path / file).write_text(text, encoding="utf-8", errors="surrogatepass")
        started, end, fault = time.monotonic(), "used", ""
        try:
            with at_most():
                tree = settings.read_settings(tmp_path)
                settings.check_names(tree)
                params = to_params(tree)
                assert all(settings.is_name(dataset) for dataset in params.datasets)
                if parse_yaml(own[name], name) != tree[name]:
                    fault = "DVC reads other values"
        except UserError as error:
            end, fault = "refused", found.message(str(error).replace(f"{tmp_path}/", ""), 300)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            end, fault = "traceback", "".join(traceback.format_exception(error))[-500:]
        found.add(f"settings {case}", end, time.monotonic() - started, fault)
    found.close()


# ---- files


def damage(data: bytes, chance: random.Random) -> bytes:
    """A file with a fault: flipped bits, a piece cut out, doubled, zeroed or of another place, a wrong number."""
    content = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        if not content:
            break
        at, length = chance.randrange(len(content)), chance.choice([1, 2, 4, 30, 600])
        how = chance.choice(["flip", "flip", "flip", "cut", "double", "zero", "number", "end", "splice"])
        if how == "flip":
            content[at] ^= 1 << chance.randrange(8)
        elif how == "cut":
            del content[at : at + length]
        elif how == "double":
            content[at:at] = content[at : at + length]
        elif how == "zero":
            content[at : at + length] = bytes(len(content[at : at + length]))
        elif how == "number":
            content[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\x7f", b"9999"])
        elif how == "end":
            del content[at:]
        else:
            other = chance.randrange(len(content))
            content[at : at + length] = content[other : other + length]
    return bytes(content)


def own_archives(chance: random.Random, path: Path) -> tuple[Path, str]:
    """An archive of one's own: its kind, its images' kind, and then the archive or an image in it is damaged."""
    files = tree("ab", train=4, test=2, size=16)
    kinds = {"PNG": {}, "JPEG": {}, "GIF": {}, "WEBP": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "ICO": {}}
    kind = chance.choice(list(kinds))
    for number, name in enumerate(files):
        files[name] = encode(noise(16, 16, number, 3), kind, **kinds[kind])
    suffix = chance.choice(["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
    inside = chance.random() < 0.4
    if inside:
        name = chance.choice(list(files))
        files[name] = damage(files[name] or b"", chance)
    write_archive(path / f"own.{suffix}", files)
    if not inside:
        file = path / f"own.{suffix}"
        file.write_bytes(damage(file.read_bytes(), chance))
    return path / f"own.{suffix}", f"{suffix} of {kind}, {'an image' if inside else 'itself'} damaged"


def within_members(path: Path, chance: random.Random) -> None:
    """Damage one member of an archive, and pack it anew, so that nothing but its content is wrong."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        name = chance.choice(sorted(files))
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, damage(data, chance) if member == name else data)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            infos = {info: tar.extractfile(info).read() for info in tar if info.isreg()}
        chosen = chance.choice(list(infos))
        with tarfile.open(path, "w:gz") as tar:
            for info, data in infos.items():
                data = damage(data, chance) if info is chosen else data
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        path.write_bytes(damage(path.read_bytes(), chance))


def hostile(case: int, folder: Path) -> tuple[str, Callable[[], Any]]:
    """What a case is, and what reads it."""
    chance = random.Random(f"files {case}")
    if case % 2:
        path, what = own_archives(chance, folder)
        return what, lambda: image_archive(path)
    kind = chance.choice(sorted(set(PUBLICATIONS) & set(PUBLISHED)))
    PUBLICATIONS[kind](folder)
    file = folder / chance.choice(archives(kind)).file
    if chance.random() < 0.5:
        within_members(file, chance)
    else:
        file.write_bytes(damage(file.read_bytes(), chance))
    return f"{kind}, {file.name} damaged", lambda: listing(kind, folder)


def packed(read: Callable[[], Any], folder: Path) -> str:
    """The digest of the arrays that a hostile file gives."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = read()
    meta = pack(found, folder, Packing(16, None, 0.2, 0.2, 0, False), ignore)
    assert sum(meta["num_images"].values()) == len(found.names) == len(found.labels)
    return meta["hash"]


@pytest.mark.parametrize("number", sizes(20, 200))
def test_hostile_files_are_read_alike_twice_or_refused_in_one_line(tmp_path, number):
    """Each in a process of its own: a crash of the interpreter is a finding as any other."""
    found = Findings("files", number)
    for case in range(number):
        folder = tmp_path / str(case)
        folder.mkdir()
        what, read = hostile(case, folder)

        def work(read=read, folder=folder) -> None:
            if packed(read, folder / "out") != packed(read, folder / "out"):
                raise AssertionError("read otherwise the second time")

        status, said, seconds = in_child(tmp_path, work)
        text = said.replace(f"{folder}/", "")
        fault = (
            "" if status == 0 and not text else found.message(text, 1000) if status == 1 else f"{status}: {text[-300:]}"
        )
        found.add(f"files {case} ({what})", {0: "read", 1: "refused"}.get(status, "crash"), seconds, fault)
        shutil.rmtree(folder)
    found.close()


# ---- a run, in processes that are forked from this one: torch is imported once


def in_child(
    folder: Path, work: Callable[[], None], watch: Callable[[int], None] = lambda pid: None, **environment: str
) -> tuple[int, str, float]:
    """Do work as a stage does it, in a process of its own; return its status, what it printed to stderr, its seconds.

    watch: called with its process id while it runs.
    """
    log = folder / "stderr"
    started, before = time.monotonic(), megabytes("RssAnon")  # a fork begins with these
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            os.chdir(folder)
            os.environ |= environment
            signal.alarm(2 * SECONDS)
            with ending("interrupted"):
                work()
            status = 0
        except SystemExit as ended:
            print(ended.code, file=sys.stderr)
            status = 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    watch(pid)
    _, ended, used = os.wait4(pid, 0)
    GREW.append(used.ru_maxrss / 1000 - before)
    text = log.read_text(errors="replace") if log.exists() else ""
    return os.waitstatus_to_exitcode(ended), text, time.monotonic() - started


STAGES = ("download", "prepare", "pretrain_autoencoder", "train_simclr", "fit_baselines", "fit_probe")
ALWAYS = {"HEADSTART_CHECKPOINT_SECONDS": "0.3"}


def stage(name: str) -> Callable[[], None]:
    more = ("autoencoder", 16) if name == "pretrain_autoencoder" else ()
    return lambda: import_module(f"stages.{name}").main("digits", *more)


def workspace(folder: Path) -> Path:
    """A workspace with tiny settings, in which stages run one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PARAMS, DATASETS):
        shutil.copyfile(ROOT / name, folder / name)
    link_code(folder)
    shrink(folder)
    edit(folder, {"datasets.yaml:digits.image_size": 8, "datasets.yaml:digits.batch_size": 128})
    return folder


def outs(folder: Path) -> dict[str, str]:
    """The digests of all files below data/, models/ and metrics/."""
    files = (path for top in ("data", "models", "metrics") for path in sorted((folder / top).rglob("*")))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[Path, dict[str, str], dict[str, float]]:
    """A finished run: its folder, its outs, and how long each stage took."""
    assert torch.get_num_threads() == 1  # or a fork would wait for threads that it lacks
    folder = workspace(tmp_path_factory.mktemp("reference") / "run")
    seconds = {}
    for name in STAGES:
        status, said, seconds[name] = in_child(folder, stage(name), **ALWAYS)
        assert status == 0, said
    return folder, outs(folder), seconds


class Killer:
    """An audit hook that kills its process at its n-th write, rename or removal."""

    def __init__(self, place: int):
        self.left = place

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "shutil.rmtree", "tempfile.mkstemp"):
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", sizes(2, 40))
def test_a_killed_stage_goes_on_and_ends_with_equal_bits(tmp_path, reference, number):
    """Three of four at any time, the others in the middle of a write, a rename or a removal."""
    made, right, seconds = reference
    found = Findings("kills of stages", number)
    for case in range(number):
        chance = random.Random(f"kills {case}")
        name = chance.choice(["prepare", *["pretrain_autoencoder", "train_simclr"] * 2, "fit_probe"])
        folder = tmp_path / str(case)
        shutil.copytree(made, folder, symlinks=True, ignore=shutil.ignore_patterns(".cache"))
        for path in (*folder.glob(f"metrics/used/{name}"), *results_of(name, folder)):
            shutil.rmtree(path)
        inside = case % 4 == 0
        after, place = chance.random() * seconds[name], chance.randrange(25)

        def kill(pid: int, after=after) -> None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        def die(name=name, place=place) -> None:
            sys.addaudithook(Killer(place))
            stage(name)()

        status, said, _ = in_child(
            folder, die if inside else stage(name), (lambda pid: None) if inside else kill, **ALWAYS
        )
        fault = "" if status in (0, -signal.SIGKILL) else f"{status}: {said[-300:]}"
        again, said, took = in_child(folder, stage(name), **ALWAYS)
        if again or outs(folder) != right:
            fault = fault or f"then {again}: {said[-300:]}; other: {sorted(outs(folder).items() ^ right.items())[:4]}"
        left = [path.name for path in (folder / "data" / "prepared").parent.rglob(".digits.*")]
        end = ("killed inside a write" if inside else "killed") if status else "ended first"
        found.add(f"kill {case} of {name}", end, took, fault or (f"left {left}" if left else ""))
        shutil.rmtree(folder)
    found.close()


def results_of(name: str, folder: Path) -> list[Path]:
    """The folders that a stage leaves."""
    known = {
        "prepare": ["data/prepared/digits"],
        "pretrain_autoencoder": ["models/autoencoder/digits/autoencoder-16"],
        "train_simclr": ["models/simclr/digits", "metrics/simclr/digits"],
        "fit_probe": ["models/probe/digits", "metrics/probe/digits"],
    }
    return [folder / path for path in known[name] if (folder / path).exists()]


# ---- disks


def mounted(folder: Path, options: str) -> None:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)


@pytest.mark.parametrize("number", sizes(1, 20))
def test_a_full_disk_ends_a_stage_in_one_line_and_with_room_it_ends_as_ever(tmp_path, reference, number):
    """A run on a disk that is full after so many bytes; then the disk grows, and the run goes on where it stopped."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root, to mount a small file system")
    made, right, _ = reference
    whole = sum(path.stat().st_size for top in ("data", "models", "metrics") for path in (made / top).rglob("*.*"))
    found = Findings("full disks", number)
    for case in range(number):
        folder = tmp_path / str(case)
        size = int(whole * (case + 0.5) / number) + 30_000
        try:
            mounted(folder, f"size={size}")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cannot mount: {error.stderr.decode()}")
        try:
            workspace(folder)
            end, fault, longest = "enough room", "", 0.0
            for name in STAGES:
                status, said, seconds = in_child(folder, stage(name), **ALWAYS)
                longest = max(longest, seconds)
                text = "\n".join(line for line in said.splitlines() if not line.startswith("warning: "))
                if status:
                    end = f"{name} in one line"
                    fault = found.message(text, 400) if status == 1 else f"{name}: {status}: {said[-300:]}"
                    partial = {path: digest for path, digest in outs(folder).items() if right.get(path) != digest}
                    if partial and not fault:
                        fault = f"half-written: {sorted(partial)[:3]}"
                    subprocess.run(["mount", "-o", f"remount,size={20 * whole}", folder], check=True)
                    status, said, seconds = in_child(folder, stage(name), **ALWAYS)
                    fault = fault or (f"then {name}: {status}: {said[-300:]}" if status else "")
            other = sorted(outs(folder).items() ^ right.items())
            found.add(f"disk {case} of {size} bytes", end, longest, fault or (f"other: {other[:4]}" if other else ""))
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    found.close()


# ---- network

FAULTS = [
    *(hosts.drop, hosts.drop_unversioned, hosts.drop_weak, hosts.drop_other, hosts.drop_without_range, hosts.reset),
    *(hosts.stall, hosts.stall_midway, hosts.ignore_range, hosts.status(404), hosts.status(403), hosts.status(429)),
    *(hosts.status(500), hosts.status(503, Retry_After="1"), hosts.status(204), hosts.page, hosts.untyped_page),
    *(hosts.corrupt, hosts.shorter, hosts.longer, hosts.longer_in_chunks, hosts.empty, hosts.chunked),
    *(hosts.chunked_without_end, hosts.until_close, hosts.zipped, hosts.called_zipped, hosts.other_range),
    *(hosts.other_total, hosts.no_content_range, hosts.other_version, hosts.redirect_loop, hosts.unversioned),
]


def tell_a_range(fault: hosts.Fault) -> hosts.Fault:
    """Faults of a rest are honest where none was asked for."""

    def answer(request: hosts.Request, body: bytes) -> None:
        asked = request.headers.get("Range") or fault not in (hosts.other_total, hosts.other_range)
        (fault if asked else hosts.drop)(request, body)

    return answer


@pytest.mark.parametrize("number", sizes(15, 100))
def test_a_faulty_network_gives_the_right_file_or_one_line(tmp_path, number):
    patience = Patience(0.5, 0.5, 1024.0, 1.0, retries=3, wait_seconds=0.01, max_wait_seconds=0.05)
    body = noise(64, 64, 0, 3).tobytes()
    known = f"sha256:{hashlib.sha256(body).hexdigest()}"
    found = Findings("network", number)
    for case in range(number):
        chance = random.Random(f"network {case}")
        folder = tmp_path / str(case)
        (folder / "out").mkdir(parents=True)
        end, fault, notes = "right", "", list[str]()
        started = time.monotonic()
        with hosts.Host({f"/x.bin?{SECRETS[2]}": body, "/sets/x.bin": body}) as host:
            host.faults = [tell_a_range(chance.choice(FAULTS)) for _ in range(chance.randrange(1, 9))]
            there = host.url().replace("//", f"//{SECRETS[0]}:{SECRETS[1]}@")
            archive = Archive("x.bin", (f"{there}/x.bin?{SECRETS[2]}",), known, (), chance.choice([None, len(body)]))
            sources = Sources(folder / "parts", mirror=f"{there}/sets" if case % 2 else None)
            try:
                with at_most():
                    fetch_archives([archive], folder / "out", sources, ignore, notes.append, patience)
                if (folder / "out" / "x.bin").read_bytes() != body:
                    fault = "another file"
            except UserError as error:
                end, fault = "refused", found.message(str(error), 1000)
                if (folder / "out" / "x.bin").exists():
                    fault = "a file that is not right"
            except BaseException as error:
                end, fault = "traceback", "".join(traceback.format_exception(error))[-500:]
        for file in (folder / "parts").glob("*.json"):
            notes.append(file.read_text())
        if not fault and any(secret in note for note in notes for secret in SECRETS):
            fault = "a secret in a note or a label"
        found.add(f"network {case}", end, time.monotonic() - started, fault)
    found.close()
