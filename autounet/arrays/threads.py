"""NumPy's own threads, kept out of ours."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Matrix products on the calling thread alone.

    Our blocks are what runs in parallel; products of such small matrices on a pool of their own
    spend their time waiting for each other, on a busy machine fifty times as long as they compute.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1, user_api="blas"):
        yield
