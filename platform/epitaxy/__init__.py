"""Epitaxy: pre-train crystal graph networks once, then grow property models on them."""

__version__ = "0.1.0"
