"""Typed results and their printed forms."""
