"""The text of Slurm's configuration files. Nothing here touches the machine."""

from __future__ import annotations

from .layout import (
    CLUSTER_NAME,
    LOOPBACK,
    NODES,
    PARTITIONS,
    Layout,
    Node,
    Partition,
)
from .settings import Secrets, Settings

# The first line of every file; a slurm.conf in /etc/slurm is replaced only if it bears it.
OURS = "# Written by hpcrunner's development cluster; do not edit."

# The second line of slurm.conf: whose it is.
STATE_MARK = "# State directory: "


def slurm_conf(layout: Layout, settings: Settings, memory_by_cgroup: bool) -> str:
    """slurm.conf, the same for daemons and users."""
    slurm = layout.slurm
    lines = [
        OURS,
        f"{STATE_MARK}{layout.state}",
        f"ClusterName={CLUSTER_NAME}",
        f"SlurmctldHost=localhost({LOOPBACK})",
        f"SlurmctldPort={layout.slurmctld_port}",
        "SlurmUser=slurm",
        f"AuthInfo=socket={layout.munge_socket}",
        # Nothing of this listens beyond the machine.
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
        f"StateSaveLocation={slurm / 'state'}",
        f"SlurmctldPidFile={slurm / 'run' / 'slurmctld.pid'}",
        f"SlurmdPidFile={slurm / 'run' / 'slurmd-%n.pid'}",
        f"SlurmdSpoolDir={slurm / 'spool' / '%n'}",
        "SlurmctldDebug=info",
        "SlurmdDebug=info",
        "MailProg=/bin/true",
        "",
        "# Eight processors per node are pretended; the machine has fewer.",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        # A dead node is DOWN, and its jobs NODE_FAIL, after this and up to half as much again.
        "SlurmdTimeout=20",
        "BatchStartTimeout=30",
        "KillWait=5",
        "UnkillableStepTimeout=30",
        f"MinJobAge={settings.min_job_age}",
        "MaxJobCount=20000",
        "MaxArraySize=1001",
        "PropagateResourceLimits=NONE",
        "",
        "ProctrackType=proctrack/linuxproc",
        f"TaskPlugin={'task/cgroup' if memory_by_cgroup else 'task/none'}",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        *([] if memory_by_cgroup else ["JobAcctGatherParams=OverMemoryKill"]),
        "",
        "SchedulerType=sched/backfill",
        # Short waits: a test should not sit out the pauses that suit a large site.
        "SchedulerParameters=batch_sched_delay=1,sched_interval=2,sched_min_interval=100000,"
        "default_queue_depth=1000,partition_job_depth=1000,bf_interval=5,bf_continue,"
        "bf_max_job_test=1000,max_rpc_cnt=0",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "DefMemPerCPU=500",
        "PriorityType=priority/multifactor",
        "PriorityWeightQOS=10000",
        "PriorityWeightAge=100",
        "PreemptType=preempt/qos",
        "PreemptMode=REQUEUE",
        "",
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={LOOPBACK}",
        f"AccountingStoragePort={layout.slurmdbd_port}",
        # With munge this "password" is munged's socket; AuthInfo is not read for slurmdbd.
        f"AccountingStoragePass={layout.munge_socket}",
        "AccountingStorageEnforce=associations,limits,qos",
        "AccountingStorageTRES=gres/gpu,gres/gpu:a100,gres/gpu:v100",
        "AccountingStoreFlags=job_comment",
        "",
        "GresTypes=gpu",
        *(_node(layout, node) for node in NODES),
        *(_partition(partition) for partition in PARTITIONS),
    ]
    return "\n".join(lines) + "\n"


def gres_conf(layout: Layout) -> str:
    """gres.conf: which device files play which GPUs."""
    lines = [OURS]
    for node in NODES:
        if node.gpus:
            files = layout.slurm / "devices" / f"{node.name}-gpu[0-{node.gpus - 1}]"
            lines.append(f"NodeName={node.name} Name=gpu Type={node.gpu_type} File={files}")
    return "\n".join(lines) + "\n"


def cgroup_conf(memory_by_cgroup: bool) -> str:
    """cgroup.conf. The version is named, because finding it out can fail in a container."""
    lines = [OURS, "CgroupPlugin=cgroup/v1"]
    if memory_by_cgroup:
        lines += ["ConstrainRAMSpace=yes", "ConstrainCores=no", "ConstrainDevices=no"]
    return "\n".join(lines) + "\n"


def slurmdbd_conf(layout: Layout, secrets: Secrets, database: str) -> str:
    """slurmdbd.conf, which holds the password of the database."""
    lines = [
        OURS,
        "DbdHost=localhost",
        f"DbdAddr={LOOPBACK}",
        f"DbdPort={layout.slurmdbd_port}",
        "SlurmUser=slurm",
        f"AuthInfo=socket={layout.munge_socket}",
        f"PidFile={layout.slurm / 'run' / 'slurmdbd.pid'}",
        "DebugLevel=info",
        "StorageType=accounting_storage/mysql",
        f"StorageHost={LOOPBACK}",
        f"StoragePort={layout.mariadb_port}",
        "StorageUser=slurm",
        f"StoragePass={secrets.database_password}",
        f"StorageLoc={database}",
    ]
    return "\n".join(lines) + "\n"


def _node(layout: Layout, node: Node) -> str:
    gpus = f" Gres=gpu:{node.gpu_type}:{node.gpus}" if node.gpus else ""
    return (
        f"NodeName={node.name} NodeHostname=localhost NodeAddr={LOOPBACK} "
        f"Port={layout.slurmd_port(node)} CPUs={node.cpus} RealMemory={node.memory_mb} "
        f"Feature={node.gpu_type or 'nogpu'}{gpus} State=UNKNOWN"
    )


def _partition(partition: Partition) -> str:
    return (
        f"PartitionName={partition.name} Nodes={','.join(partition.nodes)} "
        f"MaxTime={partition.max_time} DefaultTime=00:02:00 "
        f"Default={'YES' if partition.default else 'NO'} State=UP"
        + (f" AllowQos={partition.allow_qos}" if partition.allow_qos else "")
    )
