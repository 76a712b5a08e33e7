"""MariaDB, which keeps slurmdbd's records."""

from __future__ import annotations

from . import files, process
from .layout import LOOPBACK, Layout
from .process import Daemon
from .settings import Secrets

DATABASE = "slurm_acct_db"


def daemon(layout: Layout) -> Daemon:
    """The server, reading no configuration of the machine."""
    return Daemon(
        "mariadb",
        [
            "mariadbd",
            "--no-defaults",
            f"--datadir={layout.mariadb / 'data'}",
            f"--socket={layout.mariadb / 'socket'}",
            f"--pid-file={layout.mariadb / 'pid'}",
            f"--bind-address={LOOPBACK}",
            f"--port={layout.mariadb_port}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=128M",
            "--innodb-lock-wait-timeout=900",
            # Losing the last second of records in a crash is fine here, waiting is not.
            "--innodb-flush-log-at-trx-commit=2",
        ],
        user="mysql",
    )


def start(layout: Layout, secrets: Secrets) -> None:
    """Create the database if there is none, then start and wait."""
    files.folder(layout.mariadb, "mysql", 0o700)
    if not (layout.mariadb / "data" / "mysql").exists():
        process.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                "--user=mysql",
                f"--datadir={layout.mariadb / 'data'}",
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ]
        )
    process.start(layout, daemon(layout))
    process.wait_until(layout, "mariadb", lambda: _sql(layout, "SELECT 1", check=False), 180)
    account = f"'slurm'@'{LOOPBACK}'"
    _sql(
        layout,
        f"CREATE DATABASE IF NOT EXISTS {DATABASE};"
        f"CREATE USER IF NOT EXISTS {account};"
        f"ALTER USER {account} IDENTIFIED BY '{secrets.database_password}';"
        f"GRANT ALL ON {DATABASE}.* TO {account};",
    )


def _sql(layout: Layout, text: str, check: bool = True) -> bool:
    command = ["mariadb", "--no-defaults", f"--socket={layout.mariadb / 'socket'}"]
    return process.run(command, stdin=text, check=check).returncode == 0
