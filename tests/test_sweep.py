"""The sweep over hostile files: that it notices every fault, and that the reader has none on generated files."""

import json
import sys
import time

import hostile_files
import pytest
import sweep
from pictures import encode, random_pixels

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux has them")

FAULTY = "tests.misbehaving_reader:read"


@pytest.fixture(scope="module")
def noticed(tmp_path_factory):
    """What the sweep says of each deed of the misbehaving reader; each stands between good files."""
    folder = tmp_path_factory.mktemp("deeds")
    deeds = (
        "good",
        "no pair",
        "no array",
        "floats",
        "two dimensions",
        "transposed",
        "no findings",
        "too large",
        "refuse",
        "refuse badly",
        "raise",
        "run out",
        "take",
        "hang",
        "spin",
        "wait for a child",
        "crash",
        "kill",
        "exit",
        "print",
    )
    for number, deed in enumerate(deeds):
        (folder / f"{number:02}-{deed}").write_text(deed)
        (folder / f"{number:02}-then").write_text("good")
    outcomes = sweep.sweep(sweep.files_in([folder]), jobs=2, memory=256, seconds=0.5, reader=FAULTY)
    assert len(outcomes) == 2 * len(deeds)
    return {
        outcome.path.rpartition("/")[2][3:]: outcome for outcome in outcomes if not outcome.path.endswith("-then")
    }, [outcome for outcome in outcomes if outcome.path.endswith("-then")]


@pytest.mark.parametrize(
    ("deed", "kind", "detail"),
    [
        ("good", "decoded", "another way"),
        ("refuse", "refused", "CORRUPT"),
        ("no pair", "wrong result", "ndarray"),
        ("no array", "wrong result", "list"),
        ("floats", "wrong result", "float64"),
        ("two dimensions", "wrong result", "(4, 6)"),
        ("transposed", "wrong result", "contiguous"),
        ("no findings", "wrong result", "finding"),
        ("too large", "wrong result", "more than"),
        ("refuse badly", "bad error", "ImageError"),
        ("raise", "exception", "KeyError"),
        ("run out", "out of memory", "memory"),
        ("take", "exception", "MemoryError"),
        ("hang", "hang", "0.5 s"),
        ("spin", "hang", "0.5 s"),
        ("wait for a child", "hang", "0.5 s"),
        ("crash", "crash", "SIGSEGV"),
        ("kill", "crash", "SIGKILL"),
        ("exit", "crash", "exit code 3"),
    ],
)
def test_every_fault_is_noticed_and_pinned_to_its_file(noticed, deed, kind, detail):
    outcome = noticed[0][deed]
    assert outcome.kind == kind
    assert detail in outcome.detail
    assert outcome.expected == (kind in ("decoded", "refused"))


def test_the_sweep_goes_on_after_every_fault(noticed):
    assert {outcome.kind for outcome in noticed[1]} == {"decoded"}


def test_what_libraries_print_is_kept_and_disturbs_nothing(noticed):
    assert noticed[0]["print"].noise == "from C\n"
    assert noticed[0]["print"].kind == "decoded"
    assert noticed[0]["good"].noise == ""


def test_the_report_counts_everything_and_names_the_faults(noticed):
    said = sweep.report([*noticed[0].values(), *noticed[1]], listed=3)
    assert "decoded                                22" in said
    assert "refused                                 1" in said
    assert "anything else                          17" in said
    assert "and 14 more" in said
    assert "02-no array: wrong result" in said


def test_the_reader_has_no_fault_on_damaged_files(tmp_path, capsys):
    count = 0
    for name, content in hostile_files.damaged_files(each=4, seed=7):
        (tmp_path / name).write_bytes(content)
        count += 1
    out = tmp_path.parent / "outcomes.json"
    code = sweep.main([str(tmp_path), "--jobs", "2", "--json", str(out)])
    said = capsys.readouterr().out
    assert code == 0, said
    assert f"{count} files in" in said
    outcomes = json.loads(out.read_text())
    assert len(outcomes) == count
    assert {"decoded", "refused"} == {outcome["kind"] for outcome in outcomes}


def test_every_whole_file_is_decoded(tmp_path):
    for name, content in hostile_files.valid_files():
        (tmp_path / name).write_bytes(content)
    outcomes = sweep.sweep(sweep.files_in([tmp_path]), jobs=2)
    assert [outcome for outcome in outcomes if outcome.kind != "decoded"] == []
    # All formats that are read are tried.
    formats = {outcome.detail.split()[0] for outcome in outcomes}
    assert formats >= {"PNG", "JPEG", "MPO", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "ICO"}


def test_damaged_files_are_the_same_each_time():
    first = dict(hostile_files.damaged_files(each=2))
    assert first == dict(hostile_files.damaged_files(each=2))
    assert first != dict(hostile_files.damaged_files(each=2, seed=1))


def test_valid_files_do_not_hold_the_time_of_writing():
    first = dict(hostile_files.valid_files())
    time.sleep(1.1)  # whole seconds are written
    assert first == dict(hostile_files.valid_files())


def test_the_exit_code_tells_of_faults(tmp_path, capsys):
    (tmp_path / "a\n\udcff").write_text("raise")
    assert sweep.main([str(tmp_path), "--reader", FAULTY, "--jobs", "1"]) == 1
    assert "a\\n\\udcff: exception, KeyError" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as caught:
        sweep.main([str(tmp_path / "empty")])
    assert caught.value.code == 2


def test_all_files_are_found_and_no_link_leads_out(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "deep" / "er").mkdir(parents=True)
    outside.mkdir()
    content = encode(random_pixels())
    for path in (root / "a.png", root / "deep" / "er" / "no suffix", outside / "b.png"):
        path.write_bytes(content)
    (root / "link.png").symlink_to(outside / "b.png")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root)
    (root / "inside.png").symlink_to(root / "a.png")
    names = [path[len(str(root)) + 1 :] for path in sweep.files_in([root])]
    assert names == ["a.png", "inside.png", "deep/er/no suffix"]
