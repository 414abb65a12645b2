"""Type variables that may have defaults, on every Python."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 13):
    from typing import ParamSpec as ParamSpec
    from typing import TypeVar as TypeVar
else:
    from typing_extensions import ParamSpec as ParamSpec
    from typing_extensions import TypeVar as TypeVar
