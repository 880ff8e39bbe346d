"""One package a paper; no paper imports another."""
