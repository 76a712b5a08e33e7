"""The options that name queues and their servers, for the gateway and for the doctor."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from hpcrunner.cli.options import option

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
