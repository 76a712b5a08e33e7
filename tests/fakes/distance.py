"""A server some way off, as brokers are: what it sends arrives a moment later.

The released clients publish from one thread and get the confirmation in another. Over loopback it
can be there before the client has noted that it waits for it; the client then drops its connection
and says that the message was never acknowledged, though it was.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

DELAY = 0.1


@contextmanager
def distant(host: str, port: int) -> Iterator[int]:
    """Serve the server at ``host:port`` on a port of loopback, which is given."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve() -> int:
        async def connected(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            far, out = await asyncio.open_connection(host, port)
            await asyncio.gather(_carry(near, out, 0), _carry(far, back, DELAY))

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    try:
        yield asyncio.run_coroutine_threadsafe(serve(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(_end_all(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


async def _end_all() -> None:
    others = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
    for one in others:
        one.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def deliver() -> None:
        while True:
            due, data = await underway.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                break
            target.write(data)
            await target.drain()

    async def take() -> None:
        data = b"-"
        while data:
            data = await source.read(1 << 16)
            underway.put_nowait((loop.time() + delay, data))

    with suppress(OSError):
        await asyncio.gather(take(), deliver())
    target.close()
