"""Hosts that break in every way known: each ends in the exact bytes, or in one line and nothing taken for whole."""

import hashlib
import random
import re
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import hosts
import pytest
from hosts import Host

from headstart.errors import UserError
from headstart.ingest import transfer as transfer_module
from headstart.ingest.sources import Archive, Sources, fetch_archives, num_bytes_present
from headstart.ingest.transfer import Patience

FILE = "set.tar.gz"
DATA = random.Random(0).randbytes(50_000)
HALF = len(DATA) // 2
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
KNOWN = {"hash": SHA256, "num_bytes": len(DATA)}
# read_seconds is paid by the faults that hang; elsewhere it must outlast a busy machine
PATIENCE = Patience(connect_seconds=5, read_seconds=5, rate_seconds=5, retries=2, wait_seconds=0.001)
HASTY = replace(PATIENCE, read_seconds=0.3, rate_seconds=0.2, retries=1)
SLOW = (hosts.stall, hosts.stall_midway, hosts.trickle)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def host():
    with Host({f"/{FILE}": DATA}) as running:
        yield running


class Fetch:
    """A download into tmp_path: what it said, and how far its bar went."""

    def __init__(self, folder: Path):
        self.sources = Sources(folder / "parts")
        self.out = folder / "out"
        self.out.mkdir()
        self.notes: list[str] = []
        self.steps: list[int] = []

    def __call__(self, *urls: str, patience: Patience = PATIENCE, **known) -> None:
        archive = Archive(FILE, urls, **known)
        self.steps[:] = [num_bytes_present([archive], self.sources)]
        fetch_archives([archive], self.out, self.sources, self.steps.append, self.notes.append, patience)
        assert (self.out / FILE).read_bytes() == DATA
        assert sum(self.steps) == len(DATA)
        assert names(self.out) == [FILE]

    def refused(self, *urls: str, **options) -> str:
        with pytest.raises(UserError) as error:
            self(*urls, **options)
        message = str(error.value)
        assert "\n" not in message
        assert names(self.out) == []
        assert FILE not in self.left()
        return message

    def left(self) -> list[str]:
        return names(self.sources.parts)

    def part(self) -> bytes:
        path = self.sources.parts / f"{FILE}.part"
        return path.read_bytes() if path.exists() else b""

    def put(self, suffix: str, data: bytes) -> None:
        self.sources.parts.mkdir(exist_ok=True)
        (self.sources.parts / f"{FILE}{suffix}").write_bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def fetch(tmp_path):
    return Fetch(tmp_path)


REST = f"bytes={HALF}-"
QUARTER = f"bytes={HALF + HALF // 2}-"
# faults, one a request -> the Range headers of the requests until the file was there
HEALED = {
    "none": ([], [None]),
    "dropped": ([hosts.drop], [None, REST]),
    "dropped twice": ([hosts.drop, hosts.drop], [None, REST, QUARTER]),
    "closed without an answer": ([hosts.reset], [None, None]),
    "stalled before the headers": ([hosts.stall], [None, None]),
    "stalled midway": ([hosts.stall_midway], [None, REST]),
    "trickled": ([hosts.trickle], [None, "any"]),
    "range ignored": ([hosts.drop, hosts.ignore_range], [None, REST]),
    "408": ([hosts.status(408)], [None, None]),
    "429": ([hosts.status(429, Retry_After="0")], [None, None]),
    "500": ([hosts.status(500)], [None, None]),
    "503, a date": ([hosts.status(503, Retry_After=formatdate(0, usegmt=True))], [None, None]),
    "503, nonsense": ([hosts.status(503, Retry_After="soon")], [None, None]),
    "503 to the rest": ([hosts.drop, hosts.status(503)], [None, REST, REST]),
    "416 to the rest": ([hosts.drop, hosts.status(416)], [None, REST, None]),
    "another range": ([hosts.drop, hosts.other_range], [None, REST, None]),
    "another total": ([hosts.drop, hosts.other_total], [None, REST, None]),
    "no Content-Range": ([hosts.drop, hosts.no_content_range], [None, REST, None]),
    "replaced": ([hosts.drop_other], [None, REST]),
    "replaced, unnoticed by the host": ([hosts.drop, hosts.other_version], [None, REST, None]),
    "redirected": ([hosts.redirect(f"/moved/{FILE}")], [None, None]),
    "in chunks": ([hosts.chunked], [None]),
    "chunks without end": ([hosts.chunked_without_end], [None, REST]),
    "called gzip": ([hosts.called_zipped], [None]),
}
UNTIL_CLOSE = {"until close": ([hosts.until_close], [None])}
UNVERSIONED = {
    "dropped without a version": ([hosts.drop_unversioned, hosts.unversioned], REST),
    "dropped with a weak one": ([hosts.drop_weak, hosts.unversioned], REST),
}


def cases(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table.values(), ids=table)


@pytest.mark.parametrize("known", [KNOWN, {}], ids=["known", "unknown"])
@cases(HEALED)
def test_what_heals(host, fetch, case, known):
    """The same with and without size and hash: whether a part fits is the host's word, the hash only confirms it."""
    faults, ranges = case
    host.files[f"/moved/{FILE}"] = DATA
    host.faults = list(faults)
    fetch(host.url(f"/{FILE}"), patience=HASTY if set(faults) & set(SLOW) else PATIENCE, **known)
    asked = host.ranges()
    assert [now if then == "any" else then for now, then in zip(asked, ranges, strict=True)] == asked
    assert all(headers["Accept-Encoding"] == "identity" for _, headers in host.asked)
    assert fetch.left() == [FILE]
    assert fetch.notes[-1].startswith(FILE)


@cases(UNVERSIONED)
def test_a_part_of_an_unknown_version_is_gone_on_with_only_where_the_hash_is_known(host, tmp_path, case):
    faults, known_range = case
    for number, (known, expected) in enumerate([(KNOWN, known_range), ({"num_bytes": len(DATA)}, None)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        host.asked.clear()
        host.faults = list(faults)
        Fetch(folder)(host.url(f"/{FILE}"), **known)
        assert host.ranges() == [None, expected]


def test_a_file_that_ends_with_the_connection_needs_a_size_or_a_hash(host, fetch):
    host.always = hosts.until_close
    assert "tells no length, and neither size nor hash" in fetch.refused(host.url(f"/{FILE}"))
    fetch(host.url(f"/{FILE}"), num_bytes=len(DATA))


# fault of every request -> what the error says of it, requests, bytes of the .part and whether there is a .bad
REFUSED = {
    "403": (hosts.status(403), "answers 403 Forbidden", 1, 0, False),
    "404": (hosts.status(404), "answers 404 Not Found", 1, 0, False),
    "410": (hosts.status(410), "answers 410 Gone", 1, 0, False),
    "416": (hosts.status(416), "answers 416", 1, 0, False),
    "204": (hosts.status(204), "answers 204", 1, 0, False),
    "206 to a request for all": (hosts.other_range, "answers 206", 1, 0, False),
    "429": (hosts.status(429, Retry_After="0"), r"answers 429 \(tried 3 times\)", 3, 0, False),
    "500": (hosts.status(500), r"answers 500 \(tried 3 times\)", 3, 0, False),
    "503": (hosts.status(503), r"answers 503 \(tried 3 times\)", 3, 0, False),
    "HTML": (hosts.page, "answers with an HTML page", 1, 0, False),
    "HTML in disguise": (hosts.untyped_page, "(wrong size|offers 41 bytes)", 1, 0, False),
    "closed without an answer": (hosts.reset, r"tried 3 times", 3, 0, False),
    "dropped each time": (
        hosts.drop_without_range,
        rf"breaks off at byte {HALF} of 50000 \(tried 3 times\)",
        3,
        HALF,
        False,
    ),
    "stalled before the headers": (hosts.stall, r"timed out \(tried 2 times\)", 2, 0, False),
    "stalled midway": (hosts.stall_midway, r"timed out \(tried 2 times\)", 2, HALF + HALF // 2, False),
    "trickled": (hosts.trickle, r"sends \d+ bytes a second \(tried 2 times\)", 2, None, False),
    "corrupted": (hosts.corrupt, f"wrong hash: found sha256:[0-9a-f]{{64}}, expected {SHA256}, kept as", 1, 0, True),
    "shorter": (hosts.shorter, "offers 49990 bytes, not the published 50000", 1, 0, False),
    "longer": (hosts.longer, "offers 50004 bytes, not the published 50000", 1, 0, False),
    "longer in chunks": (hosts.longer_in_chunks, "sends more than 50000 bytes", 1, 0, False),
    "empty": (hosts.empty, "offers 0 bytes", 1, 0, False),
    "zipped once more": (hosts.zipped, None, 1, 0, False),
    "redirected in a circle": (hosts.redirect_loop, "redirects", 31, 0, False),
    "redirected to a file": (hosts.redirect("file:///etc/hostname"), "connection adapters", 1, 0, False),
}


@cases(REFUSED)
def test_what_does_not_heal_is_one_line_and_the_next_source_serves(host, fetch, case):
    fault, reason, requests, kept, bad = case
    host.always = fault
    patience = HASTY if fault in SLOW else PATIENCE
    message = fetch.refused(host.url(f"/{FILE}"), patience=patience, **KNOWN)
    if reason:
        assert message.startswith(f"{FILE}: no source has it: {host.url(f'/{FILE}')}: ")
        assert re.search(reason, message), message
    assert message.endswith(f"; put {FILE} into a directory and set data.archives to it, or set data.mirror")
    assert len(host.asked) == requests
    assert kept is None or len(fetch.part()) == kept
    assert DATA.startswith(fetch.part())
    assert (f"{FILE}.bad" in fetch.left()) == bad
    with Host({f"/{FILE}": DATA}) as other:
        fetch(host.url(f"/{FILE}"), other.url(f"/{FILE}"), patience=patience, **KNOWN)
        assert fetch.notes[-1] == f"{FILE}: from {other.url(f'/{FILE}')}"
        assert len(other.asked) == 1


def test_a_host_that_refuses_connections(host, fetch):
    url = hosts.refused_url()
    message = fetch.refused(url, **KNOWN)
    assert f"{url}: Connection refused (tried 3 times); put {FILE} into a directory" in message
    fetch(url, host.url(f"/{FILE}"), **KNOWN)


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://[::1/x"])
def test_an_address_that_is_none(fetch, url):
    assert fetch.refused(url, **KNOWN).startswith(f"{FILE}: no source has it: ")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (hosts.untyped_page, "an HTML page in the archive's place, kept as"),
        (hosts.empty, "an empty file, kept as"),
        (hosts.page, "answers with an HTML page"),
        (hosts.until_close, "tells no length"),
    ],
)
def test_what_is_seen_without_size_and_hash(host, fetch, fault, reason):
    host.always = fault
    assert reason in fetch.refused(host.url(f"/{FILE}"))


def test_an_encoding_is_refused_where_the_file_is_no_gzip(host, tmp_path):
    host.files["/set.zip"] = DATA
    host.always = hosts.zipped
    with pytest.raises(UserError, match="sends it with Content-Encoding gzip, though asked not to"):
        fetch_archives([Archive("set.zip", (host.url("/set.zip"),))], tmp_path, Sources(tmp_path), len)
    assert names(tmp_path) == []


# ---- patience


def test_the_count_of_tries_starts_anew_while_the_file_grows(host, fetch):
    """Six breaks in a file are borne by two retries if each brought something, none if that is too little."""
    patience = replace(PATIENCE, headway=500)
    host.faults = [hosts.drop] * 6
    fetch(host.url(f"/{FILE}"), patience=patience, **KNOWN)
    assert len(host.asked) == 7


def test_a_host_that_starts_from_zero_each_time_is_given_up(host, fetch):
    """What it sends again and again is no headway."""
    host.always = hosts.drop_without_range
    fetch.refused(host.url(f"/{FILE}"), patience=replace(PATIENCE, headway=500), **KNOWN)
    assert len(host.asked) == 3


@pytest.mark.parametrize(("asked", "waited"), [("3", 3.0), ("3600", 120.0), ("soon", 0.0), (None, 0.0)])
def test_waits(host, fetch, monkeypatch, asked, waited):
    """Doubled from wait_seconds, less up to a half by chance; Retry-After where that is longer, up to the cap."""
    waits: list[float] = []
    monkeypatch.setattr(transfer_module.time, "sleep", waits.append)
    host.always = hosts.status(503, **({"Retry_After": asked} if asked else {}))
    fetch.refused(host.url(f"/{FILE}"), patience=Patience(retries=9), **KNOWN)
    assert len(waits) == 9
    for number, wait in enumerate(waits):
        low, high = (min(max(share * 2**number, waited), 120.0) for share in (0.5, 1.0))
        assert low <= wait <= high
    assert len(set(waits)) > 1 or waited == 120.0


# ---- parts that an earlier run left


def test_a_part_is_gone_on_with_and_the_bar_starts_there(host, fetch):
    host.always = hosts.drop
    fetch.refused(host.url(f"/{FILE}"), **KNOWN)
    kept = len(fetch.part())
    assert HALF < kept < len(DATA)
    host.always = None
    host.asked.clear()
    fetch(host.url(f"/{FILE}"), **KNOWN)
    ((_, headers),) = host.asked
    assert (headers["Range"], headers["If-Range"]) == (f"bytes={kept}-", hosts.versions(DATA)["ETag"])
    assert (fetch.steps[0], min(fetch.steps)) == (kept, 0)


def test_a_restart_takes_the_bar_back(host, fetch):
    host.faults = [hosts.drop, *[hosts.status(404)]]
    fetch.refused(host.url(f"/{FILE}"), **KNOWN)
    host.faults = [hosts.ignore_range]
    fetch(host.url(f"/{FILE}"), **KNOWN)
    assert fetch.steps[:2] == [HALF, -HALF]


@pytest.mark.parametrize("known", [KNOWN, {"hash": SHA256}, {"num_bytes": len(DATA)}], ids=["both", "hash", "size"])
def test_a_whole_part_is_not_downloaded_again(host, fetch, known):
    """As a kill between the last byte and the renaming leaves it: with size known, without asking the host at all."""
    host.always = hosts.drop
    fetch.refused(host.url(f"/{FILE}"), **known)
    fetch.put(".part", DATA)
    host.always, requests = None, len(host.asked)
    fetch(host.url(f"/{FILE}"), **known)
    assert len(host.asked) == requests


def test_a_whole_part_of_unknown_length_is_confirmed_by_the_host(host, fetch):
    host.faults = [hosts.chunked_without_end, hosts.status(404)]
    fetch.refused(host.url(f"/{FILE}"))
    fetch.put(".part", DATA)
    fetch(host.url(f"/{FILE}"))
    assert host.ranges()[-1] == f"bytes={len(DATA)}-"
    assert len(host.asked) == 3


@pytest.mark.parametrize("wrong", [DATA + b"more", bytes(len(DATA)), bytes(HALF)], ids=["longer", "wrong", "half"])
def test_a_wrong_part_is_replaced_and_no_bad_file_is_kept(host, fetch, wrong):
    fetch.put(".part", wrong)
    fetch(host.url(f"/{FILE}"), **KNOWN)
    assert fetch.left() == [FILE]
    assert host.ranges()[-1] is None


def test_another_host_goes_on_only_where_the_hash_can_tell(host, tmp_path):
    for name, known, expected in (("a", KNOWN, REST), ("b", {"num_bytes": len(DATA)}, None)):
        (tmp_path / name).mkdir()
        fetch = Fetch(tmp_path / name)
        with Host({f"/{FILE}": DATA}) as first:
            first.faults = [hosts.drop, hosts.status(404)]
            host.asked.clear()
            fetch(first.url(f"/{FILE}"), host.url(f"/{FILE}"), **known)
        assert host.ranges() == [expected]


def test_a_label_that_is_damaged_counts_as_none(host, fetch):
    fetch.put(".part", DATA[:HALF])
    for damaged in (b"{", b"[]", b"\xff"):
        fetch.put(".part.json", damaged)
    fetch(host.url(f"/{FILE}"))
    assert host.ranges() == [None]


def test_no_room_for_what_the_host_offers(host, fetch, monkeypatch):
    usage = transfer_module.shutil.disk_usage(fetch.out)._replace(free=49_999)
    monkeypatch.setattr(transfer_module.shutil, "disk_usage", lambda folder: usage)
    message = fetch.refused(host.url(f"/{FILE}"))
    assert message == f"{FILE}: needs 50000 more bytes in {fetch.sources.parts}, 49999 are free; make room"
    host.asked.clear()
    assert "needs 50000 more bytes" in fetch.refused(host.url(f"/{FILE}"), **KNOWN)
    assert host.asked == []


def test_at_least_twenty_kinds_of_fault():
    assert len(HEALED) + len(REFUSED) + len(UNVERSIONED) >= 40
