"""RabbitMQ with its management plugin, under a node name and on ports of its own."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request

from . import files, process
from .layout import LOOPBACK, Layout
from .process import Daemon
from .settings import Secrets

USER = "rabbitmq"


def daemons(layout: Layout) -> list[Daemon]:
    """Erlang's name service, which RabbitMQ would otherwise leave running, and the broker."""
    base = layout.rabbitmq
    epmd = ["epmd", "-address", LOOPBACK, "-port", str(layout.epmd_port)]
    environ = {
        "HOME": str(base),
        "ERL_EPMD_PORT": str(layout.epmd_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_NODENAME": "hpcrunner-dev@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(layout.amqp_port),
        "RABBITMQ_DIST_PORT": str(layout.erlang_port),
        "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
        # An empty file: the machine's own rabbitmq-env.conf would override these.
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_MNESIA_BASE": str(base / "data"),
        "RABBITMQ_LOG_BASE": str(base / "log"),
        "RABBITMQ_LOGS": "-",
        # Makes the script become the broker instead of staying as its parent, so that the
        # pid we keep is the broker's. There need be no systemd for it.
        "RUNNING_UNDER_SYSTEMD": "true",
        # Two schedulers that sleep instead of spinning: the jobs need the processors.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}"
        ),
    }
    server = ["/usr/lib/rabbitmq/bin/rabbitmq-server"]
    return [
        Daemon("epmd", epmd, user=USER, stop_seconds=5),
        Daemon("rabbitmq", server, user=USER, environ=environ, stop_seconds=30),
    ]


def start(layout: Layout, secrets: Secrets) -> None:
    """Start both; ``wait`` is apart because the broker takes its time."""
    files.folder(layout.rabbitmq, USER, 0o700)
    files.write(layout.rabbitmq / "rabbitmq.conf", _configuration(layout, secrets), USER, 0o600)
    files.write(layout.rabbitmq / "enabled_plugins", "[rabbitmq_management].\n", USER)
    for daemon in daemons(layout):
        process.start(layout, daemon)
        if daemon.name == "epmd":
            # Otherwise the broker starts one of its own, as a daemon without a pid file.
            process.wait_until(layout, "epmd", lambda: process.port_open(layout.epmd_port), 60)


def wait(layout: Layout, secrets: Secrets) -> None:
    """Wait until the broker takes connections and its management answers."""
    process.wait_until(
        layout,
        "rabbitmq",
        lambda: process.port_open(layout.amqp_port) and _management_answers(layout, secrets),
        180,
    )


def _configuration(layout: Layout, secrets: Secrets) -> str:
    # The user is created with the database; later changes here would not reach it, which
    # is why the password is made once and kept.
    return (
        f"listeners.tcp.local = {LOOPBACK}:{layout.amqp_port}\n"
        f"management.tcp.ip = {LOOPBACK}\n"
        f"management.tcp.port = {layout.management_port}\n"
        f"default_user = {secrets.rabbitmq_user}\n"
        f"default_pass = {secrets.rabbitmq_password}\n"
        "default_user_tags.administrator = true\n"
        "disk_free_limit.absolute = 64MB\n"
        "vm_memory_high_watermark.relative = 0.25\n"
        "collect_statistics_interval = 1000\n"
        "log.console = true\n"
        "log.console.level = warning\n"
    )


def _management_answers(layout: Layout, secrets: Secrets) -> bool:
    request = urllib.request.Request(f"http://{LOOPBACK}:{layout.management_port}/api/overview")
    login = f"{secrets.rabbitmq_user}:{secrets.rabbitmq_password}".encode()
    request.add_header("Authorization", "Basic " + base64.b64encode(login).decode())
    return answers(request)


def answers(request: urllib.request.Request) -> bool:
    """Whether a request to this machine is answered with success, by-passing any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
