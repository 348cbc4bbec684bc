"""Every error that casebook raises on purpose.

    CasebookError                exit status 1
    ├── UsageError               exit status 2: the request itself is wrong
    │   └── UnknownNameError     no such dataset, backbone, split ...; suggests the nearest
    ├── DatasetError             a dataset file or folder is not what it must be
    │   ├── DownloadError        a dataset file could not be fetched
    │   └── DamagedDatasetError  its bytes are not those its own checksums name
    ├── BackboneError            a backbone cannot be built or run
    │   └── WeightsError         its weights are missing, damaged or do not fit
    ├── EncodingError            an image could not be turned into a finite embedding
    ├── StoreError               the embedding store cannot be read or written
    │   ├── CellBusyError        another process is writing this cell
    │   ├── FingerprintError     a stored cell was made in another way than is asked
    │   ├── DamagedCellError     a stored file does not follow docs/store-format.md
    │   └── StoreFullError       the disk, the quota or a file-size limit is exhausted
    ├── SearchError              a search index cannot be built or asked
    │   └── ZeroVectorError      a zero vector has no cosine
    └── EvaluationError          a figure cannot be computed from what is stored

A message is one line that says what is wrong and what to do next.
"""

from __future__ import annotations


class CasebookError(Exception):
    """Base of all; the command line prints it on one line and leaves with ``exit_status``."""

    exit_status = 1


class UsageError(CasebookError):
    exit_status = 2


class UnknownNameError(UsageError):
    pass


class DatasetError(CasebookError):
    pass


class DownloadError(DatasetError):
    pass


class DamagedDatasetError(DatasetError):
    pass


class BackboneError(CasebookError):
    pass


class WeightsError(BackboneError):
    pass


class EncodingError(CasebookError):
    pass


class StoreError(CasebookError):
    pass


class CellBusyError(StoreError):
    pass


class FingerprintError(StoreError):
    pass


class DamagedCellError(StoreError):
    pass


class StoreFullError(StoreError):
    pass


class SearchError(CasebookError):
    pass


class ZeroVectorError(SearchError):
    pass


class EvaluationError(CasebookError):
    pass
