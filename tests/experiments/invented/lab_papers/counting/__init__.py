"""Counting, an invented paper of the tests: its one function is Gauss's sum."""


def gauss(n: int) -> int:
    """1 + 2 + ... + n."""
    return n * (n + 1) // 2
