"""Frames a page: its own style and script stand inside it, and a policy forbids all others, and every request."""
from __future__ import annotations

import base64
import hashlib

from perf.web.page.markup import Markup, join, tag


def document(title: str, *body: Markup | None, style: str, script: str) -> str:
    """Returns a whole HTML page as text, around the children `body` of its body."""
    policy = (f"default-src 'none'; style-src '{digest(style)}'; script-src '{digest(script)}'; "
              "base-uri 'none'; form-action 'none'")
    head = tag("head", tag("meta", charset="utf-8"),
               tag("meta", http_equiv="Content-Security-Policy", content=policy),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("meta", name="color-scheme", content="light dark"),
               tag("title", title), tag("style", Markup(style)))
    return join([Markup("<!doctype html>\n"),
                 tag("html", head, tag("body", *body, tag("script", Markup(script))), lang="en")])


def digest(text: str) -> str:
    """Names a style or script as a policy does that allows it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
