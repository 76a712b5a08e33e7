"""From the queue options a person gave to the sources a gateway takes from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpcrunner.queues.aws import SQS_TIMEOUT, AwsAccess, access_of_folder, default_access
from hpcrunner.queues.contract import EQUAL, Shares, Source
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.google import access_of_file, require_pubsub
from hpcrunner.queues.matching import DEFAULT_MATCH, QueueFilter
from hpcrunner.queues.pubsub import PUBSUB_TIMEOUT, pubsub_source
from hpcrunner.queues.rabbitmq import RabbitSource
from hpcrunner.queues.sqs import sqs_source
from hpcrunner.queues.watched import WatchedSource, files_below, folders_in, stamp_of

_LONGEST_CALL = 300.0
_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """The queue options as given; empty means not given.

    ``queues`` names the only queues to read, in the place of the two patterns. URLs, folders
    and files may hold ``$NAME`` or ``${NAME}``. ``gateway_id`` is unique among the gateways that
    share a queue root, and the same after a restart: by it a gateway finds again what it had
    taken. ``aws_region`` asks for SQS with AWS's own default credentials. Time-outs are seconds
    of one call.
    """

    gateway_id: str
    amqp_url: str = field(default="", repr=False)
    amqp_mgt_url: str = field(default="", repr=False)
    queues: tuple[str, ...] = ()
    queue_match: str = DEFAULT_MATCH
    queue_mismatch: str = ""
    queue_root: str = ""
    sqs_certs: str = ""
    aws_region: str = ""
    sqs_timeout: float = SQS_TIMEOUT
    google_certs: str = ""
    google_application_credentials: str = ""
    pubsub_timeout: float = PUBSUB_TIMEOUT


def sources_from(
    options: QueueOptions,
    environ: Mapping[str, str] = os.environ,
    *,
    shares: Shares = EQUAL,
) -> list[Source]:
    """The sources of these options, none of them connected yet. Raises OptionInvalid."""
    amqp_url = expanded(options.amqp_url, "--amqp-url", environ)
    management_url = expanded(options.amqp_mgt_url, "--amqp-mgt-url", environ)
    queue_root = expanded(options.queue_root, "--queue-root", environ)
    if options.queues:
        queue_filter = QueueFilter.only(options.queues)
    else:
        queue_filter = QueueFilter(options.queue_match, options.queue_mismatch)
    sources: list[Source] = []
    if queue_root:
        root = Path(queue_root).expanduser()
        sources.append(DirectorySource(root, queue_filter, options.gateway_id, shares=shares))
    if amqp_url:
        sources.append(
            RabbitSource(
                amqp_url,
                queue_filter,
                management_url=management_url,
                queues=options.queues,
                connection_name=f"hpcrunner {options.gateway_id}",
                shares=shares,
            )
        )
    sources += _sqs(options, queue_filter, environ, shares)
    sources += _pubsub(options, queue_filter, environ, shares)
    return sources


def _sqs(
    options: QueueOptions, queue_filter: QueueFilter, environ: Mapping[str, str], shares: Shares
) -> Iterator[Source]:
    _refuse_no_time(options.sqs_timeout, "--sqs-timeout")

    def source(access: AwsAccess) -> Source:
        return sqs_source(
            access,
            queue_filter,
            queues=options.queues,
            timeout=options.sqs_timeout,
            shares=shares,
        )

    if options.sqs_certs:
        root = path_of(options.sqs_certs, "--sqs-certs", environ)
        yield WatchedSource(
            f"sqs by {root}",
            "sqs",
            lambda: folders_in(root),
            lambda folder: source(access_of_folder(Path(folder))),
            shares=shares,
        )
    if options.aws_region:
        yield source(default_access(options.aws_region))


def _pubsub(
    options: QueueOptions, queue_filter: QueueFilter, environ: Mapping[str, str], shares: Shares
) -> Iterator[Source]:
    _refuse_no_time(options.pubsub_timeout, "--pubsub-timeout")

    def source(file: str) -> Source:
        access = access_of_file(Path(file), environ)
        return pubsub_source(access, queue_filter, timeout=options.pubsub_timeout, shares=shares)

    if options.google_certs:
        require_pubsub()
        root = path_of(options.google_certs, "--google-certs", environ)
        yield WatchedSource(
            f"pubsub by {root}",
            "pubsub",
            lambda: files_below(root, ".json"),
            source,
            shares=shares,
        )
    if options.google_application_credentials:
        file = path_of(
            options.google_application_credentials, "GOOGLE_APPLICATION_CREDENTIALS", environ
        )
        yield WatchedSource(
            f"pubsub by {file}",
            "pubsub",
            lambda: {str(file): stamp_of([file])},
            source,
            shares=shares,
        )


def path_of(text: str, option: str, environ: Mapping[str, str]) -> Path:
    """The whole path that an option means. Raises OptionInvalid as ``expanded``."""
    return Path(expanded(text, option, environ)).expanduser().absolute()


def _refuse_no_time(seconds: float, option: str) -> None:
    if not 0 < seconds <= _LONGEST_CALL:
        raise OptionInvalid(
            f"{seconds:g} s is no time to wait for an answer",
            where=option,
            remedy=f"give a duration above 0 and up to {_LONGEST_CALL:g} s",
        )


def expanded(text: str, option: str, environ: Mapping[str, str]) -> str:
    """``text`` with its variables from the environment. Raises OptionInvalid for unset ones.

    The Go runner takes an unset variable for nothing, which turns a forgotten export into an
    error about something else.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] if match[1] is not None else match[2]
        if name not in environ:
            # What does not look like a variable may be the end of a password.
            shown = name if name.isupper() else "a variable it names"
            raise OptionInvalid(
                f"the environment has no {shown}",
                where=option,
                remedy="export it, or write %24 for a $ that belongs to a password",
            )
        return environ[name]

    return _VARIABLE.sub(value, text)
