"""Columns as rows and back."""

import json
import math

import numpy as np
import pyarrow
import pytest
import torch
from ddcore_tabular.columns import Column
from ddcore_tabular.encoding import FARTHEST, Encoding
from ddcore_tabular.tables import csv_text, preview_png

from ddcore import InputError

NAN = math.nan


def number(*values, name="x"):
    known = [v for v in values if v == v]
    return Column(name, "number", np.array(values, dtype=np.float64), whole=all(v == round(v) for v in known))


def words(*values, name="w"):
    return Column(name, "category", pyarrow.array(values, pyarrow.string()))


def test_standardised_numbers_by_hand():
    encoding, notes = Encoding.of([number(1, 3, NAN, 5)])
    # mean 3, deviation sqrt(8 / 3)
    step = 2 / (8 / 3) ** 0.5
    torch.testing.assert_close(
        encoding.rows([number(1, 3, NAN, 5)]), torch.tensor([[-step, 0], [0, 0], [0, 1], [step, 0]])
    )
    assert notes == () and (encoding.width, encoding.row_bytes) == (2, 5)


def test_quantiles_are_of_ranks_whatever_the_scale():
    columns = [number(*(10.0**at for at in range(-5, 6)))]
    encoding, _ = Encoding.of(columns, scale="quantile")
    rows = encoding.rows(columns)[:, 0]
    # ranks 0, 0.1, ..., 1: 0.5 is 0, 0.8 is 0.8416, the ends are 0.999
    torch.testing.assert_close(rows[[5, 8, 10]], torch.tensor([0.0, 0.841621, 3.090232]), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows, -rows.flip(0), atol=1e-5, rtol=0)
    back = encoding.decoded(encoding.rows(columns))["x"]
    np.testing.assert_allclose(back[1:-1], columns[0].values[1:-1], rtol=1e-3)


def test_tied_quantiles_take_the_middle_rank():
    columns = [number(0, 0, 0, 0, 1)]
    encoding, _ = Encoding.of(columns, scale="quantile")
    rank = torch.special.ndtr(encoding.rows(columns)[:, 0])
    torch.testing.assert_close(rank, torch.tensor([0.375] * 4 + [0.999]), atol=1e-5, rtol=0)


def test_rare_categories_count_as_one_and_strangers_with_them():
    encoding, notes = Encoding.of([words("a", "a", "b", "b", "c", "d", None)], most=3)
    assert encoding.rows([words("a", "b", "d", "new", None)]).tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
    ]
    assert notes == ("columns of more than 3 categories, the rarer of which count as one: w (4)",)
    assert encoding.decoded(torch.eye(4))["w"] == ["a", "b", "(other)", None]


def test_the_price_counts_bits_of_what_is_stored():
    many = [f"c{at}" for at in range(300)]
    columns = [
        number(*range(300)),
        words(*many, name="many"),
        words(*(["a", "b", None] * 100), name="few"),
        Column("flag", "flag", np.array([0.0, 1] * 150)),
    ]
    encoding, _ = Encoding.of(columns, most=1000)
    assert [column.bits for column in encoding.columns] == [32, 16, 8, 1] and encoding.row_bytes == 8


def test_learned_rows_are_decoded_to_what_can_be():
    encoding, _ = Encoding.of([number(1, 3), words("a", "b"), Column("f", "flag", np.array([0.0, 1]))])
    rows = torch.tensor([[0.4, 0.2, 0.1, 0.6], [-9.0, -0.1, 0.3, -0.2]])
    assert encoding.decoded(rows) == {"x": [2, -7], "w": ["a", "b"], "f": [True, False]}


def test_numbers_far_away_stay_finite():
    encoding, _ = Encoding.of([number(0, 1e-300)])
    assert encoding.rows([number(1e300)]).tolist() == [[FARTHEST]]


def test_an_encoding_is_kept_as_json():
    columns = [number(1, 2, NAN, 4), words("a", None, "b", "a"), number(5, 6, 7, 9, name="y")]
    for scale in ("standard", "quantile"):
        encoding, _ = Encoding.of(columns, scale=scale)
        again = Encoding.from_json(json.loads(json.dumps(encoding.as_json())))
        assert again == encoding and torch.equal(again.rows(columns), encoding.rows(columns))
    with pytest.raises(InputError, match="is no encoding of a table"):
        Encoding.from_json({"columns": [{"what": "colour"}]})


def test_rows_of_another_table_are_refused():
    encoding, _ = Encoding.of([number(1, 3)])
    with pytest.raises(InputError, match="whose rows have 1 places"):
        encoding.decoded(torch.zeros(2, 3))


def test_a_set_is_written_as_csv_and_drawn():
    encoding, _ = Encoding.of([number(1, 3, NAN), words('a "b"', "c,d", "e")])
    rows = encoding.rows([number(1, NAN), words("c,d", "e")])
    text = csv_text(encoding, rows, torch.tensor([0, 1]), ("no", "yes"), "class")
    assert text == 'x,w,class\n1,"c,d",no\n,e,yes\n'
    picture = preview_png(encoding, rows, torch.tensor([0, 1]), ("no", "yes"), "class")
    assert picture.startswith(b"\x89PNG") and picture == preview_png(
        encoding, rows, torch.tensor([0, 1]), ("no", "yes"), "class"
    )
