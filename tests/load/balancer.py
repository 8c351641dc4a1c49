"""A load balancer as simple as there is: connections go in turn to the servers whose /readyz says 200, asked a few times a
second. It repeats nothing and mends nothing: what a server loses, a client sees."""

import asyncio
import itertools
import threading
import urllib.error
import urllib.request

_ASK_EVERY = 0.2


class Balancer:
    def __init__(self, port: int, servers: list[int]):
        self.port = port
        self.ready: list[int] = []
        self._servers = servers
        self._turn = itertools.count()
        self._stopped = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])

    def __enter__(self) -> "Balancer":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    async def _serve(self) -> None:
        asking = asyncio.create_task(self._ask())
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        await self._stopped.wait()
        server.close()
        asking.cancel()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _ask(self) -> None:
        while True:
            answers = await asyncio.gather(*(asyncio.to_thread(_is_ready, port) for port in self._servers))
            self.ready = [port for port, ready in zip(self._servers, answers, strict=True) if ready]
            await asyncio.sleep(_ASK_EVERY)

    async def _connected(self, reader, writer) -> None:
        try:
            port = self.ready[next(self._turn) % len(self.ready)]
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        except (OSError, ZeroDivisionError):
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, server_writer), _pass_on(server_reader, writer))


async def _pass_on(reader, writer) -> None:
    try:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _is_ready(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).status == 200
    except (OSError, urllib.error.HTTPError):
        return False
