"""Rendering: statements to Markdown."""
