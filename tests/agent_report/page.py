"""The report as a reader of HTML sees it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input", "source"}


class Page(HTMLParser):
    """Elements with their attributes and text, in document order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[int, ...], str]] = []
        self._open: list[int] = []
        self.feed(text)
        assert not self._open, f"left open: {[self.elements[i] for i in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self._open.append(len(self.elements))
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag, f"</{tag}> at {self.getpos()} closes another element"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def text(self, tag: str, **attributes: str) -> str:
        """Text of the first such element, white space collapsed."""
        wanted = next(
            i
            for i, (name, found) in enumerate(self.elements)
            if name == tag and all(found.get(key.rstrip("_")) == value for key, value in attributes.items())
        )
        return " ".join(" ".join(text for path, text in self.texts if wanted in path).split())

    def values_in(self, **attributes: str) -> list[float]:
        """The exact numbers (<data value>) inside the element with these attributes."""
        wanted = next(i for i, (_, found) in enumerate(self.elements) if attributes.items() <= found.items())
        paths = {i: path for path, _ in self.texts for i in path}
        return [
            float(found["value"])
            for i, (name, found) in enumerate(self.elements)
            if name == "data" and wanted in paths.get(i, ())
        ]
