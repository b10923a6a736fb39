"""HTML as tests look at it."""

from html.parser import HTMLParser


class Fragment(HTMLParser):
    """A browser's view of some HTML: its elements in order, with attributes and the text below; all opened are closed."""

    VOID = ("meta", "img", "br", "link", "base", "input")

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.elements, self._open = [], []
        self.feed(self.source)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag and all(element.get(name) == value for name, value in attributes.items())
        ]

    def texts(self, tag, **attributes):
        return [" ".join(element["text"].split()) for element in self.all(tag, **attributes)]


class Page(Fragment):
    """The same of a file."""

    def __init__(self, path):
        super().__init__(path.read_text(encoding="utf-8"))
