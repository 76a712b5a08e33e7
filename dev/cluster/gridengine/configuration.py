"""The cell's configuration, in the words of sge_conf(5), queue_conf(5) and their kin."""

from __future__ import annotations

from dataclasses import dataclass

from ..layout import Layout

CELL = "default"
# The one name of the one host. /etc/hosts maps a machine's name to many things; this always
# stands for the loopback address, and host_aliases makes the machine's own name mean it.
HOST = "localhost"
SLOTS = 8
MEMORY = "16G"
GPUS = 4
PARALLEL_ENVIRONMENT = "smp"
PROJECT = "research"
NOTIFY_SECONDS = 5
# One of these is given to each job's processes, by which they are found and counted.
GIDS = "65400-65500"
# Highest array size and number of tasks, lower than the shipped ones, so that a test can meet it.
MAX_ARRAY_TASKS = 1000


# What a test of a dying host changes for its time: one that is killed meanwhile leaves it changed.
CHANGED_BY_TESTS = ("max_unheard", "reschedule_unknown")


@dataclass(frozen=True)
class Queue:
    """One cluster queue; ``hard_limit`` is its h_rt."""

    name: str
    slots: int
    hard_limit: str
    hard_limit_seconds: int


QUEUES = (
    Queue("all.q", SLOTS, "24:00:00", 86400),
    Queue("short.q", 4, "00:02:00", 120),
)


def bootstrap(layout: Layout) -> str:
    """What every daemon and command reads first, bootstrap(5)."""
    common = layout.gridengine_root / CELL / "common"
    spool = layout.gridengine / "qmaster"
    return f"""\
admin_user              none
default_domain          none
ignore_fqdn             false
spooling_method         classic
spooling_lib            libspoolc
spooling_params         {common};{spool}
binary_path             {layout.gridengine_root}/bin
qmaster_spool_dir       {spool}
security_mode           none
listener_threads        2
worker_threads          2
scheduler_threads       1
"""


def cluster(layout: Layout) -> str:
    """The global configuration, sge_conf(5). Accounting is written out within a second."""
    return f"""\
conf_version           0
execd_spool_dir        {layout.gridengine / "execd"}
mailer                 /bin/true
xterm                  /bin/true
load_sensor            none
prolog                 none
epilog                 none
shell_start_mode       unix_behavior
login_shells           bash,sh
min_uid                100
min_gid                100
user_lists             none
xuser_lists            none
projects               none
xprojects              none
enforce_project        false
enforce_user           auto
load_report_time       00:00:01
max_unheard            00:00:20
reschedule_unknown     00:00:00
loglevel               log_warning
administrator_mail     none
set_token_cmd          none
pag_cmd                none
token_extend_time      none
shepherd_cmd           none
qmaster_params         none
execd_params           none
reporting_params       accounting=true reporting=false flush_time=00:00:01 joblog=false \
sharelog=00:00:00
finished_jobs          100
gid_range              {GIDS}
max_aj_instances       2000
max_aj_tasks           {MAX_ARRAY_TASKS}
max_u_jobs             0
max_jobs               0
auto_user_oticket      0
auto_user_fshare       0
auto_user_default_project none
auto_user_delete_time  0
delegated_file_staging false
reprioritize           0
jsv_url                none
jsv_allowed_mod        ac,h,i,e,o,j,M,N,p,w
"""


# sched_conf(5): jobs are started at once, wherever there are slots, whatever the load.
SCHEDULER = """\
algorithm                        default
schedule_interval                0:0:1
maxujobs                         0
queue_sort_method                seqno
job_load_adjustments             NONE
load_adjustment_decay_time       0:0:0
load_formula                     slots
schedd_job_info                  true
flush_submit_sec                 1
flush_finish_sec                 1
params                           none
reprioritize_interval            0:0:0
halftime                         168
usage_weight_list                cpu=1,mem=0,io=0
compensation_factor              5
weight_user                      0.25
weight_project                   0.25
weight_department                0.25
weight_job                       0.25
weight_tickets_functional        0
weight_tickets_share             0
share_override_tickets           true
share_functional_shares          true
max_functional_jobs_to_schedule  200
report_pjob_tickets              true
max_pending_tasks_per_job        50
halflife_decay_list              none
policy_hierarchy                 OFS
weight_ticket                    0.01
weight_waiting_time              0.00000
weight_deadline                  3600000
weight_urgency                   0.1
weight_priority                  1.0
max_reservation                  0
default_duration                 INFINITY
"""

# complex(5): memory is counted for each slot, GPUs for each job's slots.
# A job that asks for no memory has the default, and is killed above it.
COMPLEXES = {
    "h_vmem": ("MEMORY", "YES", "2G"),
    "gpu": ("INT", "JOB", "0"),
}


def complex_entry(name: str) -> str:
    """A consumable in the form of the shipped ones."""
    kind, consumable, default = COMPLEXES[name]
    return f"""\
name        {name}
shortcut    {name}
type        {kind}
relop       <=
requestable YES
consumable  {consumable}
default     {default}
urgency     0
"""


HOST_ENTRY = f"""\
hostname              {HOST}
load_scaling          NONE
complex_values        h_vmem={MEMORY},gpu={GPUS}
user_lists            NONE
xuser_lists           NONE
projects              NONE
xprojects             NONE
usage_scaling         NONE
report_variables      NONE
"""

PE_ENTRY = f"""\
pe_name            {PARALLEL_ENVIRONMENT}
slots              999
user_lists         NONE
xuser_lists        NONE
start_proc_args    NONE
stop_proc_args     NONE
allocation_rule    $pe_slots
control_slaves     FALSE
job_is_first_task  TRUE
urgency_slots      min
accounting_summary TRUE
qsort_args         NONE
"""

PROJECT_ENTRY = f"""\
name {PROJECT}
oticket 0
fshare 0
acl NONE
xacl NONE
"""


def queue_entry(queue: Queue) -> str:
    """A cluster queue on the one host."""
    return f"""\
qname                 {queue.name}
hostlist              {HOST}
seq_no                {QUEUES.index(queue)}
load_thresholds       NONE
suspend_thresholds    NONE
nsuspend              1
suspend_interval      00:05:00
priority              0
min_cpu_interval      00:05:00
processors            UNDEFINED
qtype                 BATCH
ckpt_list             NONE
pe_list               {PARALLEL_ENVIRONMENT}
rerun                 FALSE
slots                 {queue.slots}
tmpdir                /tmp
shell                 /bin/sh
prolog                NONE
epilog                NONE
shell_start_mode      unix_behavior
starter_method        NONE
suspend_method        NONE
resume_method         NONE
terminate_method      NONE
notify                00:00:{NOTIFY_SECONDS:02d}
owner_list            NONE
user_lists            NONE
xuser_lists           NONE
subordinate_list      NONE
complex_values        NONE
projects              NONE
xprojects             NONE
calendar              NONE
initial_state         default
s_rt                  INFINITY
h_rt                  {queue.hard_limit}
s_cpu                 INFINITY
h_cpu                 INFINITY
s_fsize               INFINITY
h_fsize               INFINITY
s_data                INFINITY
h_data                INFINITY
s_stack               INFINITY
h_stack               INFINITY
s_core                INFINITY
h_core                INFINITY
s_rss                 INFINITY
h_rss                 INFINITY
s_vmem                INFINITY
h_vmem                INFINITY
"""
