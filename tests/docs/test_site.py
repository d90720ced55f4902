"""The documentation as a reader has it: built, and opened in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.browser import Browser
from support.site import build, served

PAGES = {
    "index.html": "Terp",
    "quickstart.html": "Quickstart",
    "concepts/isolation.html": "Isolation",
    "guides/data-analysis.html": "Analyse data and plot it",
    "reference/python-api.html": "Python API",
    "reference/rest.html": "HTTP API",
    "reference/terp.html": "terp, the command line",
    "reference/mcp.html": "MCP",
    "operate/install.html": "Install",
    "architecture/index.html": "Architecture",
    "adr/0003-saved-states.html": "3. Saved states: base template, changed pages, encrypted layers",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    assert build(directory) == ""
    return directory


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_in_a_browser(address: str, browser: Browser, scheme: str) -> None:
    """With their titles, in the reader's colours, without a complaint, and without a request to anybody else."""
    colours = {"light": "default", "dark": "slate"}
    browser.forget(address)

    for page, title in PAGES.items():
        browser.open(f"{address}/{page}", scheme=scheme)
        heading = "document.querySelector('h1').firstChild.textContent.trim()"
        assert browser.evaluate(heading) == title, page
        assert browser.evaluate("document.body.getAttribute('data-md-color-scheme')") == colours[scheme]

    assert browser.complaints == []
    assert {urlsplit(url).netloc for url in browser.requests if not url.startswith(("data:", "blob:", "about:"))} == {
        urlsplit(address).netloc
    }


def test_the_search_finds(address: str, browser: Browser) -> None:
    """The index is loaded from here, and words of the references are in it."""
    browser.open(f"{address}/index.html")
    search = """
        new Promise(resolve => {
            const found = () => document.querySelector('.md-search-result__item a')
            const seen = new MutationObserver(() => found() && resolve(found().href))
            seen.observe(document.body, {subtree: true, childList: true})
            const input = document.querySelector('.md-search__input')
            input.focus()
            input.value = 'deletion receipts'
            input.dispatchEvent(new Event('input', {bubbles: true}))
            input.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true}))
        })"""

    assert browser.evaluate(search).startswith(address)
    assert browser.complaints == []


def test_no_page_asks_for_anything_elsewhere(site: Path) -> None:
    """Nor would one that was not opened: no script, style, font or image of another host is named."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert 'src="http' not in text, page
        assert '<link rel="stylesheet" href="http' not in text, page
        assert "fonts.googleapis" not in text, page
