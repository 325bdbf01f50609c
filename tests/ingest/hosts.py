"""A loopback HTTP server that serves bytes by path and misbehaves as told, request by request.

`with Host({"/a.zip": data}) as host:` is honest: ETag, Last-Modified, Range and If-Range as RFC 9110 has them.
`host.faults = [drop, status(503)]` spends one fault a request, then is honest again; `host.always = drop` never is.
"""

import gzip
import hashlib
import http.server
import re
import socket
import threading
from collections.abc import Callable
from urllib.parse import unquote


class Request(http.server.BaseHTTPRequestHandler):
    """One request; faults speak through `reply`."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        host = self.server.host
        body = host.files.get(unquote(self.path))
        with host.counting:
            host.asked.append((self.path, dict(self.headers)))
            fault = host.faults.pop(0) if host.faults else host.always or honest
        host.arrived.set()
        if body is None and fault is honest:
            fault = status(404)
        fault(self, body or b"")

    def reply(self, code: int, body: bytes, headers: dict | None = None, length: int | None = -1, sent: int = 0):
        """Send a response; length: what Content-Length says (None: nothing), sent: bytes after which it stops."""
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body[:sent] if sent else body)
        self.wfile.flush()
        self.close_connection = True

    def hang(self) -> None:
        """Say nothing until the server is closed."""
        self.server.host.closing.wait(60)
        self.close_connection = True


class _Server(http.server.ThreadingHTTPServer):
    host: "Host"

    def handle_error(self, request, client_address) -> None:
        """Clients that leave are what is tested."""


class Host:
    """The server, for the length of a `with`; asked: path and headers of every request."""

    def __init__(self, files: dict[str, bytes]):
        self.files = files
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.arrived, self.resume, self.closing = threading.Event(), threading.Event(), threading.Event()
        self.counting = threading.Lock()

    def __enter__(self) -> "Host":
        self.server = _Server(("127.0.0.1", 0), Request)
        self.server.host = self
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.closing.set()
        self.resume.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def url(self, path: str = "") -> str:
        """The address of a path, of the server itself without one."""
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def ranges(self) -> list[str | None]:
        """The Range header of every request."""
        return [headers.get("Range") for _, headers in self.asked]


Fault = Callable[[Request, bytes], None]


def versions(body: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Last-Modified": "Mon, 05 Jan 2026 10:00:00 GMT"}


def rest(request: Request, body: bytes, validators: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    """Status, content and headers of an honest answer, which may be the part that was asked for."""
    validators = versions(body) if validators is None else validators
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    if not asked or request.headers.get("If-Range", validators.get("ETag")) not in (None, *validators.values()):
        return 200, body, validators
    start = int(asked[1])
    if start >= len(body):
        return 416, b"", {"Content-Range": f"bytes */{len(body)}"}
    return 206, body[start:], {**validators, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}


def honest(request: Request, body: bytes) -> None:
    request.reply(*rest(request, body))


def unversioned(request: Request, body: bytes) -> None:
    request.reply(*rest(request, body, {}))


def drop(request: Request, body: bytes) -> None:
    """Half of what was asked for, under the Content-Length of all."""
    code, content, headers = rest(request, body)
    request.reply(code, content, headers, sent=len(content) // 2)


def drop_unversioned(request: Request, body: bytes) -> None:
    code, content, headers = rest(request, body, {})
    request.reply(code, content, headers, sent=len(content) // 2)


def drop_weak(request: Request, body: bytes) -> None:
    """A version that does not vouch for every byte, and no date."""
    code, content, headers = rest(request, body, {"ETag": 'W/"1"'})
    request.reply(code, content, headers, sent=len(content) // 2)


def drop_other(request: Request, body: bytes) -> None:
    """Half of another file: what stood there before it was replaced."""
    drop(request, bytes(255 - byte for byte in body))


def drop_without_range(request: Request, body: bytes) -> None:
    request.reply(200, body, versions(body), sent=len(body) // 2)


def reset(request: Request, body: bytes) -> None:
    """Close without an answer."""
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


def stall(request: Request, body: bytes) -> None:
    request.hang()


def stall_midway(request: Request, body: bytes) -> None:
    drop(request, body)
    request.hang()


def paused(request: Request, body: bytes) -> None:
    """Stop in the middle until the test says `resume`."""
    request.reply(200, body, versions(body), sent=len(body) // 2)
    request.server.host.resume.wait(60)
    request.wfile.write(body[len(body) // 2 :])


def trickle(request: Request, body: bytes) -> None:
    """A byte now and then, each well within the read timeout."""
    code, content, headers = rest(request, body)
    request.reply(code, content, headers, sent=1)
    for byte in content[1:]:
        if request.server.host.closing.wait(0.02):
            return
        request.wfile.write(bytes([byte]))
        request.wfile.flush()


def ignore_range(request: Request, body: bytes) -> None:
    request.reply(200, body, versions(body))


def status(code: int, **headers: str) -> Fault:
    """A refusal; headers with _ for -."""

    def refuse(request: Request, body: bytes) -> None:
        request.reply(code, b"no", {name.replace("_", "-"): value for name, value in headers.items()})

    refuse.__name__ = f"status_{code}"
    return refuse


def page(request: Request, body: bytes) -> None:
    request.reply(200, b"<html>log in first</html>", {"Content-Type": "text/html; charset=utf-8"})


def untyped_page(request: Request, body: bytes) -> None:
    request.reply(200, b"\n<!DOCTYPE html><html>log in first</html>", {"Content-Type": "application/octet-stream"})


def corrupt(request: Request, body: bytes) -> None:
    code, content, headers = rest(request, body)
    request.reply(code, bytes([content[0] ^ 1]) + content[1:], headers)


def shorter(request: Request, body: bytes) -> None:
    """A file cut off when it was put there: its own length is right."""
    request.reply(200, body[:-10], versions(body[:-10]))


def longer(request: Request, body: bytes) -> None:
    request.reply(200, body + b"more", versions(body))


def longer_in_chunks(request: Request, body: bytes) -> None:
    chunked(request, body + b"more")


def empty(request: Request, body: bytes) -> None:
    request.reply(200, b"")


def chunked(request: Request, body: bytes, end: bytes = b"0\r\n\r\n") -> None:
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]))
    request.reply(200, chunks + end, {"Transfer-Encoding": "chunked", **versions(body)}, length=None)


def chunked_without_end(request: Request, body: bytes) -> None:
    chunked(request, body[: len(body) // 2], end=b"")


def until_close(request: Request, body: bytes) -> None:
    """HTTP/1.0's way: the end of the connection is the end of the file, or is it?"""
    request.reply(200, body, versions(body), length=None)


def zipped(request: Request, body: bytes) -> None:
    """Compressed once more, though asked not to."""
    request.reply(200, gzip.compress(body, mtime=0), {"Content-Encoding": "gzip"})


def called_zipped(request: Request, body: bytes) -> None:
    """A .gz as it lies there, but called an encoding of what is in it."""
    code, content, headers = rest(request, body)
    request.reply(code, content, {**headers, "Content-Encoding": "gzip"})


def other_range(request: Request, body: bytes) -> None:
    """A 206 that begins elsewhere than asked."""
    content = f"bytes 7-{len(body) - 1}/{len(body)}"
    request.reply(206, body[7:], {**versions(body), "Content-Range": content})


def other_total(request: Request, body: bytes) -> None:
    code, content, headers = rest(request, body)
    request.reply(code, content, {**headers, "Content-Range": f"{headers['Content-Range']}0"})


def no_content_range(request: Request, body: bytes) -> None:
    code, content, _ = rest(request, body)
    request.reply(code, content, versions(body))


def other_version(request: Request, body: bytes) -> None:
    """The rest of another file, to a client that asked for the rest of the first one."""
    code, content, headers = rest(request, body)
    request.reply(code, content, {**headers, "ETag": '"another"'})


def redirect(path: str) -> Fault:
    def send_on(request: Request, body: bytes) -> None:
        request.reply(302, b"", {"Location": path})

    return send_on


def redirect_loop(request: Request, body: bytes) -> None:
    request.reply(302, b"", {"Location": request.path})


def refused_url() -> str:
    """An address at which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}/set.tar.gz"
