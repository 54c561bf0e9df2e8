"""Tables that need no file: scikit-learn's, and computed ones with categories and missing values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow

APPLICANTS = "applicants"
OF_SCIKIT_LEARN = {"breast-cancer": "load_breast_cancer", "wine": "load_wine", "iris": "load_iris"}
BUILTIN = (*OF_SCIKIT_LEARN, APPLICANTS)
ROWS, SEED = 8000, 0
REGIONS = ("north", "east", "south", "west", "coast", "hills", "city", "islands")
TRADES = tuple(f"trade-{at:02d}" for at in range(24))
PLANS = ("basic", "plus", "family")


def builtin(name: str) -> Any:
    """A table by name, its labels in the column ``label``."""
    if name == APPLICANTS:
        return applicants()
    from sklearn import datasets

    bunch = getattr(datasets, OF_SCIKIT_LEARN[name])()
    columns = {str(n): values for n, values in zip(bunch.feature_names, bunch.data.T, strict=True)}
    return pyarrow.table({**columns, "label": np.array(bunch.target_names, dtype=object)[bunch.target].tolist()})


def applicants(rows: int = ROWS, seed: int = SEED) -> Any:
    """People who apply for a loan, and whether they got it: four numbers (income heavy-tailed and missing for one in
    ten), a truth value, three categories (3, 8 and 24 words of uneven frequency, the last one missing for one in
    twenty).

    The log odds add up the numbers' and the words' own effects, one between age and plan, and one between debt and
    employment; one label in twenty is turned round.
    """
    random = np.random.default_rng(seed)
    age = random.integers(18, 80, rows)
    income = np.exp(random.normal(10.2, 0.6, rows))
    debt = random.gamma(1.5, 4000, rows)
    years = np.minimum(random.exponential(6, rows), age - 17)
    employed = random.random(rows) < 0.8
    region = random.choice(len(REGIONS), rows, p=_uneven(len(REGIONS)))
    trade = random.choice(len(TRADES), rows, p=_uneven(len(TRADES)))
    plan = random.choice(len(PLANS), rows)
    of_region, of_trade = random.normal(0, 0.7, len(REGIONS)), random.normal(0, 1.0, len(TRADES))
    odds = 1.3 * (np.log(income) - 10.2) - 0.00012 * (debt - 6000) * (2 - employed) + 0.05 * (years - 5)
    odds += of_region[region] + of_trade[trade] + 0.03 * (age - 48) * (plan - 1) + 0.6 * employed - 0.5
    granted = (odds > 0) ^ (random.random(rows) < 0.05)
    no_income, no_trade = random.random(rows) < 0.1, random.random(rows) < 0.05
    return pyarrow.table(
        {
            "age": age,
            "income": [None if gone else round(float(x), 2) for x, gone in zip(income, no_income, strict=True)],
            "debt": debt.round(2),
            "years": years.round(1),
            "employed": employed,
            "region": [REGIONS[at] for at in region],
            "trade": [None if gone else TRADES[at] for at, gone in zip(trade, no_trade, strict=True)],
            "plan": [PLANS[at] for at in plan],
            "label": ["granted" if yes else "refused" for yes in granted],
        }
    )


def _uneven(count: int) -> np.ndarray:
    shares = 1 / np.arange(1, count + 1)
    return np.asarray(shares / shares.sum())
