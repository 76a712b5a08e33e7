"""``hpcrunner gateway``: the service on the login node."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

from hpcrunner.cli.common import DEFAULT_SITE, SiteName, SpoolPath, chosen_site
from hpcrunner.cli.options import option
from hpcrunner.gateway.assemble import gateway_id
from hpcrunner.gateway.gateway import Limits
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.gateway.orders import Orders
from hpcrunner.gateway.serve import serve
from hpcrunner.queues.matching import DEFAULT_MATCH
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.request.units import parse_duration


def gateway(
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    amqp_url: Annotated[
        str,
        option(
            "--amqp-url",
            "RabbitMQ: amqp[s]://user:password@host:port/vhost. Give it as the environment "
            "variable where other users can list processes.",
        ),
    ] = "",
    amqp_mgt_url: Annotated[
        str,
        option(
            "--amqp-mgt-url",
            "RabbitMQ's management API, where queues are discovered; default: the same host, "
            "port + 10000.",
        ),
    ] = "",
    queue: Annotated[
        list[str] | None,
        option("--queue", "A queue by name, instead of the two patterns. May be repeated."),
    ] = None,
    queue_root: Annotated[
        str, option("--queue-root", "Folder of directory queues (StudioML's local_*).")
    ] = "",
    queue_match: Annotated[
        str, option("--queue-match", "Serve queues whose name this regular expression finds.")
    ] = DEFAULT_MATCH,
    queue_mismatch: Annotated[
        str, option("--queue-mismatch", "But not those whose name this one finds.")
    ] = "",
    sqs_certs: Annotated[
        str,
        option(
            "--sqs-certs",
            "Folder of AWS credentials, watched: each sub-folder holds a config file with "
            "region=… and a credentials file.",
        ),
    ] = "",
    aws_region: Annotated[
        str, option("--aws-region", "SQS of this region, with AWS's default credentials.")
    ] = "",
    sqs_timeout: Annotated[str, option("--sqs-timeout", "Limit of one call of SQS.")] = "15s",
    google_certs: Annotated[
        str,
        option(
            "--google-certs",
            "Folder of service accounts' *.json files, watched: Pub/Sub of their projects.",
        ),
    ] = "",
    google_application_credentials: Annotated[
        str,
        option("--google-application-credentials", "One such file, as Google's own tools know it."),
    ] = "",
    pubsub_timeout: Annotated[
        str, option("--pubsub-timeout", "Limit of one call of Pub/Sub.")
    ] = "5s",
    limit_tasks: Annotated[
        int, option("--limit-tasks", "End after that many experiments; 0: never.", min=0)
    ] = 0,
    limit_idle_duration: Annotated[
        str,
        option("--limit-idle-duration", "End after that long with nothing to do (30s, 5m)."),
    ] = "0s",
    standby: Annotated[
        bool,
        option("--standby", "Where a gateway runs on this spool, wait, and take over at its end."),
    ] = False,
    debug: Annotated[bool, option("--debug", "Log more.")] = False,
) -> None:
    """Take experiments off their queues and run them on the site, until told to stop.

    SIGTERM or SIGINT: take nothing new, finish what is half done, end; running jobs go on, and
    the next gateway on this spool takes over. A second one: end after the step in hand. SIGHUP:
    read the site's file again. docs/operating.md tells how to run it for months.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    chosen = chosen_site(site, spool)
    options = GatewayOptions(
        queues=QueueOptions(
            amqp_url=amqp_url,
            amqp_mgt_url=amqp_mgt_url,
            queues=tuple(queue or ()),
            queue_match=queue_match,
            queue_mismatch=queue_mismatch,
            queue_root=queue_root,
            sqs_certs=sqs_certs,
            aws_region=aws_region,
            sqs_timeout=parse_duration(sqs_timeout),
            google_certs=google_certs,
            google_application_credentials=google_application_credentials,
            pubsub_timeout=parse_duration(pubsub_timeout),
            gateway_id=gateway_id(chosen),
        ),
        limits=Limits(tasks=limit_tasks, idle=parse_duration(limit_idle_duration)),
    )
    with Orders().listening() as orders:
        serve(lambda: chosen_site(site, spool), options, orders, standby=standby)
