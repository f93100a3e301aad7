"""Three cases at work at once: while one is computed, the next is read and the one before is written, as far as memory allows."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Case = TypeVar("Case")
Image = TypeVar("Image")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Steps(Generic[Case, Image, Made]):
    """What is done with a case. A read that failed raises where its image is asked for; the other two never raise for a bad case."""

    read: Callable[[Case], Image]
    compute: Callable[[Case, "Future[Image]"], Callable[[], Made]]  # what is left to do is to write
    fits: Callable[[Case, Case | None, Case | None], bool]  # a case that is computed, beside one that is read and one that is written


def in_step(cases: Sequence[Case], steps: Steps[Case, Image, Made]) -> Iterator[Made]:
    """What became of each case, in order, when it is written."""
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future[Image] | None = None
        behind: Future[Made] | None = None
        for index, case in enumerate(cases):
            image = ahead or reader.submit(steps.read, case)
            before = cases[index - 1] if behind is not None else None
            following = cases[index + 1] if index + 1 < len(cases) else None
            if behind is not None and not steps.fits(case, None, before):
                yield behind.result()
                before = behind = None
            ahead = reader.submit(steps.read, following) if following is not None and steps.fits(case, following, before) else None
            write = steps.compute(case, image)
            del image  # its voxels go when they are computed, not when they are written
            if behind is not None:
                yield behind.result()
            behind = writer.submit(write)
            del write
        if behind is not None:
            yield behind.result()
