"""Every page of the documentation runs as it stands, prints what it says, and makes its pictures."""

from __future__ import annotations

import pytest

from tests.support import pages

pytestmark = pytest.mark.cpu_only("as a reader runs them")

PAGES = pages.pages()
IDS = [str(page.relative_to(pages.DOCS)) for page in PAGES]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_page_runs(page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert pages.run(page) == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_picture_is_there_and_said_in_words(page):
    for name, words in pages.pictures(page.read_text(encoding="utf-8")).items():
        assert (pages.PICTURES / name).is_file()
        assert len(words.split()) > 3


def test_numbers_may_differ_by_a_share_and_words_may_not():
    assert pages.same("mean 1.00\n", "mean 1.009\n", 0.01)
    assert not pages.same("mean 1.00", "mean 1.02", 0.01)
    assert not pages.same("mean 1.00", "means 1.00", 0.01)
    assert not pages.same("1.0 2.0", "1.0", 0.01)
