"""common-events catalog: one page, complete, safe, and readable without JavaScript."""

import base64
import hashlib
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.domain import Event, Registry, Stream, Streams, ValueObject
from common.events.core import EventBus, InMemoryTransport
from common.events.core._command._app import App, Vocabulary
from common.events.core._command._catalog import catalog

if TYPE_CHECKING:
    from command_support import Project
else:  # pytest's import mode knows no modules beside a test
    globals().update(runpy.run_path(str(Path(__file__).with_name("command_support.py")))["shared"])


class Nested(ValueObject):
    name: str
    inner: "tuple[Nested, ...]" = ()


class Page(HTMLParser):
    """The elements of a page, and its text."""

    VOID: ClassVar = {"meta", "input", "wbr", "link", "br", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]


def made(project: "Project", *arguments: str) -> tuple[str, Page]:
    code, out, err = project.run("catalog", *arguments)
    assert (code, err) == (0, "")
    page = Page(out)
    assert page.open == []
    return out, page


def test_it_shows_streams_types_schemas_publishers_and_subscribers(project: "Project"):
    _, page = made(project, "--app", "@lamps", "--app", "@doors", "--title", "Home & garden")
    for text in (
        "Home & garden", "LAMP", "evt.lamp.>", "lamp.lit", "version 2", "reads 1 to 2",
        "It was off before.", "As it was.", "owners[].name", "list of Owner", "doors / bell",
        "lamps / repair", "2 s, times 2 each, at most 60 s", "is dropped", "DEAD_LETTERS",
        "kept for 30 days", "ROOF", "no attempt is left", "exactly integer, string",
    ):  # fmt: skip
        assert text.lower() in page.text.lower(), text
    assert {each["data-search"].split()[0] for each in page.all("article")} == {
        "lamp.lit", "lamp.light", "door.opened",
    }  # fmt: skip


def test_sensitive_fields_are_marked(project: "Project"):
    out, _ = made(project, "--app", "@lamps")
    rows = {
        re.sub("<[^>]+>", "", row.partition("</code>")[0]): "sensitive" in row
        for row in re.findall(r'<th scope="row" class="depth.*?</th>', out)
    }
    marked = {path for path, sensitive in rows.items() if sensitive}
    assert marked == {"owners[].name", "code", "owner.name", "spare", "spare.name", "spare.town"}
    assert {"lamp", "owners", "owners[].town", "owner"} <= set(rows)


def test_it_loads_nothing_and_runs_only_its_own_script(project: "Project"):
    out, page = made(project)
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert "style" not in attributes  # the policy would refuse it
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    assert "@import" not in out
    assert "url(" not in out
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    for tag in ("script", "style"):
        (inner,) = re.findall(f"<{tag}>(.*?)</{tag}>", out, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_links_lead_somewhere_and_ids_are_unique(project: "Project"):
    _, page = made(project, "--app", "@lamps", "--app", "@doors")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [each["href"][1:] for each in page.all("a")]
    named += [each["aria-labelledby"] for _, each in page.elements if each.get("aria-labelledby")]
    assert set(named) <= set(ids)
    assert all(each.get("scope") for each in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert {each["for"] for each in page.all("label")} <= set(ids)


def test_it_can_be_read_without_javascript(project: "Project"):
    out, _ = made(project)
    hidden = [
        attributes.get("class") or attributes.get("id")
        for _, attributes in Page(out).elements
        if "hidden" in attributes
    ]
    assert hidden == ["search", "none"]  # the search, which needs it, and "Nothing matches."


def test_names_and_texts_from_code_are_escaped():
    evil = """</p><script>alert(1)</script><img src=x onerror=alert(2)> `<b>` & "quoted" 'too'"""
    registry = Registry()
    hostile = type(
        "Hostile", (Event,),
        {"__doc__": evil, "__annotations__": {"field": str}, "__module__": __name__},
        type="evil.thing", registry=registry,
    )  # fmt: skip
    hostile.__name__ = "<i>Hostile</i>"
    streams = Streams([Stream('S"><script>', ("evil",))], services={"<u>s": ['S"><script>']})
    bus = EventBus(
        InMemoryTransport(), source="/x", service="<u>s", registry=registry, streams=streams
    )

    async def handle(event: Event) -> None: ...

    handle.__qualname__ = handle.__name__ = "<u>handle"
    bus.subscribe(hostile, durable="d")(handle)
    words = Vocabulary(registry.all(), [streams], [App("a:b", bus)], [registry])
    text = catalog(words, title="<title>")
    page = Page(text)
    assert page.open == []
    assert len(page.all("script")) == 1
    assert {tag for tag, _ in page.elements}.isdisjoint({"img", "b", "i", "u"})
    assert "alert(1)" in page.text
    assert "onerror" in page.text
    assert "<title>&lt;title&gt;</title>" in text
    assert not any("onerror" in attributes for _, attributes in page.elements)


def test_types_that_no_stream_takes_are_shown_too():
    registry = Registry()

    class Adrift(Event, type="raft.adrift", registry=registry):
        """Nobody keeps it."""

        depth: "dict[str, list[Nested]]"

    Adrift.model_rebuild(_types_namespace={"Nested": Nested})
    text = catalog(Vocabulary([Adrift], [Streams([])], [], [registry]), title=None)
    page = Page(text)
    for part in ("No stream", "raft.adrift", "mapping of list of Nested", "depth{}[].inner"):
        assert part in page.text
    assert "inner[].name" not in page.text  # it contains itself: once is enough


def test_the_same_code_gives_the_same_page(project: "Project"):
    assert made(project, "--app", "@lamps")[0] == made(project, "--app", "@lamps")[0]
