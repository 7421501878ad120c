"""The catalog as one HTML page: nothing is loaded, and it can be read without JavaScript."""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.events.core._command._catalog import (
        Catalog,
        StreamEntry,
        Subscriber,
        Type,
        Version,
    )
    from common.events.core._command._fields import Field
    from common.events.core._declarations import StreamSpec

_REASONS = (
    ("attempts", "No attempt is left."),
    ("exhausted", "The broker gave up, such as after a handler that kills its process."),
    ("rejected", "The handler returned Reject."),
    ("given_up", "An exception for which the subscription gives up at once."),
    ("malformed", "The body is no envelope that can be read."),
    ("unknown_type", "No class of the subscription has the type."),
    ("unknown_version", "No class reads the version."),
    ("invalid_data", "The data does not fit the type."),
)


def page(catalog: "Catalog") -> str:
    """Return the page. Whatever comes from code or names is escaped."""
    style, script = _resource("page.css"), _resource("page.js")
    # Should anything ever slip through, browsers run and load nothing but what is known here.
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    shown = [entry for entry in catalog.streams if entry.types]
    empty = [entry for entry in catalog.streams if not entry.types]
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="color-scheme" content="light dark">\n',
            f"<title>{_e(catalog.title)}</title>\n<style>{style}</style>\n</head>\n<body>\n",
            '<a class="skip" href="#main">Skip to the content</a>\n',
            _header(catalog),
            '<div class="columns">\n',
            _navigation(shown),
            '<main id="main" tabindex="-1">\n',
            '<p id="none" class="none" hidden>Nothing matches.</p>\n',
            *map(_stream, shown),
            _empty(empty),
            _subscribers(catalog),
            _dead_letters(catalog.dead_letters),
            "</main>\n</div>\n",
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _header(catalog: "Catalog") -> str:
    types = sum(len(entry.types) for entry in catalog.streams)
    services = {service for entry in catalog.streams for service in entry.publishers}
    services |= {each.service for each in catalog.subscribers}
    facts = [
        (types, "message types"),
        (sum(entry.stream is not None for entry in catalog.streams), "streams"),
        (len(services), "services"),
        (len(catalog.subscribers), "subscriptions"),
    ]
    items = "".join(f"<li><strong>{count}</strong> {name}</li>" for count, name in facts)
    return (
        f'<header class="top"><div><h1>{_e(catalog.title)}</h1><ul class="facts">{items}</ul></div>'
        '<div class="search" role="search" hidden><label for="search">Search types, fields and '
        'services</label><input id="search" type="search" autocomplete="off" spellcheck="false" '
        'placeholder="Search types, fields, services   ( / )"><output id="found" for="search" '
        'aria-live="polite"></output></div></header>\n'
    )


def _navigation(shown: Sequence["StreamEntry"]) -> str:
    parts = ['<nav aria-label="Contents">\n']
    for entry in shown:
        name = _stream_name(entry)
        links = "".join(
            f'<li data-for="{_id("type", each.name)}"><a href="#{_id("type", each.name)}">'
            f'<span class="dot {each.kind}" aria-hidden="true"></span>{_words(each.name)}</a></li>'
            for each in entry.types
        )
        parts.append(
            f'<div class="group"><a class="stream" href="#{_id("stream", name)}">{_e(name)}</a>'
            f"<ul>{links}</ul></div>\n"
        )
    parts.append('<div class="group always"><a class="stream" href="#subscribers">Subscribers</a>')
    parts.append('<a class="stream" href="#dead-letters">Dead letters</a></div>\n</nav>\n')
    return "".join(parts)


def _stream(entry: "StreamEntry") -> str:
    name = _stream_name(entry)
    subjects = entry.stream.subjects if entry.stream else ()
    heading = _id("stream", name)
    facts = [("Subjects", _codes(subjects))] if subjects else []
    if entry.stream is not None:
        nobody = '<span class="quiet">no service is declared</span>'
        facts.append(("Events from", _chips(entry.publishers) or nobody))
    return (
        f'<section class="of-stream" aria-labelledby="{heading}">\n<div class="band">'
        f'<h2 id="{heading}">{_e(name)}</h2>{_facts(facts)}</div>\n'
        f"{''.join(_type(each, entry) for each in entry.types)}</section>\n"
    )


def _type(each: "Type", entry: "StreamEntry") -> str:
    newest, *older = each.versions
    heading = _id("type", each.name)
    publishers = entry.publishers if each.kind == "event" else ()
    facts = [("Subject", f"<code>{_words(each.subject)}</code>")]
    facts.append(
        ("Key", _codes(newest.key) if newest.key else '<span class="quiet">none, unordered</span>')
    )
    if each.kind == "command":
        facts.append(("Published by", '<span class="quiet">any service</span>'))
    elif publishers:
        facts.append(("Published by", _chips(publishers)))
    if each.subscribers:
        links = [
            f'<a class="chip" href="#{_id("durable", f"{one.service}.{one.durable}")}">'
            f"{_e(one.service)} / {_e(one.durable)}</a>"
            for one in each.subscribers
        ]
        facts.append(("Subscribers", " ".join(links)))
    searched = " ".join(
        [
            each.name, each.subject, each.kind, _stream_name(entry), *publishers,
            *(f"{one.service} {one.durable}" for one in each.subscribers),
            *(f"{version.name} {version.description}" for version in each.versions),
            *(f"{field.path} {field.description}" for version in each.versions
              for field in version.fields),
        ]
    ).lower()  # fmt: skip
    past = "".join(
        f"<details><summary>Version {version.number}, {_e(version.name)}</summary>"
        f"{_prose(version.description)}{_schema(version)}</details>"
        for version in older
    )
    return (
        f'<article aria-labelledby="{heading}" data-search="{_e(searched)}">\n'
        f'<h3 id="{heading}"><a href="#{heading}">{_words(each.name)}</a> '
        f'<span class="badge {each.kind}">{each.kind}</span> '
        f'<span class="badge version">version {newest.number}</span>{_reads(newest)}</h3>\n'
        f"{_prose(newest.description)}{_facts(facts)}{_schema(newest)}{past}</article>\n"
    )


def _reads(version: "Version") -> str:
    if version.oldest == version.number:
        return ""
    return f' <span class="badge version">reads {version.oldest} to {version.number}</span>'


def _schema(version: "Version") -> str:
    if not version.fields:
        return '<p class="quiet">It has no fields.</p>'
    caption = f"Fields of {_e(version.name)}, version {version.number}"
    rows = "".join(_field(each, version.key) for each in version.fields)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
        f'<caption class="hidden">{caption}</caption><thead><tr><th scope="col">Field</th>'
        f'<th scope="col">Type</th><th scope="col">What it may be</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _field(field: "Field", key: Sequence[str]) -> str:
    marks = '<span class="badge sensitive">sensitive</span>' if field.sensitive else ""
    marks += '<span class="badge key">key</span>' if field.path in key else ""
    notes: list[str] = []
    if not field.required:
        said = field.default not in {None, "null"}  # that it may be null, the type says
        default = f", default {_code(field.default or '')}" if said else ""
        notes.append(f"optional{default}")
    if field.values:
        notes.append("one of " + " ".join(map(_code, field.values)))
    notes += [_e(limit) for limit in field.limits]
    notes += [f"matches {_code(field.pattern)}"] if field.pattern else []
    text = f"<div>{_ticks(_e(field.description))}</div>" if field.description else ""
    depth = min(field.path.count("."), 5)
    return (
        f'<tr><th scope="row" class="depth-{depth}"><code>{_words(field.path)}</code>'
        f"{'<span class=marks>' + marks + '</span>' if marks else ''}</th>"
        f"<td>{_e(field.type)}</td><td>{text}{_joined(notes)}</td></tr>"
    )


def _joined(notes: Sequence[str]) -> str:
    return "".join(f'<span class="note">{note}</span>' for note in notes)


def _empty(entries: Sequence["StreamEntry"]) -> str:
    if not entries:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_e(_stream_name(each))}</th>'
        f"<td>{_codes(each.stream.subjects if each.stream else ())}</td>"
        f"<td>{_chips(each.publishers)}</td></tr>"
        for each in entries
    )
    return (
        '<section class="always" aria-labelledby="streams-without-types"><div class="band">'
        '<h2 id="streams-without-types">Streams without types</h2></div><div class="card scroll" '
        'tabindex="0" role="region" aria-label="Streams without types"><table><thead><tr>'
        '<th scope="col">Stream</th><th scope="col">Subjects</th><th scope="col">Events from</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div></section>\n"
    )


def _subscribers(catalog: "Catalog") -> str:
    if not catalog.subscribers:
        given = "The applications given have none." if catalog.apps else "No application was given."
        body = f'<p class="card quiet">{given}</p>'
    else:
        rows = "".join(map(_subscriber, catalog.subscribers))
        body = (
            '<div class="card scroll" tabindex="0" role="region" aria-label="Subscribers"><table>'
            '<thead><tr><th scope="col">Subscription</th><th scope="col">Types</th>'
            '<th scope="col">Attempts</th><th scope="col">When it fails</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    return (
        '<section class="always" aria-labelledby="subscribers"><div class="band">'
        f'<h2 id="subscribers">Subscribers</h2></div>{body}</section>\n'
    )


def _subscriber(each: "Subscriber") -> str:
    links = " ".join(
        f'<a href="#{_id("type", name)}"><code>{_words(name)}</code></a>' for name in each.types
    )
    traits = ["in order per key"] if each.per_key else []
    traits += ["effects once (inbox)"] if each.inbox else []
    end = "becomes a dead letter" if each.dead_letter else "is dropped, and logged as an error"
    notes = [f"after the last attempt it {end}"]
    if each.gives_up_on:
        notes.append("at once on " + " ".join(map(_code, each.gives_up_on)))
    unknown = {
        "dead_letter": "unknown types become dead letters",
        "ignore": "unknown types are ignored",
        "fail": "an unknown type stops the service",
    }
    notes.append(unknown[each.unknown])
    return (
        f'<tr id="{_id("durable", f"{each.service}.{each.durable}")}"><th scope="row">'
        f"{_e(each.service)} / {_e(each.durable)}<div class=quiet>{_e(each.handler)}</div></th>"
        f"<td>{links}{_joined(traits)}</td>"
        f"<td>{each.attempts}{_joined([_e(f'pauses: {each.pauses}')])}</td>"
        f"<td>{_joined(notes)}</td></tr>"
    )


def _dead_letters(spec: "StreamSpec") -> str:
    age = f"kept for {spec.max_age.days} days" if spec.max_age else "kept without limit of age"
    rows = "".join(
        f'<tr><th scope="row">{_code(reason)}</th><td>{_e(text)}</td></tr>'
        for reason, text in _REASONS
    )
    return (
        '<section class="always" aria-labelledby="dead-letters"><div class="band">'
        '<h2 id="dead-letters">Dead letters</h2>'
        f"{_facts([('Stream', _code(spec.name)), ('Subjects', _codes(spec.subjects))])}</div>"
        f'<div class="card"><p>A message that cannot be handled is stored here, {_e(age)}, before '
        "it leaves its own stream: body and headers as they were, and headers that say why. "
        "<code>common-events dlq</code> lists, shows, replays and discards them.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Reasons"><table><thead><tr>'
        '<th scope="col">Reason</th><th scope="col">Meaning</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div></section>\n"
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{items}</dl>'


def _prose(text: str) -> str:
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return "".join(f"<p>{_ticks(_e(part))}</p>" for part in paragraphs if part)


def _ticks(escaped: str) -> str:
    return re.sub(r"(`{1,2})([^`]+)\1", r"<code>\2</code>", escaped)


def _stream_name(entry: "StreamEntry") -> str:
    return entry.stream.name if entry.stream else "No stream"


def _codes(texts: Iterable[str]) -> str:
    return " ".join(map(_code, texts))


def _code(text: str) -> str:
    return f"<code>{_e(text)}</code>"


def _chips(texts: Iterable[str]) -> str:
    return " ".join(f'<span class="chip">{_e(text)}</span>' for text in texts)


def _words(name: str) -> str:
    """Return a dotted name that may be broken at its dots."""
    return _e(name).replace(".", ".<wbr>")


def _id(kind: str, name: str) -> str:
    """Return an id: a class or service may have any name, and two must not collide."""
    safe = "".join(char if char.isalnum() or char in "._-" else f"~{ord(char):x}" for char in name)
    return _e(f"{kind}-{safe}")


def _e(text: str) -> str:
    return escape(text, quote=True)


def _resource(name: str) -> str:
    return (files("common.events.core._command") / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
