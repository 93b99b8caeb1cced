import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anmi_pipeline.collections.splits import UNDECLARED_SHARES, SplitOptions, draw_split, hash_unit, split_queries

IDS = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=30)
SPLITS = st.sampled_from(["train", "dev", "test"])


@given(IDS, st.integers(0, 2**31), st.data())
def test_adding_queries_moves_no_other_query(ids, seed, data):
    declared = {query: data.draw(SPLITS) for query in ids}
    extra = data.draw(IDS)
    for said in (declared, {}):
        for graded in (ids, []):
            before, _ = split_queries(ids, said, graded, SplitOptions(), seed)
            both = [*ids, *(query for query in extra if query not in declared)]
            after, _ = split_queries(both, said, graded, SplitOptions(), seed)
            assert {query: after[query] for query in ids} == before


@given(IDS, st.integers(0, 2**31))
def test_order_of_queries_does_not_matter(ids, seed):
    declared = dict.fromkeys(ids, "train")
    forth, _ = split_queries(ids, declared, ids, SplitOptions(), seed)
    back, _ = split_queries(ids[::-1], declared, ids[::-1], SplitOptions(), seed)
    assert forth == back


@given(st.text(), st.integers(), st.text(max_size=5))
def test_hash_is_a_pure_number_in_the_unit_interval(query, seed, purpose):
    value = hash_unit(query, seed, purpose)
    assert 0 <= value < 1
    assert value == hash_unit(query, seed, purpose)


def test_hash_is_pinned():
    # Splits of published datasets must never move: this value is sha256 of "0\ndev\nPLAIN-1".
    assert hash_unit("PLAIN-1", 0, "dev") == pytest.approx(0.7242966935016454, abs=0)


def test_shares_are_kept_approximately():
    drawn = [draw_split(f"q{n}", UNDECLARED_SHARES, 7, "shares") for n in range(10_000)]
    for name, share in UNDECLARED_SHARES.items():
        assert drawn.count(name) / 10_000 == pytest.approx(share, abs=0.015)  # 3 standard errors at .5


def test_seed_changes_the_draw():
    ids = [f"q{n}" for n in range(200)]
    one, _ = split_queries(ids, {}, [], SplitOptions(), 0)
    other, _ = split_queries(ids, {}, [], SplitOptions(), 1)
    assert one != other


def test_dev_is_halved_and_other_splits_hold():
    declared = {f"d{n}": "dev" for n in range(200)} | {"a": "train", "b": "test", "c": "held_out"}
    splits, note = split_queries(list(declared), declared, list(declared), SplitOptions(), 0)
    assert (splits["a"], splits["b"], splits["c"]) == ("train", "test", "held_out")
    assert {splits[f"d{n}"] for n in range(200)} == {"dev_select", "dev_final"}
    assert 70 < sum(split == "dev_select" for split in splits.values()) < 130
    assert "halved" in note


def test_no_dev_takes_two_shares_of_graded_training_queries():
    declared = {f"t{n}": "train" for n in range(1000)} | {f"e{n}": "test" for n in range(50)}
    graded = [query for query in declared if query != "t0"]
    splits, note = split_queries([*declared, "unlabelled"], declared, graded, SplitOptions(), 0)
    moved = [query for query, split in splits.items() if split.startswith("dev")]
    assert all(query.startswith("t") and query != "t0" for query in moved)
    assert 150 < len(moved) < 250
    assert splits["unlabelled"] == "train"
    assert "taken out of training" in note


def test_without_graded_training_queries_there_is_no_dev():
    splits, note = split_queries(["a", "b"], {"a": "test"}, ["a"], SplitOptions(), 0)
    assert splits == {"a": "test", "b": "train"}
    assert "no graded training query" in note


def test_dev_share_zero_keeps_training_whole():
    declared = dict.fromkeys(map(str, range(100)), "train")
    splits, _ = split_queries(list(declared), declared, list(declared), SplitOptions(dev_share=0), 0)
    assert set(splits.values()) == {"train"}


def test_undeclared_graded_queries_are_test():
    splits, note = split_queries(["a", "b"], {}, ["a"], SplitOptions(), 0)
    assert splits == {"a": "test", "b": "train"}
    assert "no split declared" in note


def test_nothing_declared_and_nothing_graded_goes_by_hash():
    splits, _ = split_queries([str(n) for n in range(500)], {}, [], SplitOptions(), 0)
    assert set(splits.values()) == set(UNDECLARED_SHARES)


def test_given_shares_win_over_the_files():
    ids = [str(n) for n in range(300)]
    options = SplitOptions(shares={"train": 0.5, "test": 0.5})
    splits, _ = split_queries(ids, dict.fromkeys(ids, "held_out"), ids, options, 0)
    assert set(splits.values()) == {"train", "test"}


@pytest.mark.parametrize("shares", [{"train": 0.5}, {"train": -0.5, "test": 1.5}, {"training": 1.0}, {}])
def test_wrong_shares_are_refused(shares):
    with pytest.raises(ValidationError):
        SplitOptions(shares=shares)
