"""``hpcrunner gateway``: the service on the login node."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from hpcrunner.cli.common import DEFAULT_SITE, SiteName, SpoolPath, chosen_site
from hpcrunner.cli.keyoptions import (
    ClearTextMessages,
    EncryptDir,
    RequestSignaturesDir,
    ResponseSignaturesDir,
)
from hpcrunner.cli.logging import LogFormat, start_logging
from hpcrunner.cli.options import option
from hpcrunner.cli.queueoptions import (
    AmqpMgtUrl,
    AmqpUrl,
    AwsRegion,
    GoogleApplicationCredentials,
    GoogleCerts,
    PubsubTimeout,
    Queue,
    QueueMatch,
    QueueMismatch,
    QueueRoot,
    SqsCerts,
    SqsTimeout,
    queue_options,
)
from hpcrunner.cli.storeoptions import (
    AllowEnvSecrets,
    CacheDir,
    CacheSize,
    GenerateMetadata,
    S3Ca,
    S3Cert,
    S3Key,
    SchemaLogs,
    with_stores,
)
from hpcrunner.gateway.assemble import gateway_id
from hpcrunner.gateway.capacity import Capacity
from hpcrunner.gateway.gateway import Limits
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.gateway.orders import Orders
from hpcrunner.gateway.serve import serve
from hpcrunner.gateway.slack.options import SlackOptions
from hpcrunner.keys.options import KeyOptions
from hpcrunner.queues.matching import DEFAULT_MATCH
from hpcrunner.request.units import parse_bytes, parse_duration
from hpcrunner.sites.site import Site

# One panel of --help for each concern.
limited = partial(option, rich_help_panel="Limits")
watched = partial(option, rich_help_panel="Logs, metrics, notes")


def gateway(
    site: SiteName = DEFAULT_SITE,
    spool: SpoolPath = "",
    amqp_url: AmqpUrl = "",
    amqp_mgt_url: AmqpMgtUrl = "",
    queue: Queue = None,
    queue_root: QueueRoot = "",
    queue_match: QueueMatch = DEFAULT_MATCH,
    queue_mismatch: QueueMismatch = "",
    sqs_certs: SqsCerts = "",
    aws_region: AwsRegion = "",
    sqs_timeout: SqsTimeout = "15s",
    google_certs: GoogleCerts = "",
    google_application_credentials: GoogleApplicationCredentials = "",
    pubsub_timeout: PubsubTimeout = "5s",
    encrypt_dir: EncryptDir = "",
    request_signatures_dir: RequestSignaturesDir = "",
    response_signatures_dir: ResponseSignaturesDir = "",
    clear_text_messages: ClearTextMessages = None,
    cache_dir: CacheDir = "",
    cache_size: CacheSize = "",
    s3_ca: S3Ca = "",
    s3_cert: S3Cert = "",
    s3_key: S3Key = "",
    allow_env_secrets: AllowEnvSecrets = None,
    generate_metadata: GenerateMetadata = None,
    schema_logs: SchemaLogs = None,
    limit_tasks: Annotated[
        int, limited("--limit-tasks", "End after that many experiments; 0: never.", min=0)
    ] = 0,
    limit_idle_duration: Annotated[
        str,
        limited("--limit-idle-duration", "End after that long with nothing to do (30s, 5m)."),
    ] = "0s",
    max_cores: Annotated[
        int,
        limited("--max-cores", "CPUs that its experiments may ask for at once; 0: any.", min=0),
    ] = 0,
    max_mem: Annotated[
        str, limited("--max-mem", "Memory that they may ask for at once (64gb); 0gb: any.")
    ] = "0gb",
    max_disk: Annotated[
        str, limited("--max-disk", "Disk that they may ask for at once (1tb); 0gb: any.")
    ] = "0gb",
    cpu_only: Annotated[bool, limited("--cpu-only", "Set aside what asks for GPUs.")] = False,
    standby: Annotated[
        bool,
        option("--standby", "Where a gateway runs on this spool, wait, and take over at its end."),
    ] = False,
    prom_address: Annotated[
        str,
        watched(
            "--prom-address",
            "Serve metrics for Prometheus there, such as 127.0.0.1:9090; default: nowhere. Every "
            "user of the machine can read them.",
        ),
    ] = "",
    slack_hook: Annotated[
        str,
        watched(
            "--slack-hook",
            "Send notes to this incoming webhook: a private file that holds its URL, or the URL, "
            "then better as the environment variable.",
        ),
    ] = "",
    slack_room: Annotated[
        str,
        watched(
            "--slack-room",
            "Room for notes of requests that name none; default: the webhook's own.",
        ),
    ] = "",
    log_format: Annotated[
        LogFormat, watched("--log-format", "Lines for people, or one JSON object a line.")
    ] = LogFormat.CONSOLE,
    debug: Annotated[bool, watched("--debug", "Log more.")] = False,
) -> None:
    """Take experiments off their queues and run them on the site, until told to stop.

    SIGTERM or SIGINT: take nothing new, finish what is half done, end; running jobs go on, and
    the next gateway on this spool takes over. A second one: end after the step in hand. SIGHUP:
    read the site's file again. docs/operating.md tells how to run it for months.
    """
    start_logging(log_format, debug=debug)

    def read_site() -> Site:
        return with_stores(
            chosen_site(site, spool),
            cache_dir=cache_dir,
            cache_size=cache_size,
            s3_ca=s3_ca,
            s3_cert=s3_cert,
            s3_key=s3_key,
            allow_env_secrets=allow_env_secrets,
            generate_metadata=generate_metadata,
            schema_logs=schema_logs,
        )

    chosen = read_site()
    options = GatewayOptions(
        queues=queue_options(
            gateway_id(chosen),
            amqp_url=amqp_url,
            amqp_mgt_url=amqp_mgt_url,
            queue=queue,
            queue_root=queue_root,
            queue_match=queue_match,
            queue_mismatch=queue_mismatch,
            sqs_certs=sqs_certs,
            aws_region=aws_region,
            sqs_timeout=sqs_timeout,
            google_certs=google_certs,
            google_application_credentials=google_application_credentials,
            pubsub_timeout=pubsub_timeout,
        ),
        limits=Limits(tasks=limit_tasks, idle=parse_duration(limit_idle_duration)),
        capacity=Capacity(
            cores=max_cores,
            memory=parse_bytes(max_mem),
            disk=parse_bytes(max_disk),
            cpu_only=cpu_only,
        ),
        prom_address=prom_address,
        slack=SlackOptions(hook=slack_hook, room=slack_room),
        keys=KeyOptions(
            encrypt_dir=encrypt_dir,
            request_signatures_dir=request_signatures_dir,
            response_signatures_dir=response_signatures_dir,
            clear_text=clear_text_messages,
        ),
    )
    with Orders().listening() as orders:
        serve(read_site, options, orders, standby=standby)
