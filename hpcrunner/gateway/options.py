"""What a person says when a gateway is started, as opposed to what the site's file says."""

from __future__ import annotations

from dataclasses import dataclass

from hpcrunner.gateway.capacity import UNLIMITED, Capacity
from hpcrunner.gateway.gateway import NO_LIMITS, Limits
from hpcrunner.gateway.slack.options import NO_SLACK, SlackOptions
from hpcrunner.keys.options import NO_KEY_OPTIONS, KeyOptions
from hpcrunner.queues.sources import QueueOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """The options of ``hpcrunner gateway``, one part for each room that has some."""

    queues: QueueOptions
    limits: Limits = NO_LIMITS
    capacity: Capacity = UNLIMITED
    prom_address: str = ""
    slack: SlackOptions = NO_SLACK
    keys: KeyOptions = NO_KEY_OPTIONS
