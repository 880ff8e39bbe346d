"""Tenfold: ten research papers as pure JAX functions."""

__version__ = "0.1.0"
