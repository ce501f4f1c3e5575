"""Reads a text as a reader of GitHub's Markdown does."""
from __future__ import annotations

from markdown_it import MarkdownIt


def tokens(text: str) -> list[tuple[str, str]]:
    """Kinds of what stands in lines, cells and blocks, and their content."""
    return [(token.type, token.content) for block in MarkdownIt("commonmark").enable("table").parse(text)
            for token in (block.children or [] if block.type == "inline" else [block] if block.content else [])]
