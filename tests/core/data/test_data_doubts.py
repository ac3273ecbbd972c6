"""Every doubt is found where it was planted, with its count, and none in tables that have nothing of it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from lrdiff_core.data import find_doubts, load_table, split_table
from lrdiff_core.data.doubts import hash_rows
from lrdiff_core.errors import DataError

random = np.random.default_rng(0)
ROWS = 200
X = random.normal(size=(ROWS, 3)).astype(np.float32)
LABELS = np.array(["no", "yes"])[(X[:, 0] + random.normal(size=ROWS) > 0).astype(int)]
PLAIN = pl.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": LABELS})


def doubts(frame: pl.DataFrame, **options):
    table = load_table(frame, target="y", **options)
    return {doubt.kind: doubt for doubt in find_doubts(table, split_table(table, seed=1))}


def test_nothing_is_found_in_plain_tables():
    assert doubts(PLAIN) == {}
    assert doubts(PLAIN.with_columns(y=X[:, 0] + random.normal(size=ROWS))) == {}
    assert doubts(PLAIN.with_columns(id=np.arange(ROWS) * 0.5)) == {}  # each row its own value: says nothing


def test_duplicates_across_the_parts_are_counted():
    table = load_table(PLAIN, target="y")
    split = split_table(table, seed=1)
    train, test, held = split.train, split.test, split.validation
    features, labels = X.copy(), LABELS.copy()
    for to, source in [*zip(test[:4], train[:4], strict=True), (held[0], train[9])]:
        features[to], labels[to] = features[source], labels[source]
    features[test[5]] = features[train[9]]  # the same features with the other label: no duplicate
    labels[test[5]] = "no" if labels[train[9]] == "yes" else "yes"
    changed = load_table(PLAIN.with_columns(a=features[:, 0], b=features[:, 1], c=features[:, 2], y=labels), target="y")
    (doubt,) = [one for one in find_doubts(changed, split) if one.kind == "duplicates"]
    assert doubt.count == 5
    assert "4 of 30 test rows and 1 of 30 validation rows stand among the training rows" in doubt.text


@pytest.mark.parametrize(
    "feature",
    [
        np.where(LABELS == "yes", 1, 0),
        np.where(LABELS == "yes", -7.5, 3),
        np.where(LABELS == "yes", 0, 1),
    ],
)
def test_a_feature_that_is_the_label(feature):
    doubt = doubts(PLAIN.with_columns(d=feature))["label in a feature"]
    assert (doubt.count, '"d" gives the target "y" away' in doubt.text) == (1, True)
    assert "label in a feature" not in doubts(PLAIN.with_columns(d=np.where(np.arange(ROWS) < 9, 9, feature)))


def test_a_feature_that_is_the_amount_in_other_units():
    amount = (X[:, 0] * 3 + random.normal(size=ROWS)).astype(np.float32)
    frame = PLAIN.with_columns(y=amount, cents=amount * np.float32(100) + np.float32(7), near=amount + 0.01 * X[:, 1])
    doubt = doubts(frame)["label in a feature"]
    assert (doubt.count, '"cents"' in doubt.text) == (1, True)


def test_near_constant_columns():
    doubt = doubts(PLAIN.with_columns(d=np.arange(ROWS) < 1, e=np.zeros(ROWS), f=np.arange(ROWS) < 20))
    assert doubt.get("near-constant") is None or doubt["near-constant"].count == 1
    rows = np.zeros(ROWS)
    rows[split_table(load_table(PLAIN, target="y"), seed=1).train[0]] = 1
    found = doubts(PLAIN.with_columns(d=rows))["near-constant"]
    assert (found.count, '"d"' in found.text) == (1, True)


def test_classes_without_a_training_row():
    labels = np.array(["u", "v", "w"])[np.arange(ROWS) % 2]
    labels[-3:] = "w"
    frame = PLAIN.with_columns(y=labels, when=np.arange(ROWS))
    doubt = doubts(frame, time="when")["unseen class"]
    assert doubt.count == 3
    assert '3 test rows of 1 class without a training row: "w"' in doubt.text


def test_keys_among_the_features():
    who = np.arange(ROWS) // 10
    frame = PLAIN.with_columns(
        who=who, number=(who * 7) % 20 * 1.5, when=np.arange(ROWS), seconds=np.arange(ROWS) * 60.0
    )
    doubt = doubts(frame.drop("when", "seconds"), groups="who")["key in a feature"]
    assert (doubt.count, '"number" says the same as the group column "who"' in doubt.text) == (1, True)
    doubt = doubts(frame.drop("who", "number"), time="when")["key in a feature"]
    assert (doubt.count, '"seconds"' in doubt.text) == (1, True)


def test_rows_without_a_target_are_dropped_and_counted(write):
    table = load_table(write("a,y\n1,0\n2,\n3,1\n4,0\n5,1\n6,NA\n"), target="y")
    assert table.features[:, 0].tolist() == [1, 3, 4, 5]
    (note,) = table.notes
    assert note == '2 of 6 rows dropped: the target "y" has no value there, 2 missing (first in row 2)'
    with pytest.raises(DataError, match="no value to learn from"):
        load_table(write("a,y\n1,\n2,\n"), target="y")


@pytest.mark.parametrize("values", ["0\n0\n0\n0", "2.5\n2.5\n2.5", "a\na\na"])
def test_a_constant_target_is_refused_in_one_line(write, values):
    rows = "\n".join(f"{place},{value}" for place, value in enumerate(values.split("\n")))
    with pytest.raises(DataError) as caught:
        load_table(write(f"a,y\n{rows}\n"), target="y")
    assert "only" in caught.value.message
    assert "\n" not in caught.value.message


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, (12, 3), elements=st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf, 2.0**-140])))
def test_hashes_are_equal_where_rows_are(values):
    rows = [tuple("nan" if np.isnan(x) else float(x) for x in row) for row in values]
    hashed = hash_rows(values)
    for i in range(12):
        for j in range(i):
            assert (hashed[i] == hashed[j]) == (rows[i] == rows[j])


def test_hashes_do_not_collide_on_a_grid():
    grid = np.stack(np.meshgrid(*[np.arange(40, dtype=np.float32)] * 3), axis=-1).reshape(-1, 3)
    assert len(np.unique(hash_rows(grid))) == len(grid)
