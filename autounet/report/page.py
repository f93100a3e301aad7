"""The page as one string: a template, the style inside it, figures as SVG; it opens offline and asks the network for nothing."""

from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that can be sorted by its columns; numbers are right-aligned."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """An SVG with what it shows."""

    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """A row of small pictures, and which colour is what on them."""

    heading: str
    words: str
    figures: tuple[Figure, ...]
    legend: tuple[tuple[str, str], ...] = ()  # (style class of the line, what it is)


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Cases that can be opened as volumes: what stands on their buttons, in the order of their scripts."""

    cases: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of the page."""

    id: str
    title: str
    words: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()  # (heading, table)
    pictures: tuple[Pictures, ...] = ()
    viewer: Viewer | None = None
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All of it."""

    title: str
    lead: tuple[str, ...]
    tiles: tuple[tuple[str, str, str], ...]  # (number, what, small print)
    sections: tuple[Section, ...]


def render(page: Page) -> str:
    """HTML; everything that comes from data is escaped."""
    environment = Environment(
        loader=PackageLoader("autounet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)
