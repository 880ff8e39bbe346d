"""Layers and backbones that more than one paper uses."""
