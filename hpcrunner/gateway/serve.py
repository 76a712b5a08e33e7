"""The life of the service: wait for the spool, hold it, work, put the parts together anew.

The lock and the journal are held from the first to the last moment; what depends on the site's
file (sources, scheduler, dispatch, track) is taken apart and put together again when that file is
reloaded. A gateway between two sets of parts is in the state of one that has just started.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pydantic import ValidationError

from hpcrunner.batch.script import check_templates
from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.assemble import hold_spool, put_together, spool_of
from hpcrunner.gateway.gateway import Ended, Gateway, Hold
from hpcrunner.gateway.happenings import Tell, everyone
from hpcrunner.gateway.lock import Contender, wait_for_lock
from hpcrunner.gateway.metrics.endpoint import Address, address_of, metrics_served
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.gateway.orders import Orders
from hpcrunner.gateway.slack.options import hook_url
from hpcrunner.gateway.slack.sender import Slack
from hpcrunner.gateway.spool import Spool
from hpcrunner.queues.sources import sources_from
from hpcrunner.sites.site import Site

log = logging.getLogger(__name__)

_FIXED = ("spool", "scheduler")  # of the site's file; for a start only


def serve(
    read_site: Callable[[], Site],
    options: GatewayOptions,
    orders: Orders,
    *,
    standby: bool = False,
) -> None:
    """Serve until ``orders`` say to end, or a limit is reached.

    ``read_site`` reads the site's file, at the start and for each reload. With ``standby`` a
    gateway that lives on this spool is waited for. Raises what makes a start impossible (see
    open_gateway), and JournalError, Superseded or SpoolLost where the work cannot go on.
    """
    site = read_site()
    check_templates(site)
    sources_from(options.queues)
    address, hook = address_of(options.prom_address), hook_url(options.slack)
    spool = spool_of(site)
    spool.prepare()
    lock = wait_for_lock(
        Contender(spool.lock), orders.pause, orders.go_on, watch=True, standby=standby
    )
    if lock is None:
        log.info("told to end before it had the spool")
        return
    with (
        hold_spool(spool, lock, check=True) as hold,
        _listeners(spool, address, hook, options) as tell,
    ):
        if standby:  # it may have waited for months
            site = _read_again(read_site, site) or site
        _work(hold, site, read_site, options, orders, tell)


@contextmanager
def _listeners(
    spool: Spool, address: Address | None, hook: str, options: GatewayOptions
) -> Iterator[Tell]:
    """Who is told what happens, for as long as the spool is ours. Raises EndpointTaken."""
    with ExitStack() as stack:
        listeners: list[Tell] = []
        if hook:
            slack = Slack(hook, options.slack.room, spool)
            stack.callback(slack.close)
            listeners.append(slack)
        if address is not None:
            served = metrics_served(address, spool, options.capacity)
            listeners += stack.enter_context(served)
        yield everyone(*listeners)


def _work(
    hold: Hold,
    site: Site,
    read_site: Callable[[], Site],
    options: GatewayOptions,
    orders: Orders,
    tell: Tell,
) -> None:
    with ExitStack() as parts:
        current = parts.enter_context(ExitStack())
        gateway = current.enter_context(put_together(hold, site, options, tell=tell))
        while gateway.run(orders) is Ended.RELOAD:
            new = _read_again(read_site, site)
            if new is None:
                continue
            replacement = parts.enter_context(ExitStack())
            renewed = _replaced(replacement, hold, new, options, gateway, tell)
            if renewed is None:
                continue
            current.close()
            crashpoint("gateway.reloaded")
            current, gateway, site = replacement, renewed, new
            log.info("the file of site %s was read again and is in force", site.name)


def _replaced(
    stack: ExitStack,
    hold: Hold,
    site: Site,
    options: GatewayOptions,
    old: Gateway,
    tell: Tell,
) -> Gateway | None:
    """New parts while the old ones still stand, so that a site that cannot work changes nothing."""
    try:
        parts = put_together(hold, site, options, taken=old.taken, tell=tell)
        return stack.enter_context(parts)
    except HpcrunnerError as error:
        log.error("reload: %s; the old site stays in force", error.line())
        return None


def _read_again(read_site: Callable[[], Site], old: Site) -> Site | None:
    """The site's file as it is now, but for what a running gateway cannot change."""
    try:
        new = read_site()
        fixed = {key: getattr(old, key) for key in _FIXED if getattr(new, key) != getattr(old, key)}
        for key, value in fixed.items():
            log.warning("reload: %s stays %s until the gateway is started again", key, value)
        return Site.model_validate({**dict(new), **fixed})
    except HpcrunnerError as error:
        log.error("reload: %s; the old site stays in force", error.line())
    except ValidationError as error:
        what = "; ".join(str(problem["msg"]) for problem in error.errors())
        log.error("reload: %s; the old site stays in force until the gateway is restarted", what)
    return None
