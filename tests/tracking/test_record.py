"""Records that wait in files."""

from headstart.tracking.record import Record, leaves, saved, texts


def test_records_wait_in_the_order_of_their_start(tmp_path):
    record = Record("train", "digits", {"tag": "x"}, started=200, ended=300, status="FINISHED")
    record.metrics.append(("loss", float("inf"), 250, 1))
    record.inputs.append({"name": "digits"})
    earlier = Record("prepare", "digits", {}, started=100)
    record.save(tmp_path / "new")
    earlier.save(tmp_path / "new")
    assert [(path.name, vars(found)) for path, found in saved(tmp_path / "new")] == [
        ("100-prepare-digits.json", vars(earlier)),
        ("200-train-digits.json", {**vars(record), "metrics": [["loss", float("inf"), 250, 1]]}),
    ]
    assert saved(tmp_path / "absent") == []


def test_nested_values_get_dotted_names():
    tree = {"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None, "f": "1", "g": True, "h": 1e-05}
    assert dict(leaves(tree)) == {"a.b.c": 1, "a.d": [1, 2], "e": None, "f": "1", "g": True, "h": 1e-05}
    assert texts(tree) == {"a.b.c": "1", "a.d": "[1, 2]", "e": "null", "f": "1", "g": "true", "h": "1e-05"}
