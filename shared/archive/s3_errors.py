"""What the SDK raises, in our words: what was attempted, what is wrong, what mends it.

Nothing that the SDK knows of credentials is told: only codes, and the host of the endpoint.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from botocore import exceptions as sdk

from shared.archive.addresses import S3Address
from shared.archive.errors import NoBucket, StoreBusy, StoreRefused, StoreUnreachable
from shared.errors import Refused, SeawallError


class Absent(Refused):
    """There is no such object. For the adapter alone."""

    code = "absent"


class Changed(Refused):
    """The condition of a write does not hold. For the adapter alone."""

    code = "changed"


_BUSY: Final = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests",
    "RequestTimeout", "ConditionalRequestConflict", "OperationAborted",
}  # fmt: skip
"""Beside every 5xx and 429. The last two: another write to the same object was under way."""

_PERMISSIONS: Final = (
    "allow this identity s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and"
    " s3:DeleteObject on what is in it (docs/log.md)"
)
_NAME_CREDENTIALS: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN too for temporary ones),"
    " or AWS_PROFILE, or give this machine a role"
)
_REGION: Final = "set AWS_DEFAULT_REGION to the bucket's region"

_REFUSALS: Final = {
    "AccessDenied": ("no-permission", _PERMISSIONS),
    "AllAccessDisabled": ("no-permission", _PERMISSIONS),
    "AccountProblem": ("no-permission", "the account's owner must ask the provider"),
    "InvalidAccessKeyId": ("bad-credentials", _NAME_CREDENTIALS),
    "SignatureDoesNotMatch": ("bad-credentials", _NAME_CREDENTIALS),
    "InvalidToken": ("bad-credentials", _NAME_CREDENTIALS),
    "ExpiredToken": ("bad-credentials", "get new temporary credentials and begin again"),
    "RequestTimeTooSkewed": ("clock-skew", "set the clock of this machine"),
    "AuthorizationHeaderMalformed": ("wrong-region", _REGION),
    "IllegalLocationConstraintException": ("wrong-region", _REGION),
    "PermanentRedirect": ("wrong-region", _REGION),
    "NotImplemented": (
        "no-conditional-writes",
        "use a store, or a version of it, that knows If-None-Match and If-Match for PutObject",
    ),
}
"""The store's code: ours, and the remedy."""

_CREDENTIALS: Final = (
    sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError,
    sdk.NoAuthTokenError, sdk.TokenRetrievalError, sdk.SSOError, sdk.ProfileNotFound,
    sdk.ConfigNotFound, sdk.ConfigParseError, sdk.InvalidConfigError, sdk.MetadataRetrievalError,
)  # fmt: skip


def explained(
    raised: Exception, *, doing: str, address: S3Address, endpoint: str = ""
) -> SeawallError:
    """The error to raise instead of one of the SDK's. `doing` is as "read manifest.json"."""
    what = f"cannot {doing} in {address}"
    if isinstance(raised, sdk.ClientError):
        return _of_answer(raised, what, address)
    if isinstance(raised, _CREDENTIALS):
        why = f"no credentials can be had ({type(raised).__name__})"
        return StoreRefused(f"{what}: {why}", remedy=_NAME_CREDENTIALS, code="no-credentials")
    if isinstance(raised, sdk.SSLError):
        return StoreRefused(
            f"{what}: {host_of(endpoint)} has no certificate that is trusted here",
            remedy="set AWS_CA_BUNDLE to the file of its authority, or mend AWS_ENDPOINT_URL_S3",
            code="no-trust",
        )
    if isinstance(raised, sdk.NoRegionError):
        return StoreRefused(f"{what}: no region is set", remedy=_REGION, code="wrong-region")
    if isinstance(raised, ValueError | sdk.ParamValidationError):
        # What the SDK makes of settings it cannot use, as of an endpoint without a scheme.
        return StoreRefused(
            f"{what}: the SDK refuses its settings ({type(raised).__name__})",
            remedy="check AWS_ENDPOINT_URL_S3 (https://HOST[:PORT]) and the SDK's own files",
            code="bad-settings",
        )
    return StoreUnreachable(
        f"{what}: {host_of(endpoint)} does not answer ({type(raised).__name__})",
        remedy="check the network, AWS_ENDPOINT_URL_S3 and AWS_DEFAULT_REGION",
    )


def host_of(endpoint: str) -> str:
    """Host and port of an endpoint: what else may stand in a URL is nobody's business."""
    parts = urlsplit(endpoint)
    if not parts.hostname:
        return "the object store"
    return parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"


def _of_answer(raised: sdk.ClientError, what: str, address: S3Address) -> SeawallError:
    code = str(raised.response.get("Error", {}).get("Code", ""))
    status = int(raised.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in {"NoSuchBucket", "InvalidBucketName"}:
        return NoBucket(
            f"{what}: there is no bucket {address.bucket}",
            remedy="make it, or check its name and AWS_ENDPOINT_URL_S3",
        )
    if code in {"NoSuchKey", "404", "NotFound"}:
        return Absent(what)
    if code in {"PreconditionFailed", "412"}:
        return Changed(what)
    if code in _REFUSALS:
        ours, remedy = _REFUSALS[code]
        return StoreRefused(f"{what}: the store says {code}", remedy=remedy, code=ours)
    if code in _BUSY or status == 429 or status >= 500:
        return StoreBusy(
            f"{what}: the store says {code or status}",
            remedy="try again later; the export before this one stands",
        )
    if status == 403:
        why = f"the store says {code}"
        return StoreRefused(f"{what}: {why}", remedy=_PERMISSIONS, code="no-permission")
    return StoreRefused(
        f"{what}: the store says {code or status}", remedy="look that up in the store's manual"
    )
