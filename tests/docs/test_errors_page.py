"""docs/errors.md is what the exception tree says today, and every error says what mends it."""

from __future__ import annotations

from agent.errors import SLIPWAY_ERRORS
from docs.errors_page import PAGE, load, meaning, render, tree


def test_every_error_says_what_is_wrong_and_what_mends_it() -> None:
    load()
    silent = [error.__name__ for root in SLIPWAY_ERRORS for error, _ in tree(root) if not all(meaning(error))]
    assert not silent, f"no `Mend:` in the docstring of {silent}"


def test_the_page_shows_the_tree_of_today() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "docs/errors.md is stale: python -m docs.errors_page"
