"""Reading is strict: what is unknown, missing or odd is named with its place."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from planners.errors import UserError
from planners.fingerprint import Fingerprint
from planners.strict_json import from_plain, to_plain
from tests.planners.cases import alike


@dataclass(frozen=True)
class Leaf:
    size: int
    share: float = 0.5


@dataclass(frozen=True)
class Tree:
    kind: Literal["oak", "elm"]
    leaves: tuple[Leaf, ...]
    place: tuple[int, int] | None = None
    old: bool = False


def test_values_come_back_as_they_were() -> None:
    tree = Tree(kind="oak", leaves=(Leaf(1), Leaf(2, 0.25)), place=(3, 4))
    assert from_plain(Tree, to_plain(tree), "tree") == tree
    seen = alike(3, (1, 1, 1), (5, 6, 7))
    assert from_plain(Fingerprint, to_plain(seen), "fingerprint") == seen


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"kind": "ash", "leaves": []}, "tree.kind is 'ash', not one of oak, elm"),
        ({"kind": "oak", "leaves": [{"size": 1, "sise": 2}]}, r"tree.leaves\[0\] has the unknown key 'sise'"),
        ({"kind": "oak"}, "tree has no key 'leaves'"),
        ({"kind": "oak", "leaves": [{"size": 1.5}]}, r"tree.leaves\[0\].size is 1.5, not a whole number"),
        ({"kind": "oak", "leaves": [{"size": True}]}, r"tree.leaves\[0\].size is True, not a whole number"),
        ({"kind": "oak", "leaves": [{"size": 1, "share": float("nan")}]}, "share is nan, not a finite number"),
        ({"kind": "oak", "leaves": {}}, "tree.leaves is {}, not a list"),
        ({"kind": "oak", "leaves": [], "place": [1]}, "tree.place is .1., not a list of 2"),
        ({"kind": "oak", "leaves": [], "old": 1}, "tree.old is 1, not true or false"),
        ([], "tree is .., not an object"),
    ],
)
def test_what_is_odd_is_named_with_its_place(plain: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        from_plain(Tree, plain, "tree")


def test_whole_numbers_are_numbers() -> None:
    assert from_plain(Leaf, {"size": 1, "share": 1}, "leaf") == Leaf(1, 1.0)
