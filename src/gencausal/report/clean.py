"""What enters a page: HTML reduced to harmless tags, text without paths of the machine it was made on.

Notebook outputs carry data, and data may carry anything: a table cell `<script>`, an image address, a style that covers
the page. Only the tags and attributes below survive; no address is loaded, scripts and styles go with their content.
"""

import os
import re

import bleach
from bleach.css_sanitizer import CSSSanitizer
from bs4 import BeautifulSoup

from gencausal import provenance

_TAGS = (
    "a abbr b blockquote br caption cite code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img "
    "ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr u ul var"
).split()
_DROPPED = "script style iframe object embed form input button textarea select template noscript link meta base svg math audio video canvas".split()
_PICTURE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+$")
_CLASS = re.compile(r"(dataframe|highlight|[a-z][a-z0-9]{0,2})$")  # pandas and pygments; the pages' own class names are longer
_LINK = re.compile(r"(https?://|mailto:|#|[\w.][\w./%-]*(#[\w=.%-]*)?$)")


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return tag == "a" and bool(_LINK.match(value))
    if name == "src":
        return tag == "img" and bool(_PICTURE.match(value))
    if name in ("colspan", "rowspan", "scope"):
        return tag in ("td", "th")
    if name == "style":
        return tag in ("td", "th", "tr")
    if name == "class":
        return all(_CLASS.match(word) for word in value.split())
    return name in ("title", "lang") or (tag == "img" and name in ("alt", "width", "height")) or (tag == "ol" and name == "start")


_CLEANER = bleach.Cleaner(
    tags=_TAGS, attributes=_allowed, protocols=["http", "https", "mailto", "data"], strip=True, css_sanitizer=CSSSanitizer(allowed_css_properties=["text-align"])
)


def html(source: str) -> str:
    """`source` with the harmless part of its HTML; pictures only as data, links only to the web, a page or an anchor."""
    soup = BeautifulSoup(source, "html.parser")
    for element in soup(_DROPPED):
        element.decompose()
    cleaned = BeautifulSoup(_CLEANER.clean(str(soup)), "html.parser")
    for image in cleaned("img"):
        if not image.get("src"):
            image.replace_with(image.get("alt") or "")
    return str(cleaned)


_EMBEDDED = re.compile(r"(base64,[A-Za-z0-9+/=]+)")
_ELSEWHERE = [
    (re.compile(r"(?<![^\s\"'<>()])[^\s\"'<>()]*/site-packages/"), "site-packages/"),
    (re.compile(r"/(?:home|Users)/[^/\s\"'<>:]+"), "~"),
    (re.compile(r"(?<![\w.~])/root(?=/)"), "~"),
    (re.compile(r"[A-Za-z]:\\+Users\\+[^\\\s\"'<>]+"), "~"),
    (re.compile(r"(?:/private)?/(?:tmp|var/tmp|var/folders)/[^\s\"'<>:,)]*"), "(temporary)"),
]


def text(value: str) -> str:
    """`value` with folders of this or another machine replaced: the study's is `.`, a home `~`, an installed package's site-packages/."""
    pieces = _EMBEDDED.split(value)  # pictures are left alone, and a search over a long word without a break would take its square
    return "".join(piece if place % 2 else _scrubbed(piece) for place, piece in enumerate(pieces))


def _scrubbed(value: str) -> str:
    if "/" not in value and "\\" not in value:
        return value
    value = provenance.scrub(value)
    if data := os.environ.get("GENCAUSAL_DATA", "").rstrip("/"):
        value = value.replace(data, "data")
    for pattern, name in _ELSEWHERE:
        value = pattern.sub(name, value)
    return value


def every_text(value, keep: tuple[str, ...] = ("image/png", "image/jpeg")):
    """`value` (JSON-like) with `text` applied to every string, those under a key in `keep` left alone."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [every_text(item, keep) for item in value]
    if isinstance(value, dict):
        return type(value)({key: item if key in keep else every_text(item, keep) for key, item in value.items()})
    return value
