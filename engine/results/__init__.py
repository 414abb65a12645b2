"""Results that store values: in the state itself, in files, in object stores."""

from __future__ import annotations

from .constant import ConstantResult
from .default import DefaultResult
from .local import LocalResult
from .objects import AzureResult, GCSResult, HTTPResult, S3Result
from .prefect import PrefectResult
from .secret import SecretResult
from .trusted import ResultNotTrusted
from .typed import TypedResult

__all__ = [
    "AzureResult",
    "ConstantResult",
    "DefaultResult",
    "GCSResult",
    "HTTPResult",
    "LocalResult",
    "PrefectResult",
    "ResultNotTrusted",
    "S3Result",
    "SecretResult",
    "TypedResult",
]
