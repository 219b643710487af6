"""The evaluation's modules, imported from the experiment's folder, and a reader of its report."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import torch
from conftest import CHECKOUT

FOLDER = CHECKOUT / "experiments" / "fly_olfaction"
WITHOUT_END = {"meta", "img", "br", "link", "input", "hr"}


@contextmanager
def imported() -> Iterator[ModuleType]:
    """`evaluate` as a module; what it changes in PyTorch and in sys is put back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    known = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("evaluate")
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - known:
            # Asking some modules for an attribute would load what they put off.
            found = vars(sys.modules[name]).get("__file__") or ""
            if found.startswith(str(FOLDER)):
                del sys.modules[name]
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


class Report(HTMLParser):
    """What a page holds: its elements with attributes, its numbers, and whether tags match."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []  # path, value, shown
        self.text: list[str] = []
        self.open: list[str] = []
        self.source = page.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in WITHOUT_END:
            self.open.append(tag)
        if tag == "data":
            self.numbers.append((str(found["data-path"]), str(found["value"]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "data":
            path, value, shown = self.numbers[-1]
            self.numbers[-1] = (path, value, shown + data)
        elif "style" not in self.open:
            self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        return [str(found[name]) for _, found in self.elements if name in found]


def at(results: object, pointer: str) -> object:
    """What lies under a path of results.json, written as in RFC 6901 without the first slash."""
    for part in pointer.split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        results = results[int(key)] if isinstance(results, list) else results[key]  # type: ignore[index]
    return results
