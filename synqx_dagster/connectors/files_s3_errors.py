"""What an object store's errors mean to a user; its own messages may hold keys and hosts, so only codes are taken."""

from __future__ import annotations

from typing import Any

from synqx_dagster.errors import ConnectionFailedError, DatabaseError, RetryableError, SynqxError

_AUTHENTICATION = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "AuthFailure")
_BUSY = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "500", "502", "503", "504", "Throttling")


def error_code(exc: Any) -> str:
    """The store's code for what went wrong, such as ``NoSuchKey``."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def wrap_client_error(exc: Exception, where: str) -> SynqxError:
    """The error to raise for one of botocore's."""
    from botocore import exceptions as boto

    if isinstance(exc, boto.ClientError):
        return _wrap_code(error_code(exc), where)
    if isinstance(exc, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)):
        return ConnectionFailedError(
            f"{where}: there are no credentials",
            reason="authentication",
            hint="give the access key as username and password, or set the environment's (AWS_ACCESS_KEY_ID, ...)",
        )
    if isinstance(exc, boto.SSLError):
        return ConnectionFailedError(
            f"{where}: the store's certificate is not trusted",
            reason="tls",
            hint="give options.ca_file, or check options.endpoint",
        )
    if isinstance(exc, (boto.ConnectTimeoutError, boto.ReadTimeoutError)):
        return ConnectionFailedError(f"{where}: the store does not answer", reason="timeout", hint="is it reachable?")
    if isinstance(exc, boto.EndpointConnectionError):
        return ConnectionFailedError(
            f"{where}: the store cannot be reached", reason="refused", hint="check options.endpoint and options.region"
        )
    if isinstance(exc, boto.ProxyConnectionError):
        return ConnectionFailedError(
            f"{where}: the proxy cannot be reached", reason="refused", hint="check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        )
    if isinstance(exc, (boto.ConnectionClosedError, boto.HTTPClientError)):
        return RetryableError(f"{where}: the connection to the store broke")
    return DatabaseError(f"{where}: {type(exc).__name__}")


def _wrap_code(code: str, where: str) -> SynqxError:
    if code in _AUTHENTICATION:
        return ConnectionFailedError(
            f"{where}: the store refuses the access key", reason="authentication", hint="check username and password"
        )
    if code == "NoSuchBucket":
        return ConnectionFailedError(
            f"{where}: there is no such bucket", reason="database_missing", hint="check options.url and options.region"
        )
    if code in ("AccessDenied", "403", "AllAccessDisabled"):
        return DatabaseError(
            f"{where}: the store denies access",
            hint="the access key needs s3:ListBucket, s3:GetObject, and to write s3:PutObject and s3:DeleteObject",
            code=code,
        )
    if code in _BUSY:
        return RetryableError(f"{where}: the store is busy ({code})")
    return DatabaseError(f"{where}: the store answers {code or 'with an error'}", code=code)
