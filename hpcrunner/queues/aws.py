"""Access to one AWS account's SQS: where its credentials come from, and clients made of them."""

from __future__ import annotations

import configparser
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcrunner.privatefile import read_private
from hpcrunner.queues.contract import QueueUnavailable
from hpcrunner.queues.errors import OptionInvalid

# Each new client is worth a line to botocore, and in its detailed ones there are messages.
logging.getLogger("botocore").setLevel(logging.WARNING)

SQS_TIMEOUT = 15.0  # seconds, of one call
LONGEST_WAIT = 20  # seconds; what SQS allows a receive to wait
_TRIES = 3  # of one call, by botocore: throttled, or broken on the way


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """One static set of credentials."""

    access_key: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """What it takes to talk to SQS; ``label`` is for logs.

    Without ``keys`` AWS's own default chain is asked: environment, ``~/.aws``, and so on.
    """

    label: str
    region: str
    keys: AwsKeys | None = None

    @property
    def server(self) -> str:
        """How sources and logs call the server that this leads to."""
        return f"sqs {self.region} ({self.label})"


def default_access(region: str) -> AwsAccess:
    """``--aws-region``: the default chain of credentials in that region."""
    return AwsAccess("default credentials", region)


def access_of_folder(folder: Path) -> AwsAccess:
    """One sub-folder of ``--sqs-certs``: exactly two files that do not start with a dot.

    One of them has a line ``region=…``; the other is an AWS shared credentials file, of which
    the profile ``default`` counts. Raises OptionInvalid or SecretRefused, without a credential
    in the text.
    """
    texts = {path: _text(path) for path in credential_files(folder)}
    with_region = [path for path, text in texts.items() if _region(text)]
    # Both may name a region; the one with the keys is the credentials file then.
    with_region.sort(key=lambda path: _holds_keys(texts[path]))
    if not with_region:
        raise OptionInvalid(
            "none of its two files has a line region=…",
            where=str(folder),
            remedy="add it to the file beside the credentials: region=us-west-2",
        )
    config = with_region[0]
    (credentials,) = (path for path in texts if path != config)
    return AwsAccess(
        f"aws_{folder.name}", _region(texts[config]), _keys(credentials, texts[credentials])
    )


def credential_files(folder: Path) -> list[Path]:
    """The two files of a credentials folder, by name. Raises OptionInvalid."""
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    except OSError as error:
        raise OptionInvalid(f"cannot be read: {error.strerror}", where=str(folder)) from error
    if len(found) != 2:
        raise OptionInvalid(
            f"holds {len(found)} file(s), and it takes exactly two: config and credentials",
            where=str(folder),
        )
    return found


def sqs_client(access: AwsAccess, *, timeout: float = SQS_TIMEOUT, wait: float = 0.0) -> Any:
    """A boto3 client of SQS, which threads may share. ``AWS_ENDPOINT_URL_SQS`` is honoured.

    A call has ``timeout`` seconds a try; ``wait`` is how much longer a receive may take. Raises
    QueueUnavailable where no client can be made of these settings.
    """
    import boto3  # not by everybody who only reads options
    from botocore.config import Config

    keys = access.keys
    with sqs_errors(access.label):
        session = boto3.session.Session(
            aws_access_key_id=keys.access_key if keys else None,
            aws_secret_access_key=keys.secret_access_key if keys else None,
            aws_session_token=keys.session_token if keys else None,
            region_name=access.region,
        )
        return session.client(
            "sqs",
            config=Config(
                connect_timeout=timeout,
                read_timeout=timeout + wait,
                retries={"mode": "standard", "total_max_attempts": _TRIES},
            ),
        )


def queue_url(client: Any, name: str) -> str | None:
    """The URL of a queue by its name, None where there is none. Raises QueueUnavailable."""
    from botocore.exceptions import ClientError

    with sqs_errors(name):
        try:
            return str(client.get_queue_url(QueueName=name)["QueueUrl"])
        except ClientError as error:
            if error_code(error) not in GONE:
                raise
            return None


def send_message(client: Any, url: str, text: str) -> None:
    """Send one message to a queue, as StudioML's client does. Raises QueueUnavailable."""
    with sqs_errors(url.rpartition("/")[2]):
        client.send_message(QueueUrl=url, MessageBody=text)


@contextmanager
def sqs_errors(where: str) -> Iterator[None]:
    """What botocore raises, as QueueUnavailable in one line."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        yield
    except ClientError as error:
        code = error_code(error)
        raise QueueUnavailable(
            f"SQS says {code}", where=where, remedy=_REMEDIES.get(code, "")
        ) from error
    except (BotoCoreError, HTTPClientError, ValueError, OSError) as error:
        # Some of these texts hold the endpoint, none a credential.
        raise QueueUnavailable(f"SQS: {error}", where=where) from error


_RENEW = "check the credentials of --sqs-certs, or AWS's default ones"
LOGIN = frozenset(  # what only a person can mend
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "MissingAuthenticationToken",
    }
)
_RIGHTS = (
    "the account needs the rights to ListQueues, GetQueueUrl, ReceiveMessage, DeleteMessage and "
    "ChangeMessageVisibility; without ListQueues name the queues with --queue"
)
_REMEDIES = {
    **dict.fromkeys(LOGIN, _RENEW),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException"), _RIGHTS),
}
GONE = frozenset({"QueueDoesNotExist", "NonExistentQueue", "QueueDeletedRecently"})
THROTTLED = frozenset(
    {"Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded"}
)


def error_code(error: BaseException | None) -> str:
    """The word SQS gave for a refusal; "" where it said nothing."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    # Older services prefix it: AWS.SimpleQueueService.NonExistentQueue.
    return str(response.get("Error", {}).get("Code", "")).rpartition(".")[2]


def http_status(error: BaseException | None) -> int:
    """The HTTP status of a refusal; 0 where there was none."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _text(path: Path) -> str:
    try:
        return read_private(path).decode()
    except UnicodeDecodeError as error:
        raise OptionInvalid("is not text", where=str(path)) from error


def _region(text: str) -> str:
    """The value of the first line ``region=…``, blanks and case aside; "" if there is none."""
    for line in text.splitlines():
        name, equals, value = "".join(line.split()).partition("=")
        if equals and name.lower() == "region" and value:
            return value
    return ""


def _holds_keys(text: str) -> bool:
    return "aws_access_key_id" in text.lower()


def _keys(path: Path, text: str) -> AwsKeys:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
        profile = parser["default"]
        access, secret = profile["aws_access_key_id"], profile["aws_secret_access_key"]
    except (configparser.Error, KeyError):
        # Their own texts may quote a line, and with it a key.
        access = secret = ""
    if not access or not secret:
        raise OptionInvalid(
            "is no AWS credentials file with a profile default",
            where=str(path),
            remedy="it takes [default], aws_access_key_id and aws_secret_access_key",
        ) from None
    return AwsKeys(access.strip(), secret.strip(), profile.get("aws_session_token"))
