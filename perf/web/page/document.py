"""The frame of a page: its own style and script inside it, and a policy that forbids every other, and every request."""
from __future__ import annotations

import base64
import hashlib

from perf.web.page.markup import Markup, join, tag


def document(title: str, *body: Markup | None, style: str, script: str) -> str:
    """A whole HTML page as text, around the children `body` of its body."""
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
    """How a policy names a script or style that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
