"""Results in object stores: S3, Google Cloud Storage, Azure, and any HTTP server that takes GET and PUT.

They work through obstore, which comes with ``pip install 'flowloop[objects]'``. It reads credentials from the
environment of the process, as the tools of each cloud do; `options` says what the environment does not.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..errors import FlowloopError
from ..result import ResultNotFound
from ..serializers import Serializer
from ..settings import Settings
from ._stored import StoredResult
from ._threads import in_thread
from .trusted import check_object, trust

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["AzureResult", "GCSResult", "HTTPResult", "ObjectResult", "ResultStoreError", "S3Result", "results_at"]


class ResultStoreError(FlowloopError):
    """An object store did not do what was asked; its own error is the cause."""


_SCHEMES = {"S3Store": "s3://", "GCSStore": "gs://", "AzureStore": "az://", "HTTPStore": ""}

_STORES: dict[tuple[str, str, str], ObjectStore] = {}


class ObjectResult(StoredResult):
    """What the results in object stores have in common."""

    folder = ""
    """The folder of the keys that are given without it."""
    store_class: ClassVar[str]
    place_field: ClassVar[str]
    is_written_anywhere = True
    options: Mapping[str, Any] = {}

    def __init__(
        self,
        options: Mapping[str, Any] | None,
        value: Any,
        location: str | Callable[..., str] | None,
        serializer: Serializer | None,
    ) -> None:
        super().__init__(value, location, serializer)
        self.options = dict(options or {})

    @property
    def _place(self) -> str:
        return str(getattr(self, self.place_field))

    @property
    def _store(self) -> ObjectStore:
        # one store, with its connections, for all results of the process that say the same
        key = (self.store_class, self._place, repr(sorted(self.options.items())))
        if key not in _STORES:
            _STORES[key] = _open_store(self.store_class, self._place, self.options)
        return _STORES[key]

    def _error(self, verb: str, location: str, error: Exception) -> FlowloopError:
        return ResultStoreError(f"cannot {verb} {location!r} in {type(self).__name__} {self._place!r}: {error}")

    async def check_recorded(self, location: str) -> None:
        """Check that an object is to be read that a recorded state names; see `Result.check_recorded`."""
        if self.is_recorded:
            check_object(self._url, location)

    def _key(self, location: str) -> str:
        inside = not self.folder or location.startswith(f"{self.folder}/")
        return location if inside else f"{self.folder}/{location}"

    @property
    def _url(self) -> str:
        return f"{_SCHEMES[self.store_class]}{self._place}"

    async def read(self, location: str) -> Self:
        """Return a result with the value of an object.

        Raises:
            - ResultNotFound: if there is no such object
            - ResultStoreError: if the store does not answer as it should
            - SerializationError: if the object does not hold what the serializer writes
        """
        store = self._store
        from obstore.exceptions import BaseError, NotFoundError

        location = self._key(location)
        try:
            answer = await store.get_async(location)
            data = bytes(await answer.bytes_async())
        except (FileNotFoundError, NotFoundError) as error:
            raise ResultNotFound(f"no result is stored at {location!r} in {self._place!r}") from error
        except BaseError as error:
            raise self._error("read", location, error) from error
        new = self.copy()
        new.location = location
        new.value = await in_thread(self._loaded, data, location)
        return new

    def _loaded(self, data: bytes, location: str) -> Any:
        self._check(data, f"{location!r} in {self._place!r}")
        return self.serializer.deserialize(data)

    def _dumped(self, value: Any) -> bytes:
        data = self.serializer.serialize(value)
        self._note(data)
        return data

    async def write(self, value: Any, /, **kwargs: Any) -> Self:
        """Write an object, and return a result with its location.

        Raises:
            - ResultStoreError: if the store does not answer as it should
            - SerializationError: if the serializer cannot take the value
        """
        store = self._store
        from obstore.exceptions import BaseError

        new = self.format(**kwargs)
        new.value = value
        location = new.location = self._key(new.location or self.default_location)
        data = await in_thread(new._dumped, value)
        try:
            await store.put_async(location, data)
        except BaseError as error:
            raise self._error("write", location, error) from error
        return new

    async def exists(self, location: str, /, **kwargs: Any) -> bool:
        """Tell whether there is an object at `location`, its template filled from `kwargs`."""
        store = self._store
        from obstore.exceptions import BaseError, NotFoundError

        if kwargs:
            location = self.at(location).format(**kwargs).location or ""
        location = self._key(location)
        try:
            await store.head_async(location)
        except (FileNotFoundError, NotFoundError):
            return False
        except BaseError as error:
            raise self._error("look for", location, error) from error
        return True

    async def remove(self, location: str) -> None:
        """Remove an object."""
        store = self._store
        from obstore.exceptions import BaseError, NotFoundError

        location = self._key(location)
        try:
            await store.delete_async(location)
        except (FileNotFoundError, NotFoundError):
            pass
        except BaseError as error:
            raise self._error("remove", location, error) from error


_LONGEST_PATIENCE = 290.0
"""Seconds after which the signature of a request is too old to send it again."""


def _patience() -> dict[str, Any]:
    """Return for how long a store is waited for that does not answer, or says that it cannot now: as a backend is."""
    seconds = min(Settings.from_env().outage_limit, _LONGEST_PATIENCE)
    return {"max_retries": 10_000 if seconds else 0, "retry_timeout": datetime.timedelta(seconds=seconds)}


def _open_store(store_class: str, place: str, options: Mapping[str, Any]) -> ObjectStore:
    try:
        from obstore import store
    except ImportError as error:
        raise FlowloopError("results in object stores need obstore: pip install 'flowloop[objects]'") from error
    given = {"retry_config": _patience(), **options}
    if f"{place} {given.get('endpoint')}".count("http://"):  # plain HTTP is refused unless it is asked for
        given["client_options"] = {"allow_http": True, **given.get("client_options", {})}
    opened: ObjectStore = getattr(store, store_class)(place, **given)
    return opened


class _BucketResult(ObjectResult):
    place_field = "bucket"

    def __init__(
        self,
        bucket: str,
        *,
        options: Mapping[str, Any] | None = None,
        value: Any = None,
        location: str | Callable[..., str] | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        super().__init__(options, value, location, serializer)
        self.bucket = bucket
        trust(self._url)


class S3Result(_BucketResult, wire_type="S3Result", wire_fields=("location", "bucket")):
    """A value in an S3 bucket, or in one of a store that speaks the same language.

    Args:
        - bucket: the bucket
        - options: what the environment does not say: ``region``, ``endpoint``, ``access_key_id``,
            ``secret_access_key`` … as obstore's ``S3Store`` takes them
        - value, location, serializer: as for `Result`

    Example:

        ```python
        Flow("report", result=S3Result("team-results", location="{flow_run_name}/{task_full_name}.pickle"))
        ```
    """

    store_class = "S3Store"


class GCSResult(_BucketResult, wire_type="GCSResult", wire_fields=("location", "bucket")):
    """A value in a bucket of Google Cloud Storage.

    Args:
        - bucket: the bucket
        - options: what the environment does not say: ``service_account_path`` … as obstore's ``GCSStore`` takes them
        - value, location, serializer: as for `Result`
    """

    store_class = "GCSStore"


class AzureResult(ObjectResult, wire_type="AzureResult", wire_fields=("location", "container")):
    """A value in a container of Azure Blob Storage.

    Args:
        - container: the container
        - options: what the environment does not say: ``account_name``, ``account_key``, ``endpoint`` … as obstore's
            ``AzureStore`` takes them
        - value, location, serializer: as for `Result`
    """

    store_class = "AzureStore"
    place_field = "container"

    def __init__(
        self,
        container: str,
        *,
        options: Mapping[str, Any] | None = None,
        value: Any = None,
        location: str | Callable[..., str] | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        super().__init__(options, value, location, serializer)
        self.container = container
        trust(self._url)


class HTTPResult(ObjectResult):
    """A value behind a URL that takes GET, HEAD and PUT.

    Args:
        - url: the URL under which all locations lie
        - options: as obstore's ``HTTPStore`` takes them
        - value, location, serializer: as for `Result`
    """

    store_class = "HTTPStore"
    place_field = "url"

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        value: Any = None,
        location: str | Callable[..., str] | None = None,
        serializer: Serializer | None = None,
    ) -> None:
        super().__init__(options, value, location, serializer)
        self.url = url


_KINDS: dict[str, type[ObjectResult]] = {"s3": S3Result, "gs": GCSResult, "az": AzureResult}


def results_at(
    url: str, location: str | Callable[..., str] | None = None, serializer: Serializer | None = None
) -> ObjectResult:
    """Return where results lie in a bucket, or in a folder of it.

    Args:
        - url: for instance ``s3://bucket/folder``
        - location: in the folder, as for `Result`
        - serializer: as for `Result`

    Raises:
        - FlowloopError: if results cannot lie there
    """
    scheme, _, rest = url.partition("://")
    bucket, _, folder = rest.partition("/")
    kind = _KINDS.get(scheme)
    if kind is None or not bucket:
        raise FlowloopError(f"results cannot lie at {url!r}: name a folder, or s3://BUCKET/FOLDER, gs://… or az://…")
    new = object.__new__(kind)
    ObjectResult.__init__(new, None, None, location, serializer)
    setattr(new, kind.place_field, bucket)
    new.folder = folder.strip("/")
    trust(url)
    return new
