"""Statements as text and pictures. Rendering only: every number comes in finished."""
