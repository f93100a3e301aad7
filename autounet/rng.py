"""Random numbers that depend on what they are for, never on what was drawn before."""

from zlib import crc32

import numpy as np


def generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A generator for one purpose, say `generator(seed, "flip", epoch, step, sample)`.

    Words and numbers of the purpose are hashed into the key's stream, so a resumed run, another
    number of workers or another order of asking draws the same numbers.
    """
    words = [crc32(p.encode()) if isinstance(p, str) else int(p) & 0xFFFFFFFF for p in purpose]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed & 0xFFFFFFFF, *words, len(words)])))
