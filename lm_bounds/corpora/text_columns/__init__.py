"""Documents that are the rows of a column of strings, in .parquet and .arrow files."""

from lm_bounds.corpora.text_columns.arrow import ArrowColumn, MappedFiles
from lm_bounds.corpora.text_columns.parquet import ParquetColumn, RowGroup
from lm_bounds.corpora.text_columns.strings import Strings

__all__ = ["ArrowColumn", "MappedFiles", "ParquetColumn", "RowGroup", "Strings"]
