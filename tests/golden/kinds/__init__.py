"""Handlers: for each kind of golden entry, the library call that it describes.

`kinds/<slug>.py` and `kinds/<slug>_*.py` each hold `KINDS`, kind -> handler. A handler takes a
`tests.golden.entries.Entry` and returns what the library computes under the keys of
`entry.expected`; the comparison is not its business. It takes every configuration value from
`entry.config` and every input from `entry.arrays`, `entry.other(name)` or `entry.data_path(name)`.
Elements that the entry says not to compare (ties, NaN of the official code) are masked
(`numpy.ma`). See `tests.golden.comparison.disagreements` for what else may be returned.
"""
