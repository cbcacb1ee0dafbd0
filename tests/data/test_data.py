"""Data sets: their shapes, values and labels; where files are found; malformed files explained."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygen.data import Dataset, images, load, names, toys
from tinygen.random import Generator

pytestmark = pytest.mark.cpu_only("data sets are read on the CPU")

FILES = images.IDX_FILES


def assert_well_formed(data: Dataset) -> None:
    """What the class promises for every data set."""
    for rows, labels in ((data.x, data.y), (data.test, data.y_test)):
        assert rows.dtype == np.float32 and rows.ndim == 2 and rows.flags.c_contiguous
        assert len(rows) >= 1 and np.isfinite(rows).all()
        if labels is not None:
            assert labels.dtype == np.int64 and labels.shape == rows.shape[:1]
    assert data.x.shape[1] == data.test.shape[1]
    if data.image_shape is not None:
        assert data.x.shape[1] == data.image_shape[0] * data.image_shape[1]
        assert data.x.min() >= 0 and data.x.max() <= 1
        assert data.test.min() >= 0 and data.test.max() <= 1


# --- load and names ---


def test_names_lists_what_load_knows():
    assert names() == (
        "digits",
        "mnist",
        "fashion-mnist",
        "two-moons",
        "swiss-roll",
        "eight-gaussians",
        "checkerboard",
    )


@pytest.mark.parametrize(
    "wrong, right", [("digit", "digits"), ("fashion_mnist", "fashion-mnist"), ("MNIST", "mnist")]
)
def test_unknown_name_offers_the_nearest(wrong, right):
    with pytest.raises(ValueError, match=f"unknown data set '{wrong}'; did you mean '{right}'"):
        load(wrong)


def test_unknown_name_lists_all_and_the_file_types():
    with pytest.raises(ValueError) as error:
        load("xyzzy.txt")
    assert "did you mean" not in str(error.value)
    for word in (*names(), ".npy", ".npz", ".csv", ".csv.gz"):
        assert word in str(error.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_missing_file_is_named(suffix, tmp_path):
    path = tmp_path / f"absent{suffix}"
    with pytest.raises(FileNotFoundError, match=f"absent\\{suffix}"):
        load(path)


# --- the bundled digits ---


def test_digits_are_the_published_ones():
    data = load("digits")
    assert_well_formed(data)
    assert data.name == "digits" and data.image_shape == (8, 8)
    assert data.x.shape == (1498, 64) and data.test.shape == (299, 64)
    held = np.arange(1797) % 6 == 5
    rows, labels = np.empty((1797, 64), np.float32), np.empty(1797, np.int64)
    rows[~held], rows[held] = data.x, data.test
    labels[~held], labels[held] = data.y, data.y_test
    assert rows.min() == 0 and rows.max() == 1
    pixels = rows * 16
    assert np.array_equal(pixels, np.round(pixels))
    # Of the 1797 x 64 pixels and the labels, as bytes, in the order of the published file.
    assert (
        hashlib.sha256(pixels.astype(np.uint8).tobytes()).hexdigest()
        == "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    )
    assert (
        hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest()
        == "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0"
    )
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_ship_small_and_with_their_attribution():
    folder = resources.files("tinygen.data")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 36_000
    text = folder.joinpath("DIGITS.md").read_text(encoding="utf-8")
    for word in ("Alpaydin", "Kaynak", "1998", "UCI", "CC BY 4.0", "creativecommons.org"):
        assert word in text


# --- IDX files ---


def idx(values: np.ndarray) -> bytes:
    """The bytes of an IDX file, written here independently of the reader."""
    header = bytes([0, 0, 8, values.ndim])
    return header + b"".join(struct.pack(">I", n) for n in values.shape) + values.tobytes()


def small_set() -> dict[str, np.ndarray]:
    """A look-alike of MNIST: 5 training and 3 test images of 2x3 pixels."""
    rng = np.random.default_rng(0)
    arrays = ((5, 2, 3), (5,), (3, 2, 3), (3,))
    return {
        file: rng.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8)
        for file, shape in zip(FILES, arrays, strict=True)
    }


def write_set(folder: Path, zipped: bool = False) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = small_set()
    for file, values in arrays.items():
        content = idx(values)
        if zipped:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / file).write_bytes(content)
    return arrays


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """No data anywhere on this machine: an empty cache (returned), and no $TINYGEN_DATA."""
    monkeypatch.delenv("TINYGEN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tinygen"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("touched the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_become_scaled_rows(tmp_path, no_network, zipped):
    arrays = write_set(tmp_path, zipped)
    data = load("mnist", data_dir=tmp_path)
    assert_well_formed(data)
    assert data.name == "mnist" and data.image_shape == (2, 3)
    for rows, file in ((data.x, FILES[0]), (data.test, FILES[2])):
        expected = arrays[file].reshape(len(rows), 6).astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(data.y, arrays[FILES[1]])
    np.testing.assert_array_equal(data.y_test, arrays[FILES[3]])


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0)), st.booleans())
@settings(max_examples=50)
def test_idx_round_trip(tmp_path_factory, values, zipped):
    path = tmp_path_factory.mktemp("idx") / "values"
    path.write_bytes(gzip.compress(idx(values)) if zipped else idx(values))
    read = images.read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(4, 2, 3))  # 16 bytes of header, 24 of values
ZIPPED = gzip.compress(GOOD, mtime=0)  # without the time, which would be in the names of the tests


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not an IDX file"),
        (b"<html>not found</html>", "not an IDX file: it starts with the bytes '3c 68 74 6d'"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\1\0" + GOOD[2:], "not an IDX file"),
        (b"\0\0\x0d" + GOOD[3:], "type 0x0d is not supported"),
        (GOOD[:9], "truncated: 9 of "),
        (GOOD[:-1], "truncated: 39 of 40 bytes"),
        (GOOD + b"xy", "2 bytes too many: 42, not 40"),
        (ZIPPED[:-9], "truncated or corrupt gzip"),
        (ZIPPED[:12] + b"\xff\xff\xff" + ZIPPED[15:], "corrupt gzip"),
        (ZIPPED[:-8] + bytes(8), "corrupt gzip"),  # a wrong checksum
    ],
)
def test_malformed_idx_is_named_and_explained(tmp_path, content, message):
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken-idx: .*{message}"):
        images.read_idx(path)


@pytest.mark.parametrize(
    "file, values, message",
    [
        (FILES[1], np.zeros(4, np.uint8), f"{FILES[1]}: labels .*do not match the 5 images"),
        (FILES[3], np.zeros((3, 1), np.uint8), f"{FILES[3]}: labels of shape"),
        (FILES[0], np.zeros(5, np.uint8), f"{FILES[0]}: expected images"),
        (FILES[0], np.zeros((0, 2, 3), np.uint8), f"{FILES[0]}: expected images"),
        (FILES[2], np.zeros((3, 4, 4), np.uint8), f"{FILES[2]}: its images are 4x4.*are 2x3"),
    ],
)
def test_idx_files_that_do_not_fit_together(tmp_path, file, values, message):
    write_set(tmp_path)
    (tmp_path / file).write_bytes(idx(values))
    with pytest.raises(ValueError, match=message):
        load("mnist", data_dir=tmp_path)


def test_the_files_of_another_set_are_known_by_their_digest(tmp_path, monkeypatch):
    arrays = write_set(tmp_path)
    digests = tuple(hashlib.sha256(idx(values)).hexdigest() for values in arrays.values())
    monkeypatch.setitem(images.SHA256, "fashion-mnist", digests)
    with pytest.raises(ValueError, match=f"{tmp_path} holds fashion-mnist, by its SHA-256"):
        load("mnist", data_dir=tmp_path)
    assert_well_formed(load("fashion-mnist", data_dir=tmp_path))


# --- where the files are looked for ---


def first_pixels(data: Dataset) -> list[float]:
    return data.x[0].tolist()


def write_marked_set(folder: Path, mark: int) -> None:
    """A set whose first image has the value `mark` everywhere, to tell folders apart."""
    arrays = write_set(folder)
    arrays[FILES[0]][0] = mark
    (folder / FILES[0]).write_bytes(idx(arrays[FILES[0]]))


def test_search_order(tmp_path, no_data, no_network, monkeypatch):
    """From the last place to the first: each one found goes before those found so far."""
    given_dir, env_dir = tmp_path / "given", tmp_path / "env"
    monkeypatch.setenv("TINYGEN_DATA", str(env_dir))
    places = [no_data, no_data / "mnist", env_dir, env_dir / "mnist", given_dir]
    for mark, folder in enumerate(places, start=1):
        write_marked_set(folder, 51 * mark)
        data = load("mnist", data_dir=given_dir if folder == given_dir else None)
        assert first_pixels(data) == [np.float32(51 * mark) / np.float32(255)] * 6


def test_an_incomplete_folder_is_passed_over(no_data, no_network):
    write_marked_set(no_data, 51)
    write_marked_set(no_data / "mnist", 102)
    (no_data / "mnist" / FILES[3]).unlink()
    assert first_pixels(load("mnist")) == pytest.approx([0.2] * 6)


def test_a_given_folder_is_not_replaced_by_another(tmp_path, no_data, no_network, monkeypatch):
    write_set(no_data)
    write_set(tmp_path / "env")
    monkeypatch.setenv("TINYGEN_DATA", str(tmp_path / "env"))
    with pytest.raises(FileNotFoundError):
        load("mnist", data_dir=tmp_path / "given")


def test_cache_without_xdg(tmp_path, no_data, no_network, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_set(tmp_path / ".cache" / "tinygen" / "fashion-mnist")
    assert load("fashion-mnist").x.shape == (5, 6)


def test_not_found_names_the_folders_and_the_ways_out(tmp_path, no_data, no_network, monkeypatch):
    monkeypatch.setenv("TINYGEN_DATA", str(tmp_path / "env"))
    with pytest.raises(FileNotFoundError) as error:
        load("fashion-mnist")
    for root in (tmp_path / "env", no_data):
        assert f"{root}," in str(error.value) or f"{root}." in str(error.value)
        assert str(root / "fashion-mnist") in str(error.value)
    for word in (*FILES, "data_dir=", "TINYGEN_DATA", "download=True"):
        assert word in str(error.value)


# --- download ---


@pytest.fixture
def server(monkeypatch):
    """A stand-in for the network: what it serves, by URL, with the digests to match."""
    contents = {}
    for file, values in small_set().items():
        contents[images.SOURCES["mnist"] + file + ".gz"] = gzip.compress(idx(values))
    asked = []

    def urlopen(url, timeout):
        assert timeout > 0
        asked.append(url)
        content = contents[url]
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    digests = tuple(hashlib.sha256(idx(values)).hexdigest() for values in small_set().values())
    monkeypatch.setitem(images.SHA256, "mnist", digests)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return contents, asked


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_download_fills_the_cache_once(no_data, server):
    contents, asked = server
    data = load("mnist", download=True)
    np.testing.assert_array_equal(data.y, small_set()[FILES[1]])
    assert sorted(asked) == sorted(contents)
    assert files_in(no_data / "mnist") == sorted(f"{file}.gz" for file in FILES)
    load("mnist")
    load("mnist", download=True)
    assert len(asked) == 4


def test_download_fetches_only_what_the_cache_lacks(tmp_path, no_data, server):
    _, asked = server
    write_set(no_data / "mnist")
    (no_data / "mnist" / FILES[2]).unlink()
    data = load("mnist", data_dir=tmp_path / "empty", download=True)
    assert_well_formed(data)
    assert asked == [images.SOURCES["mnist"] + FILES[2] + ".gz"]


def test_download_with_a_wrong_digest_leaves_nothing(no_data, server):
    contents, _ = server
    url = images.SOURCES["mnist"] + FILES[0] + ".gz"
    tampered = idx(small_set()[FILES[0]] ^ 1)
    contents[url] = gzip.compress(tampered)
    with pytest.raises(ValueError) as error:
        load("mnist", download=True)
    expected = images.SHA256["mnist"][0]
    for word in (FILES[0], expected, hashlib.sha256(tampered).hexdigest()):
        assert word in str(error.value)
    assert not no_data.exists()


def test_download_cut_short_leaves_nothing(no_data, server):
    contents, _ = server
    url = images.SOURCES["mnist"] + FILES[0] + ".gz"
    contents[url] = contents[url][:-9]
    with pytest.raises(ValueError, match=f"{FILES[0]}.gz: truncated or corrupt gzip"):
        load("mnist", download=True)
    assert not no_data.exists()


def test_failed_write_leaves_nothing(no_data, server, monkeypatch):
    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        load("mnist", download=True)
    assert files_in(no_data / "mnist") == []


def test_failed_download_names_the_url_and_the_way_out(no_data, server):
    contents, _ = server
    url = images.SOURCES["mnist"] + FILES[0] + ".gz"
    contents[url] = urllib.error.URLError("no route")
    with pytest.raises(ConnectionError, match=f"{FILES[0]}.gz.*no route.*data_dir="):
        load("mnist", download=True)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_published_files(name):
    root = os.environ.get("TINYGEN_DATA")
    if not root or not any(Path(root, name).glob("train-images-*")):
        pytest.skip(f"needs $TINYGEN_DATA with the folder {name}")
    data = load(name, data_dir=root)
    assert_well_formed(data)
    assert data.x.shape == (60_000, 784) and data.test.shape == (10_000, 784)
    assert data.image_shape == (28, 28)
    for file, digest in zip(FILES, images.SHA256[name], strict=True):
        path = Path(root, name, file)
        plain = path.exists()
        content = path.read_bytes() if plain else gzip.decompress(Path(f"{path}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == digest


# --- the user's files ---


def split(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The training and the held-out rows, by the definition."""
    held = [i for i in range(len(rows)) if i % 6 == 5] if len(rows) >= 6 else [len(rows) - 1]
    return np.delete(rows, held, axis=0), rows[held]


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8, bool]),
        hnp.array_shapes(min_dims=1, max_dims=2, min_side=2, max_side=20),
        elements={"allow_nan": False, "allow_infinity": False, "min_value": 0, "max_value": 100},
    )
)
@settings(max_examples=50)
def test_npy_round_trip(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("npy") / "values.npy"
    np.save(path, values)
    data = load(path)
    assert_well_formed(data)
    assert data.name == str(path) and data.y is None and data.image_shape is None
    for rows, expected in zip(
        (data.x, data.test), split(values.reshape(len(values), -1)), strict=True
    ):
        np.testing.assert_array_equal(rows, expected.astype(np.float32))


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    st.booleans(),
)
@settings(max_examples=50)
def test_csv_round_trip(tmp_path_factory, values, header):
    path = tmp_path_factory.mktemp("csv") / "values.csv"
    lines = [",".join(repr(float(cell)) for cell in row) for row in values]
    if header:
        lines.insert(0, ",".join(f"column {j}" for j in range(values.shape[1])))
    path.write_text("\n".join(lines))
    data = load(path)
    assert_well_formed(data)
    for rows, expected in zip((data.x, data.test), split(values), strict=True):
        np.testing.assert_array_equal(rows, expected)


def test_csv_of_a_spreadsheet(tmp_path):
    """A byte order mark, Windows line ends, spaces and blank lines are no obstacles."""
    path = tmp_path / "Sheet.CSV"
    path.write_bytes(b"\xef\xbb\xbf1, 2\r\n\r\n 3 ,4e0\r\n")
    data = load(path)
    assert data.x.tolist() == [[1, 2]] and data.test.tolist() == [[3, 4]]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"1,2\n3,x4\n", "line 2, column 2: 'x4' is not a number"),
        (b"a,b\n\n1,2\n,4\n", "line 4, column 1: '' is not a number"),
        (b"1,b\n3,4\n", "line 1, column 2: 'b' is not a number"),  # no header: it has a number
        (b"a,b\nc,d\n1,2\n", "line 2, column 1: 'c' is not a number"),  # a second header
        (b"1,b\n1990,4\n", "line 1, column 2: 'b' is not a number"),  # one year is no header
        (b"x y\nz w\n", "holds no numbers between delimiters ','; delimiter="),
        (b'1,"2\n3,4\n', "line 2: unexpected end of data"),
        (b'1,"2"3\n', "line 1: ',' expected after"),
        (b"1," + b"2" * 200_000, "field larger than field limit"),
        (b"1,2\n3\xff,4\n", "line 2, column 1: .* is not a number"),
        (b"1,2\n3,4,5\n", "line 2: 3 cells, but 2"),
        (b"", "holds no numbers"),
        (b"a,b\n", "holds no numbers"),
        (b"a,b\n1,2\n", "single row"),
        (b"1,2\n3,nan\ninf,4\n", r"2 values are NaN or infinite, the first at index \[1, 1\]"),
        (b"1,2\n3,1e39\n", "beyond the range of float32"),
    ],
)
def test_malformed_csv_is_named_and_explained(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad.csv.*{message}"):
        load(path)


def read(tmp_path, text, caplog, **options):
    """All rows of a .csv file, its labels, and what the reader said that it had guessed."""
    path = tmp_path / "table.csv"
    path.write_text(text)
    data = load(path, **options)
    assert_well_formed(data)
    order = np.argsort(np.concatenate(split(np.arange(len(data.x) + len(data.test)))))
    labels = None if data.y is None else np.concatenate([data.y, data.y_test])[order].tolist()
    said = caplog.text.partition("table.csv: ")[2].partition("; delimiter=")[0]
    return np.concatenate([data.x, data.test])[order].tolist(), labels, said


@pytest.mark.parametrize(
    ("text", "rows", "guesses"),
    [
        ('"1","2"\n"3","4"\n', [[1, 2], [3, 4]], ""),
        ('"a, of b",c\n1,2\n3,4\n', [[1, 2], [3, 4]], ""),
        ("a;b\n1;2\n3;4\n", [[1, 2], [3, 4]], "delimiter ';'"),
        ('"a,b";c\n1;2\n3;4\n', [[1, 2], [3, 4]], "delimiter ';'"),
        ("1\t2\n3\t4\n", [[1, 2], [3, 4]], r"delimiter '\t'"),
        ("a b\n1\n2\n", [[1], [2]], ""),
        ("name,a\nx,1\ny,2\n", [[1], [2]], "without the text of 'name'"),
        ("x,1,,5\ny,2,,6\n", [[1, 5], [2, 6]], "without the text of 1, 3"),
        # What pandas and R write: the first column only counts.
        (",a,b\n0,5,6\n1,7,8\n2,9,0\n", [[5, 6], [7, 8], [9, 0]], "without 1, which counts the rows"),
        ('"","a"\n"1",5\n"2",7\n"3",9\n', [[5], [7], [9]], "without 1, which counts the rows"),
        ("id,a\n1,5\n2,7\n4,9\n", [[1, 5], [2, 7], [4, 9]], ""),
        ("1\n2\n3\n", [[1], [2], [3]], ""),
        ("1990,1991,1992\n5,6,7\n8,9,0\n", [[5, 6, 7], [8, 9, 0]], "a header of years"),
        (
            "country,1990,2000\nFR,5,6\nDE,8,9\n", [[5, 6], [8, 9]],
            "a header of years, without the text of 'country'",
        ),
        ("1990,1991\n1991,1992\n", [[1990, 1991], [1991, 1992]], ""),
        ("1990,5\n1991,6\n", [[1990, 5], [1991, 6]], ""),
    ],
)  # fmt: skip
def test_a_csv_is_read_as_it_was_meant_and_guesses_are_said(tmp_path, caplog, text, rows, guesses):
    assert read(tmp_path, text, caplog) == (rows, None, guesses)
    assert len(caplog.messages) == (guesses != "")


TABLE = "id;kind;a;b\n1;oak;5;7\n2;elm;6;8\n3;oak;9;0\n"


@pytest.mark.parametrize(
    ("options", "rows", "labels", "guesses"),
    [
        ({"delimiter": ";", "columns": ["b", "a"]}, [[7, 5], [8, 6], [0, 9]], None, ""),
        ({"delimiter": ";", "columns": [3, "4"]}, [[5, 7], [6, 8], [9, 0]], None, ""),
        (
            {"delimiter": ";", "columns": ["a"], "label_column": "kind"},
            [[5], [6], [9]], [1, 0, 1], "labels 0 for 'elm', 1 for 'oak'",
        ),
        ({"delimiter": ";", "columns": ["a"], "label_column": "id"}, [[5], [6], [9]], [1, 2, 3], ""),
        (
            {"label_column": "b"}, [[5], [6], [9]], [7, 8, 0],
            "delimiter ';', without the text of 'kind', without 'id', which counts the rows",
        ),
    ],
)  # fmt: skip
def test_columns_and_labels_of_a_csv_may_be_named(tmp_path, caplog, options, rows, labels, guesses):
    assert read(tmp_path, TABLE, caplog, **options) == (rows, labels, guesses)


def test_cells_between_spaces(tmp_path, caplog):
    """As np.savetxt writes them unless told otherwise."""
    rows, _, said = read(tmp_path, "1.0  2.0\n 3.0 4.0\n", caplog, delimiter=" ")
    assert rows == [[1, 2], [3, 4]] and said == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["kin"]}, "unknown column of .*table.csv: 'kin'; did you mean 'kind'"),
        ({"columns": [5]}, "unknown column of .*table.csv: 5"),
        ({"columns": ["a", "kind"]}, "line 2, column 2: 'oak' is not a number"),
        ({"label_column": "0"}, "unknown column"),
        ({"delimiter": ";;"}, "one sign, such as ; .*not ';;'"),
        ({"delimiter": ""}, "one sign"),
        ({"delimiter": "\n"}, "one sign"),
        ({"delimiter": "|"}, "holds no numbers between delimiters '|'"),
    ],
)
def test_wrong_options_of_a_csv_are_explained(tmp_path, caplog, options, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, TABLE, caplog, **options)


def test_options_of_a_csv_are_refused_for_other_data(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 2)))
    for name in ("digits", str(tmp_path / "x.npy")):
        with pytest.raises(ValueError, match=r"delimiter= is for a \.csv file only"):
            load(name, delimiter=";")


def test_a_csv_may_be_compressed(tmp_path):
    text = b"a,b\n" + b"1.5,2\n3,4\n" * 500
    packed = gzip.compress(text, mtime=0)
    for name in ("x.csv.gz", "X.CSV"):
        (tmp_path / name).write_bytes(packed)
        data = load(tmp_path / name)
        assert_well_formed(data)
        assert data.x[:2].tolist() == [[1.5, 2], [3, 4]] and len(data.x) + len(data.test) == 1000
    for bad in (packed[:-9], packed[:-8] + bytes(8), packed[:15] + b"\xff\xff" + packed[17:]):
        (tmp_path / "bad.csv.gz").write_bytes(bad)
        with pytest.raises(
            ValueError, match=r"bad\.csv\.gz.*(truncated or corrupt gzip|not a number)"
        ):
            load(tmp_path / "bad.csv.gz")


def test_a_csv_that_is_refused_says_nothing_else(tmp_path, caplog):
    (tmp_path / "x.csv").write_text("1;2\n3;4e50\n")
    with pytest.raises(ValueError, match="beyond the range"):
        load(tmp_path / "x.csv")
    assert not caplog.messages


def damaged(kind, content, rng):
    """A file with a few bytes changed, cut, doubled or moved."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        i, j = sorted(rng.integers(0, len(content), 2))
        action = rng.integers(0, 4)
        if action == 0:
            content[i] = rng.integers(0, 256)
        elif action == 1:
            del content[i : min(j, i + 40)]
        elif action == 2:
            content[i:i] = content[i : min(j, i + 40)]
        else:
            content[i] ^= 1 << rng.integers(0, 8)
    return bytes(content)


def originals():
    """The bytes of a sound file of every kind, by its name."""
    rows = np.random.default_rng(0).normal(size=(20, 3)).round(3)
    files = {"x.csv": "\n".join(['"a";b;c', *(";".join(map(str, r)) for r in rows)]).encode()}
    files["x.csv.gz"] = gzip.compress(files["x.csv"], mtime=0)
    for name, write in (
        ("x.npy", lambda f: np.save(f, rows)),
        ("x.npz", lambda f: np.savez(f, x=rows, y=np.arange(20))),
        ("z.npz", lambda f: np.savez_compressed(f, x=rows)),
    ):
        write(file := io.BytesIO())
        files[name] = file.getvalue()
    return files


@pytest.mark.parametrize("kind", originals())
@pytest.mark.filterwarnings("error")
def test_a_damaged_file_is_read_or_refused_with_its_name(tmp_path, kind, caplog):
    rng, content = np.random.default_rng(1), originals()[kind]
    for _ in range(300):
        (tmp_path / kind).write_bytes(damaged(kind, content, rng))
        try:
            assert_well_formed(load(tmp_path / kind))
        except ValueError as error:
            assert kind in str(error)


def patched(content, mark, offset, byte):
    """The content with one byte changed after a mark."""
    i = content.index(mark) + offset
    return content[:i] + bytes([byte]) + content[i + 1 :]


@pytest.mark.parametrize(
    "name, content",
    [
        ("x.npy", patched(originals()["x.npy"], b"(20, 3)", 6, ord("["))),  # TokenError
        ("x.npz", patched(originals()["x.npz"], b"PK\1\2", 10, 99)),  # a method that nobody has
        ("x.npz", patched(originals()["x.npz"], b"PK\1\2", 8, 1)),  # encrypted
    ],
    ids=["bracket", "method", "encrypted"],
)
def test_whatever_a_parser_raises_is_told_with_the_name_of_the_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: not a file of plain numbers"):
        load(tmp_path / name)


def test_what_is_not_asked_for_is_not_read(tmp_path):
    """An array beside the rows may be damaged, or large."""
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 2)), z=np.array([{}], object))
    assert load(tmp_path / "x.npz").x.shape == (3, 2)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros((0, 3)), "holds no numbers"),
        (np.zeros((3, 0)), "holds no numbers"),
        (np.zeros((1, 3)), "single row"),
        (np.array(1.0), "needs shape"),
        (np.zeros((2, 2, 2, 2)), r"needs shape .*not \(2, 2, 2, 2\)"),
        (np.array([["a", "b"]]), "needs integers or floats, but holds <U1"),
        (np.zeros((2, 2), complex), "holds complex128"),
        (np.zeros(3, "M8[s]"), "holds datetime64"),
        (np.zeros(3, [("a", "f4")]), "needs integers or floats"),
        (np.array([[1, 2], [3, np.nan], [-np.inf, 4]]), r"2 values .*first at index \[1, 1\]"),
        (np.array([1.0, 1e300]), "beyond the range of float32"),
        (np.full((2, 2, 2), 1.5), r"lie in \[0, 1\], but are float64 in \[1.5, 1.5\]"),
        (np.full((2, 2, 2), -1), r"lie in \[0, 1\], but are int64 in \[-1, -1\]"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_unfit_arrays_are_named_and_explained(tmp_path, values, message):
    path = tmp_path / "bad.npy"
    np.save(path, values)
    with pytest.raises(ValueError, match=f"bad.npy: .*{message}"):
        load(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("content", [b"", b"no array at all", b"PK\x03\x04 cut", b"\x93NUMPY\x01"])
def test_unreadable_array_files_are_named(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"bad\\{suffix}: not a file of plain numbers.*np.save"):
        load(path)


def test_pickles_are_never_loaded(tmp_path):
    objects = np.array([{}, {}], dtype=object)
    np.save(tmp_path / "bad.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "bad.npz", x=objects)
    for suffix in (".npy", ".npz"):
        with pytest.raises(ValueError, match=f"bad\\{suffix}: .*allow_pickle=False"):
            load(tmp_path / f"bad{suffix}")


ROWS = np.arange(26.0).reshape(13, 2)


@pytest.mark.parametrize("arrays", [{"x": ROWS}, {"any": ROWS}, {"any": -ROWS, "x": ROWS}])
def test_npz_with_labels(tmp_path, arrays):
    """The rows are `x`, or else the only array beside the labels."""
    np.savez(tmp_path / "set.npz", y=np.arange(13, dtype=np.uint8), **arrays)
    data = load(tmp_path / "set.npz")
    assert_well_formed(data)
    assert data.test.tolist() == [[10, 11], [22, 23]]
    assert data.y is not None and data.y_test is not None
    assert data.y.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 12]
    assert data.y_test.tolist() == [5, 11]


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"a": np.zeros(3), "b": np.zeros(3)}, r"no array 'x' among its arrays \['a', 'b'\]"),
        ({"y": np.zeros(3)}, r"no array 'x' among its arrays \[\]"),
        ({"x": np.zeros(3), "y": np.zeros(2, int)}, r"3 integers.*but are int64 of shape \(2,\)"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, "3 integers.*but are float64"),
    ],
)
def test_malformed_npz_is_named_and_explained(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=f"bad.npz: .*{message}"):
        load(tmp_path / "bad.npz")


def test_image_files_keep_their_shape_and_lie_in_the_unit_interval(tmp_path):
    pixels = np.arange(7 * 6, dtype=np.uint8).reshape(7, 2, 3) * 6
    np.save(tmp_path / "bytes.npy", pixels)
    np.save(tmp_path / "floats.npy", pixels / 255)
    for file in ("bytes.npy", "floats.npy"):
        data = load(tmp_path / file)
        assert_well_formed(data)
        assert data.image_shape == (2, 3)
        np.testing.assert_allclose(data.test, pixels[5:6].reshape(1, 6) / 255, rtol=1e-7)


@pytest.mark.parametrize("shape", [(13, 4), (13, 2, 3), (13, 1, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_fortran_order_makes_no_difference(tmp_path, shape, dtype):
    values = (np.arange(np.prod(shape)) % 2).astype(dtype).reshape(shape)
    np.save(tmp_path / "c.npy", values)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(values))
    data, fortran = load(tmp_path / "c.npy"), load(tmp_path / "fortran.npy")
    assert_well_formed(fortran)
    np.testing.assert_array_equal(fortran.x, data.x)
    np.testing.assert_array_equal(fortran.test, data.test)


# --- synthetic sets ---


@pytest.mark.parametrize("name", toys.TOYS)
def test_toys_are_centred_and_of_unit_scale(name):
    data = load(name, n=4000)
    assert_well_formed(data)
    assert data.name == name and data.image_shape is None
    assert data.x.shape == (4000, 2) and data.test.shape == (800, 2)
    assert np.abs(data.x.mean(axis=0)).max() < 0.4
    assert data.x.std(axis=0).min() > 0.4 and data.x.std(axis=0).max() < 1.6


@pytest.mark.parametrize("name", toys.TOYS)
def test_toys_are_determined_by_their_seed(name):
    data, again, other = (load(name, n=50, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(data.x, again.x)
    np.testing.assert_array_equal(data.test, again.test)
    assert not np.isclose(data.x, other.x).any(axis=1).all()
    assert not (data.x[:10] == data.test).any()


@pytest.mark.parametrize("name", toys.TOYS)
def test_toys_of_few_rows(name):
    data = load(name, n=2)
    assert len(data.x) == 2 and len(data.test) == 1
    with pytest.raises(ValueError, match=f"'{name}' needs n >= 2 .*n = 1"):
        load(name, n=1)


def test_two_moons_lie_on_their_arcs():
    points, moon = toys.two_moons(4000, Generator(0))
    # Around its own centre each moon has radius 1, and covers the upper or the lower half.
    sign = 1 - 2 * moon[:, None]
    arc = sign * points + [0.5, 0.25]
    distance = np.hypot(*arc.T) - 1
    # The noise adds .1**2 / 2 to the mean radius and has, radially, standard deviation .1.
    assert abs(distance.mean() - 0.005) < 4 * 0.1 / np.sqrt(4000)
    assert abs(distance.std() - 0.1) < 0.01
    assert arc[:, 1].min() > -0.5
    assert abs(moon.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    # The angle is uniform on [0, pi]: the mean height is 2/pi, and the mean of cos is 0.
    assert abs(arc[:, 1].mean() - 2 / np.pi) < 4 * 0.5 / np.sqrt(4000)
    assert abs(arc[:, 0].mean()) < 4 * 0.75 / np.sqrt(4000)


def test_swiss_roll_radius_grows_by_one_each_turn():
    points, labels = toys.swiss_roll(4000, Generator(0))
    assert labels is None
    radius = np.hypot(*points.T)
    turns = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi)
    # radius = turns up to whole turns, and up to the noise of .05.
    residual = radius - turns - np.round(radius - turns)
    assert abs(residual.mean()) < 4 * 0.055 / np.sqrt(4000)
    assert 0.045 < residual.std() < 0.06
    # The angle is uniform from 3/4 to 9/4 turns.
    assert 0.5 < radius.min() < 0.75 and 2.25 < radius.max() < 2.5
    assert abs(radius.mean() - 1.5) < 4 * 1.5 / np.sqrt(12 * 4000)


def test_eight_gaussians_sit_on_the_circle():
    points, labels = toys.eight_gaussians(8000, Generator(0))
    counts = np.bincount(labels, minlength=8)
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(8000 * 1 / 8 * 7 / 8)
    for k, count in enumerate(counts):
        cluster = points[labels == k]
        angle = 2 * np.pi * k / 8
        centre = [2 * np.cos(angle), 2 * np.sin(angle)]
        assert np.abs(cluster.mean(axis=0) - centre).max() < 4 * 0.1 / np.sqrt(count)
        assert np.abs(cluster.std(axis=0) - 0.1).max() < 0.01


def test_checkerboard_leaves_the_light_cells_empty():
    points, labels = toys.checkerboard(8000, Generator(0))
    column, row = np.floor(points + 2).astype(int).T
    assert column.min() == 0 and column.max() == 3 and row.min() == 0 and row.max() == 3
    assert ((column + row) % 2 == 0).all()
    np.testing.assert_array_equal(labels, 2 * column + row // 2)
    counts = np.bincount(labels, minlength=8)
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(8000 * 1 / 8 * 7 / 8)
    # Uniform in each cell: mean 1/2 and variance 1/12 both ways.
    within = points + 2 - np.stack([column, row], axis=1)
    assert np.abs(within.mean(axis=0) - 0.5).max() < 4 / np.sqrt(12 * 8000)
    assert np.abs(within.var(axis=0) - 1 / 12).max() < 0.005


def test_toys_draw_from_a_stream_of_their_own():
    """The same seed elsewhere, say for a model's weights, gives other numbers."""
    data = load("two-moons", n=50, seed=7)
    points, _ = toys.TOYS["two-moons"](60, Generator(7).child("data"))
    np.testing.assert_array_equal(np.concatenate([data.x, data.test]), points.astype(np.float32))
