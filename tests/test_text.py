"""Text that others wrote: no control characters on a terminal, no formulas in a spreadsheet, nothing of any length."""

import csv
import io
import json

import numpy as np
import pytest

from headstart.commands import terminal
from headstart.errors import MOST, UserError, brief, fitted, printable
from headstart.export.predict import Predictions
from headstart.ingest.formats import image_archive
from headstart.ingest.sources import Archive, Sources, fetch_archives
from headstart.ingest.transfer import Patience
from headstart.run import files
from headstart.run.stage import say
from headstart.study import writing
from headstart.study.pictures import confusion_picture
from headstart.sweep.state import SweepState
from tests.ingest import hosts
from tests.ingest.samples import write_archive

STEERING = "\x1b]0;owned\x07 \x1b[2J\x9b31m \u202egnp.exe \x00 \x7f \r\u2028"
VISIBLE = printable(STEERING)


def is_clean(text: str) -> bool:
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


def test_what_steers_a_terminal_becomes_visible():
    assert VISIBLE == r"\x1b]0;owned\x07 \x1b[2J\x9b31m \u202egnp.exe \x00 \x7f \r\u2028"
    assert printable("täg 中文 – 5 µm\n\ttab") == "täg 中文 – 5 µm\n\ttab"


def test_messages_and_lines_are_clean(capfd):
    message = str(UserError(f"member {STEERING!s}\nof an archive"))
    assert is_clean(message) and "\n" not in message and message.endswith("of an archive")
    say(f"class {STEERING}")
    assert is_clean(capfd.readouterr().out)


def test_a_long_message_keeps_its_beginning_and_its_end():
    message = str(UserError(f"a.zip: {'x' * 10_000}; get it again"))
    assert len(message) <= MOST and message.startswith("a.zip: xxx") and message.endswith("xxx; get it again")
    assert fitted("short", 5) == "short"
    assert len(brief("x" * 10_000)) <= 80


def test_the_reason_of_a_server_is_clean(tmp_path):
    said = STEERING.encode("latin-1", errors="ignore").replace(b"\r", b"")

    def refuse(request, body):
        request.wfile.write(b"HTTP/1.1 404 " + said + b"x" * 5000 + b"\r\n\r\n")
        request.close_connection = True

    with hosts.Host({}) as host:
        host.always = refuse
        notes: list[str] = []
        patience = Patience(connect_seconds=2, read_seconds=2, retries=0)
        with pytest.raises(UserError) as error:
            sources = Sources(tmp_path / "parts")
            fetch_archives([Archive("a.zip", (host.url("/a.zip"),))], tmp_path, sources, len, notes.append, patience)
    assert "answers 404" in str(error.value) and is_clean(str(error.value)) and len(str(error.value)) < 500


def test_names_of_members_and_classes_are_clean(tmp_path):
    odd = STEERING.replace("\0", "")
    members = {f"train/a{odd}/1.png": b"", "train/b/1.png": b"", f"train/x{odd}.png": b""}
    path = write_archive(tmp_path / "a.zip", members)
    with pytest.raises(UserError) as error:
        image_archive(path)
    assert is_clean(str(error.value)) and "lies in no class folder" in str(error.value)


@pytest.mark.parametrize("name", [STEERING, "$\\frac{1}$", "$", "a$b$c", "_^{}", "\\", "x" * 5000, ""])
@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.filterwarnings("ignore:constrained_layout")
def test_any_class_name_can_be_drawn(tmp_path, name):
    confusion_picture(tmp_path / "x.png", np.eye(2, dtype=int), [name, "other"], "digits")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_what_is_drawn_at_a_terminal_is_clean(capsys):
    terminal.draw([f"run {STEERING}"], [[STEERING]])
    terminal.tell(STEERING)
    assert is_clean(capsys.readouterr().out)


def test_predictions_are_told_clean(capsys):
    from headstart.commands.predict import told

    found = Predictions([f"{STEERING}.png"], np.zeros((1, 2)), np.array([[0.9, 0.1]]), [STEERING, "b"])
    for line in told(found):
        say(line)
    assert is_clean(capsys.readouterr().out)


def test_the_log_of_a_failed_cell_is_stored_clean(tmp_path):
    states = SweepState(tmp_path, "x")
    states.failed("cell", f"ERROR: {STEERING}\nfatal: https://u:pw@host/x")
    assert is_clean(states.get("cell").error) and "pw" not in states.get("cell").error


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")']


@pytest.mark.parametrize("text", FORMULAS)
def test_a_table_for_people_holds_no_formula(text):
    (head, row) = list(csv.reader(io.StringIO(writing.csv([text, "n"], [[text, -0.5]]), newline="")))
    assert head[0] == row[0] == f"'{text}"
    assert row[1] == "-0.5"


@pytest.mark.parametrize("text", ["-0.5", "+1e-3", "-inf", "a=b", "", "1-2", "C1"])
def test_numbers_and_plain_texts_stay_as_they_are(text):
    assert writing.csv(["x"], [[text]]).splitlines()[1].strip('"') == text


@pytest.mark.parametrize("text", FORMULAS)
def test_files_that_programs_read_hold_what_was_given(tmp_path, text):
    files.write_csv(tmp_path / "a.csv", [{"class": text}])
    assert files.read_csv(tmp_path / "a.csv", made_by="x") == [{"class": text}]
    files.write_json(tmp_path / "a.json", [text])
    assert json.loads((tmp_path / "a.json").read_text()) == [text]
