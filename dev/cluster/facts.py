"""cluster.json: everything a test or a person needs to use the cluster."""

from __future__ import annotations

import json
import pwd
from pathlib import Path
from typing import Any

from . import apptainer, files, s3, slurm
from .errors import CannotHere
from .gridengine import server as gridengine
from .layout import (
    ACCOUNT,
    BUCKET,
    CLUSTER_NAME,
    LIMITED_ACCOUNT,
    LIMITED_MAX_SUBMIT,
    LOOPBACK,
    NODES,
    PARTITIONS,
    QOS,
    USER,
    Layout,
)
from .settings import Secrets, Settings


def write(layout: Layout, settings: Settings, secrets: Secrets) -> None:
    """Write cluster.json; the last act of ``up``, so that it means "ready"."""
    entry = pwd.getpwnam(USER)
    facts = {
        "state_dir": str(layout.state),
        "log_dir": str(layout.log),
        "user": {
            "name": USER,
            "uid": entry.pw_uid,
            "gid": entry.pw_gid,
            "home": str(layout.home),
            "venv": str(layout.venv),
        },
        "slurm": {
            "conf": str(layout.slurm_conf),
            "found_without_environment": _is_default(layout),
            "version": slurm.version(),
            "cluster": CLUSTER_NAME,
            "account": ACCOUNT,
            "limited_account": LIMITED_ACCOUNT,
            "limited_max_submit": LIMITED_MAX_SUBMIT,
            "qos": list(QOS),
            "min_job_age": settings.min_job_age,
            "memory_enforced_by": "cgroup" if slurm.memory_by_cgroup() else "polling",
            "nodes": {
                node.name: {
                    "cpus": node.cpus,
                    "memory_mb": node.memory_mb,
                    "gpu_type": node.gpu_type,
                    "gpus": node.gpus,
                }
                for node in NODES
            },
            "partitions": {
                partition.name: {
                    "nodes": list(partition.nodes),
                    "max_time_seconds": partition.max_time_seconds,
                    "default": partition.default,
                    "allow_qos": partition.allow_qos,
                }
                for partition in PARTITIONS
            },
        },
        "rabbitmq": {
            "host": LOOPBACK,
            "port": layout.amqp_port,
            "user": secrets.rabbitmq_user,
            "password": secrets.rabbitmq_password,
            "vhost": "/",
            "url": (
                f"amqp://{secrets.rabbitmq_user}:{secrets.rabbitmq_password}"
                f"@{LOOPBACK}:{layout.amqp_port}/%2F"
            ),
            "management_url": f"http://{LOOPBACK}:{layout.management_port}",
        },
        "s3": {
            "endpoint": f"http://{LOOPBACK}:{layout.s3_port}",
            "access_key": secrets.s3_access_key,
            "secret_key": secrets.s3_secret_key,
            "region": s3.REGION,
            "bucket": BUCKET,
            "folder": str(layout.s3 / "buckets"),
        },
        "drmaa": {"library": settings.drmaa_library or None},
        "gridengine": gridengine.facts(layout),
        "apptainer": apptainer.facts(layout),
    }
    files.write(layout.facts, json.dumps(facts, indent=2) + "\n")


def read(layout: Layout) -> dict[str, Any]:
    """The facts of a cluster that was brought up."""
    try:
        facts = json.loads(layout.facts.read_text())
    except FileNotFoundError:
        raise CannotHere(
            "no development cluster is up: run 'python3 -m dev.cluster up' as root"
        ) from None
    assert isinstance(facts, dict)
    return facts


def exports(facts: dict[str, Any]) -> dict[str, str]:
    """The environment variables that point ordinary programs at the cluster."""
    variables = {
        "SLURM_CONF": facts["slurm"]["conf"],
        "AMQP_URL": facts["rabbitmq"]["url"],
        "RABBITMQ_MANAGEMENT_URL": facts["rabbitmq"]["management_url"],
        "AWS_ENDPOINT_URL": facts["s3"]["endpoint"],
        "AWS_ACCESS_KEY_ID": facts["s3"]["access_key"],
        "AWS_SECRET_ACCESS_KEY": facts["s3"]["secret_key"],
        "AWS_DEFAULT_REGION": facts["s3"]["region"],
    }
    if facts["drmaa"]["library"]:
        variables["DRMAA_LIBRARY_PATH"] = facts["drmaa"]["library"]
    return variables


def _is_default(layout: Layout) -> bool:
    default = Path(slurm.SYSTEM_CONF)
    return default.exists() and default.read_text() == layout.slurm_conf.read_text()
