"""One URL -> one `.part` file over HTTP: resumed, watched, retried; nothing here decides whether the bytes are right.

Beside `<file>.part` lies `<file>.part.json`: of which version of which URL it is the beginning (ETag, Last-Modified).
"""

import hashlib
import http.client
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import UserError, fitted, for_people, masked
from headstart.errors import reason as reason_of

if TYPE_CHECKING:
    import requests

BLOCK = 2**20
RETRIED = (408, 425, 429)  # and all from 500 on; other refusals will be the same in a minute
MOST_BYTES = 2**35  # of a file whose size neither datasets.yaml nor the host tells: no archive here has half of it
AGENT = "headstart (research; downloads data sets once)"


@dataclass(frozen=True)
class Patience:
    """How long a host is borne with.

    connect_seconds: to a connection; read_seconds: without a byte; min_rate: bytes per second over each rate_seconds.
    A try that fails is repeated `retries` times after wait_seconds, doubled each time up to max_wait_seconds, which
    also caps Retry-After; the count starts anew whenever the file has grown by `headway` bytes.
    """

    connect_seconds: float = 15.0
    read_seconds: float = 60.0
    min_rate: float = 1024.0
    rate_seconds: float = 60.0
    retries: int = 4
    wait_seconds: float = 1.0
    max_wait_seconds: float = 120.0
    headway: int = 2**20


class UnavailableError(Exception):
    """Why a source does not serve a file, in a few words."""


class _PassingError(UnavailableError):
    """What another try may mend; wait: seconds that the host asks for."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def check_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise UserError where the disk of `folder` has less room than that."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UserError(f"{what}: needs {num_bytes} more bytes in {folder}, {free} are free; make room")


def label_of(part: Path) -> Path:
    """Return the file beside a part that says what it is the beginning of."""
    return part.with_name(f"{part.name}.json")


def drop(part: Path) -> None:
    """Remove a part and what is known about it."""
    part.unlink(missing_ok=True)
    label_of(part).unlink(missing_ok=True)


def length(path: Path) -> int:
    """Return the bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


@dataclass
class Transfer:
    """A file on its way from `url` into `part`.

    size: bytes that it must have, None where that is unknown; hashed: whether its hash is known. What another URL
    began, or a host whose files bear no version, is gone on with only then: the hash tells if the pieces fit.
    on_position: called with the bytes that `part` holds. pieced: set where they came in more than one answer.
    """

    url: str
    part: Path
    size: int | None
    hashed: bool
    patience: Patience
    on_position: Callable[[int], object]
    pieced: bool = False

    def run(self) -> None:
        """Leave the file in `part`, whole by its length; where it was whole before, without asking the host.

        Raises UnavailableError, leaving `part` for another day, where the host does not serve it.
        """
        import requests

        failures, furthest = 0, length(self.part)
        with requests.Session() as session:
            while True:
                try:
                    return self._try(session)
                except _PassingError as error:
                    if length(self.part) >= furthest + self.patience.headway:
                        failures, furthest = 0, length(self.part)
                    if failures == self.patience.retries:
                        raise UnavailableError(f"{error} (tried {failures + 1} times)") from None
                    time.sleep(self._wait(failures, error.wait))
                    failures += 1

    def _wait(self, failures: int, asked: float) -> float:
        """Seconds until the next try, drawn so that many workers do not return at once; seeds no generator."""
        grown = self.patience.wait_seconds * 2**failures * random.SystemRandom().uniform(0.5, 1.0)
        return min(max(grown, asked), self.patience.max_wait_seconds)

    def _try(self, session: "requests.Session") -> None:
        import requests
        import urllib3

        label = self._label()
        size = self.size if self.size is not None else label.get("size")
        offset = length(self.part)
        if size is not None and offset > size:
            drop(self.part)
            offset = 0
        if offset and offset == size:
            self.pieced = True
            self.on_position(offset)
            return
        version = label.get("etag") or label.get("modified")
        if offset and not (version or self.hashed):
            drop(self.part)
            offset = 0
        # identity: what is asked for is the file, not a compressed form of it
        headers = {"Accept-Encoding": "identity", "User-Agent": AGENT}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if version:
                headers["If-Range"] = version
        times = (self.patience.connect_seconds, self.patience.read_seconds)
        try:
            with session.get(self.url, headers=headers, stream=True, timeout=times) as response:
                self._receive(response, offset, label)
        except (requests.TooManyRedirects, ValueError) as error:  # what requests finds wrong in a URL is a ValueError
            raise UnavailableError(_root(error)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
            raise _PassingError(_root(error)) from None

    def _label(self) -> dict[str, Any]:
        """What is known about the part, empty where it began elsewhere."""
        try:
            label = json.loads(label_of(self.part).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return label if isinstance(label, dict) and label.get("of") == self._of() else {}

    def _of(self) -> str:
        """What tells this URL from others without saying it: it may hold a password or a token."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    def _receive(self, response: "requests.Response", offset: int, label: dict[str, Any]) -> None:
        """Write what a response brings behind what is there, or in its place."""
        if response.status_code == 416 and offset:
            if response.headers.get("Content-Range") == f"bytes */{offset}" and self.size is None:
                self.pieced = True
                self.on_position(offset)
                return  # the part is all there is
            drop(self.part)
            raise _PassingError("answers 416 to a request for the rest")
        _check_status(response, offset)
        if response.status_code == 206 and not self._goes_on(response, offset, label):
            drop(self.part)
            raise _PassingError("sends another part than the one asked for")
        if response.status_code == 200:
            offset = 0
        rest = response.raw.length_remaining  # by Content-Length; None where it is sent in chunks or until the end
        size = None if rest is None else offset + rest
        self._check_length(response, size)
        if self.size is None and size is not None and size > MOST_BYTES:
            raise UnavailableError(f"offers {size} bytes, more than {MOST_BYTES}")
        check_space(self.part.parent, rest or 0, self.part.stem)
        if not offset:
            drop(self.part)
            kept = {
                "url": masked(self.url),
                "of": self._of(),
                "etag": _etag(response),
                "modified": response.headers.get("Last-Modified"),
            }
            label_of(self.part).write_text(json.dumps({**kept, "size": size}), encoding="utf-8")
        self.pieced = offset > 0
        self._copy(response.raw, offset, size)

    def _goes_on(self, response: "requests.Response", offset: int, label: dict[str, Any]) -> bool:
        """Whether a 206 is the rest of the file whose beginning lies in the part."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset:
            return False
        size = self.size if self.size is not None else label.get("size")
        if size is not None and found[2] not in ("*", str(size)):
            return False
        now = {"etag": _etag(response), "modified": response.headers.get("Last-Modified")}
        return all(not (label.get(key) and now[key]) or label[key] == now[key] for key in now)

    def _check_length(self, response: "requests.Response", size: int | None) -> None:
        if size is not None and self.size is not None and size != self.size:
            raise UnavailableError(f"offers {size} bytes, not the published {self.size}")
        if size is None and not (self.size or self.hashed or response.headers.get("Transfer-Encoding") == "chunked"):
            raise UnavailableError("tells no length, and neither size nor hash is published: its end would be a guess")

    def _copy(self, raw: Any, position: int, size: int | None) -> None:
        """Append a response's bytes as they come, watching their rate."""
        limit = self.size if self.size is not None else size
        most = MOST_BYTES if limit is None else limit
        raw.enforce_content_length = False  # said below, in words
        self.on_position(position)
        marked, since = position, time.monotonic()
        with self.part.open("ab") as file:
            while block := raw.read1(BLOCK, decode_content=False):
                position += len(block)
                if position > most:
                    drop(self.part)
                    raise UnavailableError(f"sends more than {most} bytes")
                file.write(block)
                file.flush()  # what a kill leaves is all that came
                self.on_position(position)
                if (elapsed := time.monotonic() - since) >= self.patience.rate_seconds:
                    if position - marked < self.patience.min_rate * elapsed:
                        raise _PassingError(f"sends {(position - marked) / elapsed:.0f} bytes a second")
                    marked, since = position, time.monotonic()
        if limit is not None and position < limit:
            raise _PassingError(f"breaks off at byte {position} of {limit}")


def _check_status(response: "requests.Response", offset: int) -> None:
    """Raise for answers that bring no file: refusals, pages for people, files wrapped once more."""
    status = response.status_code
    if status in RETRIED or status >= 500:
        raise _PassingError(f"answers {status}", _retry_after(response))
    if status != 200 and not (status == 206 and offset):
        said = fitted(" ".join(for_people(response.reason or "").split()), 80)
        raise UnavailableError(f"answers {status} {said}".strip())
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise UnavailableError("answers with an HTML page")
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    # some hosts say gzip of a .tar.gz as it lies there; anything else would be a wrapping that was not asked for
    if encoding != "identity" and not response.url.partition("?")[0].endswith((".gz", ".tgz")):
        raise UnavailableError(f"sends it with Content-Encoding {fitted(encoding, 40)}, though asked not to")


def _etag(response: "requests.Response") -> str | None:
    """The version of a file byte by byte; a weak one, W/"..", tells less (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else etag


def _retry_after(response: "requests.Response") -> float:
    """Seconds that a host asks for, as a number or a date; 0 where it asks for none."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except InvalidHeader:
        return 0.0


def _root(error: BaseException) -> str:
    """The first cause of a chain of errors, in one line: Connection refused, timed out, ..."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return reason_of(error)
