"""The one exception that a user can cause, and how text that others wrote may stand in a line for people.

Others are the authors of a server's answer, of an archive's member names, of a value in a file: what they wrote could
steer a terminal, hold a password, or be megabytes long.
"""

import errno
import re

MOST = 1000  # characters of a message: a listing of names may need them
BRIEF = 80  # of a value within one
PATH = REASON = 200  # of a path, and of why something failed

# controls but tab and newline, separators of lines and paragraphs, marks that turn the direction of text
_UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# up to the last @, since a password may hold one, and a / where nobody has encoded it
_CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/?#'\"<>]*@|[^\s/'\"<>@]*:[^\s'\"<>]*@)")
_QUERY = re.compile(r"(\w[\w+.-]*://[^\s?#'\"<>]*|(?<![^\s'\"(=])/[^\s?#'\"<>]*)\?[^\s'\"<>()]*[^\s'\"<>().,:;]")
HIDDEN = "***"


class UserError(Exception):
    """Says in one line what is wrong, what is allowed and what to do; commands print it and exit with status 1.

    The line holds no control characters and no secrets of a URI, and `most` characters at most: its middle gives way.
    """

    def __init__(self, message: str, most: int = MOST):
        super().__init__(fitted(" ".join(for_people(message).splitlines()), most))


def for_people(text: str) -> str:
    """Return a text as it may be printed or stored for people: `printable` and `masked`."""
    return masked(printable(text))


def printable(text: str) -> str:
    r"""Return a text without what steers a terminal: such characters become escapes, as \x1b."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def masked(text: str) -> str:
    """Return a text in which no URI shows a user, a password or a query, which may be a token."""
    return _QUERY.sub(rf"\1?{HIDDEN}", _CREDENTIALS.sub(f"{HIDDEN}@", text))


def fitted(text: str, most: int) -> str:
    """Return a text of at most `most` characters; of a longer one the middle is left out: its end says what to do."""
    if len(text) <= most:
        return text
    tail = most * 2 // 5
    return f"{text[: most - tail - 5]} ... {text[-tail:]}"


def brief(value: object, most: int = BRIEF) -> str:
    """Return the repr of a value as messages show it: no secret of a URI, and of a long one not the middle."""
    text = repr(value)
    if "://" in text:  # whatever else is wrong with it: spaces and quotes may stand in a password
        text = re.sub(r"\?.*(?=['\"])", f"?{HIDDEN}", re.sub(r"(?<=://).*@", f"{HIDDEN}@", text))
    return fitted(text, most)


def reason(error: BaseException, most: int = REASON) -> str:
    """Return why something failed, in one line: what the system says of it, else what the error says."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return fitted(" ".join(for_people(said).split()), most) or type(error).__name__


def of_system(error: OSError, path: object = None) -> UserError:
    """Return what the system refused as one line that names the file: the error's own, else `path`."""
    file = error.filename if error.filename is not None else path
    advice = "; make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return UserError(f"{fitted(str(file), PATH)}: {reason(error)}{advice}" if file else f"{reason(error)}{advice}")
