from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autounet.data.dataset import Case, ChannelSpec, Dataset, GivenFolds, ImageFile, Problem
from autounet.data.splits import (
    Content,
    Fold,
    Splits,
    held_out_once,
    held_out_twice,
    make_splits,
    read_splits,
    untouched,
    untrained_classes,
    write_splits,
)
from planners.errors import UserError
from planners.labels import LabelClass, Labels


def dataset(groups: dict[str, str], test: tuple[str, ...] = ()) -> Dataset:
    """Cases by id with their groups."""
    cases = tuple(
        Case(
            id=case,
            group=group,
            images=(ImageFile(path=f"{case}.nii"),),
            label=ImageFile(path=f"{case}_l.nii"),
            split="test" if case in test else "train",
        )
        for case, group in groups.items()
    )
    return Dataset(
        root="/d",
        name="d",
        layout="pairs",
        why="",
        dimensions=3,
        cases=cases,
        channels=(ChannelSpec(name="a"),),
        labels=Labels(classes=(LabelClass(name="background", value=0), LabelClass(name="tumour", value=1))),
    )


def own(count: int) -> Dataset:
    return dataset({f"c{n:03d}": f"c{n:03d}" for n in range(count)})


def held_out(splits: Splits) -> list[set[str]]:
    return [set(f.validation) for f in splits.folds]


def test_every_case_is_held_out_exactly_once() -> None:
    splits = make_splits(own(23))
    assert sorted(i for f in splits.folds for i in f.validation) == [f"c{n:03d}" for n in range(23)]
    assert all(set(f.train) | set(f.validation) == {f"c{n:03d}" for n in range(23)} for f in splits.folds)
    assert sorted(len(f.validation) for f in splits.folds) == [4, 4, 5, 5, 5]


def test_a_patient_is_never_on_both_sides_and_folds_differ_by_at_most_the_largest_patient() -> None:
    groups = {f"p{p}_s{s}": f"p{p}" for p in range(14) for s in range(1 + p % 4)}
    splits = make_splits(dataset(groups))
    for fold in splits.folds:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.validation}
    sizes = [len(f.validation) for f in splits.folds]
    assert max(sizes) - min(sizes) <= 4


def test_a_rare_class_is_spread_over_the_folds() -> None:
    data = own(50)
    content = {c.id: Content(volumes_ml={"common": 10.0, "rare": 2.0 if n % 10 == 0 else 0.0}) for n, c in enumerate(data.cases)}
    splits = make_splits(data, content=content)
    assert [sum(content[i].volumes_ml["rare"] > 0 for i in f.validation) for f in splits.folds] == [1, 1, 1, 1, 1]
    assert [len(f.validation) for f in splits.folds] == [10] * 5


def test_large_and_small_foreground_are_spread_over_the_folds() -> None:
    data = own(40)
    content = {c.id: Content(volumes_ml={"tumour": float(1 + n)}) for n, c in enumerate(data.cases)}
    volumes = [sum(content[i].volumes_ml["tumour"] for i in f.validation) for f in make_splits(data, content=content).folds]
    assert max(volumes) / min(volumes) < 1.1


def test_strata_are_spread_over_the_folds() -> None:
    data = own(30)
    data = replace(data, cases=tuple(replace(c, stratum="b" if n < 10 else "a") for n, c in enumerate(data.cases)))
    assert [sum(int(i[1:]) < 10 for i in f.validation) for f in make_splits(data).folds] == [2] * 5


def test_the_order_of_the_files_changes_nothing_and_the_seed_does() -> None:
    data = own(30)
    turned = replace(data, cases=data.cases[::-1])
    assert make_splits(data) == make_splits(turned)
    assert held_out(make_splits(data, seed=1)) != held_out(make_splits(data, seed=2))


def test_four_patients_leave_one_out() -> None:
    splits = make_splits(dataset({f"p{p}_{s}": f"p{p}" for p in range(4) for s in range(3)}))
    assert splits.rule == "leave_one_out"
    assert [len(f.validation) for f in splits.folds] == [3, 3, 3, 3]


def test_more_folds_than_patients_are_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match="7 patients cannot make 10 folds"):
        make_splits(own(7), 10)


@pytest.mark.parametrize("count", [5, 7, 12, 100, 260])
def test_the_references_folds_are_those_of_scikit_learn(count: int) -> None:
    from sklearn.model_selection import KFold

    data = own(count)
    ids = np.array(sorted(c.id for c in data.cases))
    expected = [set(ids[test]) for _, test in KFold(5, shuffle=True, random_state=12345).split(ids)]
    assert held_out(make_splits(data, rule="nnunet")) == expected


def test_test_cases_are_in_no_fold() -> None:
    data = dataset({f"c{n}": f"c{n}" for n in range(8)}, test=("c3",))
    assert all("c3" not in (*f.train, *f.validation) for f in make_splits(data).folds)


def test_folds_that_came_with_the_data_are_used() -> None:
    data = own(6)
    ids = tuple(c.id for c in data.cases)
    given = replace(data, given_folds=(GivenFolds(train=ids[:3], validation=ids[3:]), GivenFolds(train=ids[3:], validation=ids[:3])))
    assert make_splits(given).rule == "given"
    assert held_out(make_splits(given)) == [set(ids[3:]), set(ids[:3])]


def wrong(train: tuple[str, ...], validation: tuple[str, ...]) -> Splits:
    return Splits(rule="edited", seed=0, folds=(Fold(train=train, validation=validation),))


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (wrong(("a1", "b1"), ("a2",)), "the patient a is on both sides, as a1 and a2"),
        (wrong(("a1", "a2", "zz"), ("b1",)), "train names zz, which the dataset does not have"),
        (wrong(("a1", "a2"), ()), "validation is empty"),
        (wrong((), ("a1",)), "train is empty"),
        (wrong(("a1",), ("b1",)), "a2 is in neither part"),
        (wrong(("a1", "a2", "b1"), ("b1",)), "b1 is in both parts"),
        (wrong(("a1", "a2", "a2"), ("b1",)), "names a2 twice"),
        (Splits(rule="edited", seed=0, folds=()), "holds no folds"),
    ],
)
def test_b123_edited_folds_are_checked(tmp_path: Path, splits: Splits, said: str) -> None:
    data = dataset({"a1": "a", "a2": "a", "b1": "b"})
    write_splits(tmp_path / "splits.json", splits)
    with pytest.raises(UserError, match=said) as refused:
        read_splits(tmp_path / "splits.json", data)
    assert "splits.json" in str(refused.value)


def test_an_edit_is_noticed_and_an_untouched_file_too(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    data = own(10)
    write_splits(path, make_splits(data))
    assert untouched(path)
    assert read_splits(path, data).folds == make_splits(data).folds
    first, second = make_splits(data).folds[0].validation[0], make_splits(data).folds[1].validation[0]
    path.write_text(path.read_text().replace(first, "@").replace(second, first).replace("@", second))
    assert not untouched(path)
    assert read_splits(path, data)


def test_patients_that_are_placed_do_not_move_when_others_are_added() -> None:
    before = make_splits(own(40))
    after = make_splits(own(47), keep=before)
    where = {i: k for k, f in enumerate(before.folds) for i in f.validation}
    assert all(where.get(i, k) == k for k, f in enumerate(after.folds) for i in f.validation)
    assert sorted(len(f.validation) for f in after.folds) == [9, 9, 9, 10, 10]


def test_patients_that_are_gone_leave_the_others_in_their_folds() -> None:
    before = make_splits(own(40))
    after = make_splits(own(30), keep=before)
    where = {i: k for k, f in enumerate(before.folds) for i in f.validation}
    assert all(where[i] == k for k, f in enumerate(after.folds) for i in f.validation)


@given(st.lists(st.integers(1, 6), min_size=5, max_size=40), st.integers(2, 5), st.integers(0, 3))
def test_any_patients_make_folds_that_are_disjoint_complete_and_even(scans: list[int], count: int, seed: int) -> None:
    groups = {f"p{p:02d}_{s}": f"p{p:02d}" for p, number in enumerate(scans) for s in range(number)}
    splits = make_splits(dataset(groups), count, seed)
    assert sorted(i for f in splits.folds for i in f.validation) == sorted(groups)
    for fold in splits.folds:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.validation}
        assert fold.validation
    sizes = [len(f.validation) for f in splits.folds]
    assert max(sizes) - min(sizes) <= max(scans)


def test_the_references_folds_may_cut_through_patients_when_they_were_asked_for(tmp_path: Path) -> None:
    data = dataset({f"p{n // 2}_{n % 2}": f"p{n // 2}" for n in range(12)})
    splits = make_splits(data, rule="nnunet")
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", data).folds == splits.folds


def three_folds(rule: str, *validation: tuple[str, ...]) -> Splits:
    """Folds of c000, c001 and so on by what they hold out."""
    ids = tuple(f"c{n:03d}" for n in range(6))
    return Splits(rule=rule, seed=0, folds=tuple(Fold(train=tuple(i for i in ids if i not in v), validation=v) for v in validation))


def test_b123_a_case_that_two_folds_hold_out_is_refused_in_folds_that_were_edited(tmp_path: Path) -> None:
    edited = three_folds("grouped", ("c000", "c001"), ("c001", "c002"), ("c003", "c004", "c005"))
    write_splits(tmp_path / "splits.json", edited)
    with pytest.raises(UserError, match=r"splits.json: c001 is in the validation of two folds") as refused:
        read_splits(tmp_path / "splits.json", own(6))
    assert "one fold" in refused.value.fix


def test_a_case_that_given_folds_hold_out_twice_counts_once(tmp_path: Path) -> None:
    given = three_folds("given", ("c000", "c001"), ("c001", "c002"), ("c003", "c004", "c005"))
    write_splits(tmp_path / "splits.json", given)
    splits = read_splits(tmp_path / "splits.json", own(6))
    assert held_out_twice(splits) == ("c001",)
    assert held_out_once(splits, (0, 1, 2)) == {0: ("c000",), 1: ("c001", "c002"), 2: ("c003", "c004", "c005")}
    assert held_out_once(splits, (0, 2)) == {0: ("c000", "c001"), 2: ("c003", "c004", "c005")}


def dropped(data: Dataset, *ids: str) -> Dataset:
    """The dataset after its check could not use some cases."""
    problems = tuple(
        Problem(severity="error", code="unreadable", case=i, found="noise", expected="an image", remedy="mend it") for i in ids
    )
    return replace(data, cases=tuple(c for c in data.cases if c.id not in ids), problems=problems)


def test_folds_keep_their_numbers_when_cases_are_dropped(tmp_path: Path) -> None:
    splits = three_folds("grouped", ("c000", "c001"), ("c002", "c003"), ("c004", "c005"))
    write_splits(tmp_path / "splits.json", splits)
    left = read_splits(tmp_path / "splits.json", dropped(own(6), "c000", "c005"))
    assert held_out(left) == [{"c001"}, {"c002", "c003"}, {"c004"}]


def test_a_fold_whose_cases_are_all_dropped_is_an_error_that_names_it_and_what_to_do(tmp_path: Path) -> None:
    write_splits(tmp_path / "splits.json", three_folds("grouped", ("c000", "c001"), ("c002", "c003"), ("c004", "c005")))
    with pytest.raises(UserError, match=r"splits.json, fold 1: none of the cases of validation can be used \(c002, c003\)") as refused:
        read_splits(tmp_path / "splits.json", dropped(own(6), "c002", "c003"))
    assert "autounet check" in refused.value.fix


def test_b099_a_class_that_a_fold_never_trains_on_is_found() -> None:
    splits = three_folds("grouped", ("c000", "c001"), ("c002", "c003"), ("c004", "c005"))
    content = {
        f"c{n:03d}": Content(volumes_ml={"organ": 5.0, "cyst": 1.0 if n in (2, 3) else 0.0, "stone": float(n == 5)}) for n in range(6)
    }
    assert untrained_classes(splits, content) == {1: ("cyst",), 2: ("stone",)}
