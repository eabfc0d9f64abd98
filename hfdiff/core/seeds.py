"""Seeds that are functions of what they are for."""

import hashlib


def derive_seed(*key: object) -> int:
    """A hash of the key, in [0, 2^63)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
