"""The options that name queues and their servers, for the gateway and for the doctor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from hpcrunner.cli.options import option
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.request.units import parse_duration

queues = partial(option, rich_help_panel="Queues")

AmqpUrl = Annotated[
    str,
    queues(
        "--amqp-url",
        "RabbitMQ: amqp[s]://user:password@host:port/vhost. Give it as the environment "
        "variable where other users can list processes.",
    ),
]
AmqpMgtUrl = Annotated[
    str,
    queues(
        "--amqp-mgt-url",
        "RabbitMQ's management API, where queues are discovered; default: the same host, "
        "port + 10000.",
    ),
]
Queue = Annotated[
    list[str] | None,
    queues("--queue", "A queue by name, instead of the two patterns. May be repeated."),
]
QueueRoot = Annotated[
    str, queues("--queue-root", "Folder of directory queues (StudioML's local_*).")
]
QueueMatch = Annotated[
    str, queues("--queue-match", "Serve queues whose name this regular expression finds.")
]
QueueMismatch = Annotated[
    str, queues("--queue-mismatch", "But not those whose name this one finds.")
]
SqsCerts = Annotated[
    str,
    queues(
        "--sqs-certs",
        "Folder of AWS credentials, watched: each sub-folder holds a config file with "
        "region=… and a credentials file.",
    ),
]
AwsRegion = Annotated[
    str, queues("--aws-region", "SQS of this region, with AWS's default credentials.")
]
SqsTimeout = Annotated[str, queues("--sqs-timeout", "Limit of one call of SQS.")]
GoogleCerts = Annotated[
    str,
    queues(
        "--google-certs",
        "Folder of service accounts' *.json files, watched: Pub/Sub of their projects.",
    ),
]
GoogleApplicationCredentials = Annotated[
    str,
    queues("--google-application-credentials", "One such file, as Google's own tools know it."),
]
PubsubTimeout = Annotated[str, queues("--pubsub-timeout", "Limit of one call of Pub/Sub.")]


def queue_options(
    gateway_id: str,
    *,
    amqp_url: str,
    amqp_mgt_url: str,
    queue: Sequence[str] | None,
    queue_root: str,
    queue_match: str,
    queue_mismatch: str,
    sqs_certs: str,
    aws_region: str,
    sqs_timeout: str,
    google_certs: str,
    google_application_credentials: str,
    pubsub_timeout: str,
) -> QueueOptions:
    """What was given of these. Raises UnitError."""
    return QueueOptions(
        gateway_id=gateway_id,
        amqp_url=amqp_url,
        amqp_mgt_url=amqp_mgt_url,
        queues=tuple(queue or ()),
        queue_root=queue_root,
        queue_match=queue_match,
        queue_mismatch=queue_mismatch,
        sqs_certs=sqs_certs,
        aws_region=aws_region,
        sqs_timeout=parse_duration(sqs_timeout),
        google_certs=google_certs,
        google_application_credentials=google_application_credentials,
        pubsub_timeout=parse_duration(pubsub_timeout),
    )
