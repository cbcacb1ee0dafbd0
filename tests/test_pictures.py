"""The samples that a run keeps while it goes on, and their pictures."""

from __future__ import annotations

import numpy as np
import pytest

from tinygen import checkpoint, pictures
from tinygen.pictures import MOMENTS, Snapshots, moments

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.cpu_only("pictures are of NumPy arrays")

DATA = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


def drawn(n):
    return np.random.default_rng(1).random((n, 6)).astype(np.float32)


def kept(folder):
    return {int(k): v for k, v in checkpoint.read(folder / "progress.npz")[1].items()}


def test_moments_are_few_from_the_first_to_the_last_and_closer_together_at_the_start():
    for steps in (200, 6000, 10**6):
        found = moments(steps)
        assert (found[0], found[-1], len(found)) == (0, steps, MOMENTS)
        gaps = np.diff(found)
        assert (np.diff(gaps) > 0).all()
    assert moments(0) == [0] and moments(2) == [0, 1, 2]


@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_every_moment_is_a_picture_of_the_strip_and_of_the_animation(shape, tmp_path):
    snapshots = Snapshots(tmp_path, drawn, DATA, shape)
    for step in range(8):
        snapshots(step)
        assert list(kept(tmp_path)) == [*range(step + 1)]
    snapshots.animate()
    with (
        Image.open(tmp_path / "training.gif") as film,
        Image.open(tmp_path / "progress.png") as sheet,
    ):
        assert film.n_frames == 8
        assert sheet.size == (6 * (film.width + 12), 2 * (film.height + 12))
        last = sheet.crop(
            (18 + film.width, 18 + film.height, 18 + 2 * film.width, 18 + 2 * film.height)
        )
        film.seek(7)
        difference = np.abs(np.asarray(film.convert("RGB"), int) - np.asarray(last, int))
        assert difference.max() <= 16  # of 32 colours


def test_an_image_of_a_moment_has_the_grey_levels_of_its_sample(tmp_path):
    grey = np.linspace(0, 1, 25 * 6).reshape(25, 6)
    Snapshots(tmp_path, lambda n: grey, DATA, (3, 2))(0)
    with Image.open(tmp_path / "progress.png") as sheet:
        found = set(np.unique(np.asarray(sheet)[6 + pictures.CAPTION :]))
    assert {*np.uint8(255 * (1 - grey)).ravel()} <= found


def test_points_are_drawn_where_they_are(tmp_path):
    """A lone sample in the upper right corner of the data, others outside or not finite."""
    corner = DATA.max(0)
    points = np.array([corner, [1e9, 0], [np.nan, 0], [0, -np.inf]], np.float32)
    Snapshots(tmp_path, lambda n: points, DATA, None)(0)
    with Image.open(tmp_path / "progress.png") as sheet:
        pixels = np.asarray(sheet, int)[6 + pictures.CAPTION : -6, 6:-6]
    rows, columns = np.nonzero(pixels[..., 2] - pixels[..., 0] > 40)  # what is blue
    size = (DATA.max(0) - DATA.min(0)).max()
    middle = (DATA.max(0) + DATA.min(0)) / 2
    place = (corner - middle) * (1, -1) / (1.3 * size) + 0.5
    np.testing.assert_allclose([columns.mean(), rows.mean()], place * pictures.SIDE, atol=1.5)
    assert np.ptp(rows) < 6  # one dot


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_rows_of_any_number_of_columns_that_are_no_images(columns, tmp_path):
    data = np.ones((9, columns), np.float32)  # all alike: the frame has a size all the same
    snapshots = Snapshots(tmp_path, lambda n: data, data, None)
    snapshots(0)
    snapshots.animate()
    assert (tmp_path / "training.gif").read_bytes().startswith(b"GIF89a")


def test_samples_that_are_not_finite_and_large_images_are_drawn_too(tmp_path):
    samples = np.full((25, 120 * 90), np.nan, np.float32)
    samples[:, ::3] = np.inf
    Snapshots(tmp_path, lambda n: samples, samples, (120, 90))(0)
    with Image.open(tmp_path / "progress.png") as sheet:
        assert max(sheet.size) < 2 * pictures.SIDE


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path):
    first = Snapshots(tmp_path, drawn, DATA, (3, 2))
    for step in (0, 5, 9):
        first(step)
    again = Snapshots(tmp_path, lambda n: 1 - drawn(n), DATA, (3, 2), resumed=5)
    again(7)
    found = kept(tmp_path)
    assert list(found) == [0, 5, 7]
    np.testing.assert_array_equal(found[5], drawn(25))
    np.testing.assert_array_equal(found[7], 1 - drawn(25))
    again.animate()
    with Image.open(tmp_path / "training.gif") as film:
        assert film.n_frames == 3


@pytest.mark.parametrize("content", [None, b"PK half of it"])
def test_without_the_samples_of_before_the_pictures_begin_where_the_run_goes_on(content, tmp_path):
    if content:
        (tmp_path / "progress.npz").write_bytes(content)
    Snapshots(tmp_path, drawn, DATA, (3, 2), resumed=5)(6)
    assert list(kept(tmp_path)) == [6]
