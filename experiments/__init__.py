"""Configurations, presets and wiring of the papers: `python -m experiments` and its commands."""
