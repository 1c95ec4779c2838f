"""A proxy between two mail servers that answers 4yz, resets and cuts by chance, and knows what it did.

    with Chaos(('127.0.0.31', 25), peer.address, seed=1) as chaos:
        ...; chaos.calm()
    chaos.ambiguous        # {id: how often its final dot went through and the client was not told what became of it}
    chaos.count            # Counter of what was done to whom

A message's id is its header field X-Id. Both sides speak SMTP or LMTP in clear (STARTTLS is taken out of EHLO's reply), with one
recipient a message; PIPELINING and CHUNKING go through."""
import asyncio
import collections
import random
import re
import threading

TOO_LONG = 1 << 22


class Cut(Exception):
    """Chance, or one of both sides, ends the connection."""


class Chaos:
    def __init__(self, listen, target, seed, defer=0.02, cut=0.02):
        self.listen, self.target, self.random = listen, target, random.Random(seed)
        self.defer, self.cut = defer, cut
        self.ambiguous, self.count = collections.Counter(), collections.Counter()
        self.told = set()   # ids whose final reply was handed on
        self.loop, self.thread, self.fault = asyncio.new_event_loop(), None, None

    # ------------------------------------------------------------ from the test's thread

    def __enter__(self):
        ready = threading.Event()

        def run():
            asyncio.set_event_loop(self.loop)
            self.server = self.loop.run_until_complete(asyncio.start_server(self._serve, *self.listen, limit=TOO_LONG, backlog=512))
            ready.set()
            self.loop.run_forever()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        if not ready.wait(10):
            raise AssertionError(f'the proxy does not listen on {self.listen}')
        return self

    def __exit__(self, *fault):
        async def end():
            self.server.close()
            mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in mine:
                task.cancel()
            await asyncio.gather(*mine, return_exceptions=True)

        async def end_and_stop():
            await end()
            self.loop.stop()

        asyncio.run_coroutine_threadsafe(end_and_stop(), self.loop)
        self.thread.join(10)
        self.loop.run_until_complete(end())     # of connections that came while it ended
        self.loop.close()

    def calm(self):
        """No more trouble from now on."""
        self.defer = self.cut = 0

    def crashed(self, recorded=(), still_held=None):
        """A server died, or was ended, that had been told of deliveries. Of some it knows nothing. recorded: the ids whose delivery
        it had in its journal, which it writes when the record is durable: all others. still_held: the ids that it has in its queue
        now that it is down: these."""
        for ident in list(self.told):
            if ident not in recorded if still_held is None else ident in still_held:
                self.ambiguous[ident] += 1
                self.told.discard(ident)

    # ------------------------------------------------------------ one connection

    def _chance(self, share, what):
        if self.random.random() >= share:
            return False
        self.count[what] += 1
        return True

    async def _serve(self, reader, writer):
        up = None
        try:
            up = await asyncio.open_connection(*self.target, limit=TOO_LONG)
            await self._dialogue((reader, writer), up)
        except (Cut, OSError, asyncio.CancelledError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            for end in (writer, up[1] if up else None):
                if end:
                    end.transport.abort()

    async def _reply(self, up):
        lines = []
        while not lines or lines[-1][3:4] == b'-':
            line = await up[0].readline()
            if not line.endswith(b'\n'):
                raise Cut
            lines.append(line)
        return lines

    async def _say(self, client, lines):
        client[1].write(b''.join(lines))
        await client[1].drain()

    async def _dialogue(self, client, up):
        await self._say(client, await self._reply(up))
        ident = ''
        while True:
            line = await client[0].readline()
            if not line.endswith(b'\n'):
                raise Cut
            verb = line[:4].upper()
            if self._chance(self.cut / 4, 'cut at ' + verb.decode('latin-1')):
                raise Cut
            if verb in (b'MAIL', b'RCPT', b'DATA') and self._chance(self.defer, 'deferred at ' + verb.decode()):
                await self._say(client, [b'451 4.3.0 Chance says no, please try again later\r\n'])
                continue
            up[1].write(line)
            if verb == b'BDAT':
                ident = await self._chunk(client, up, line, ident)
                continue
            replies = await self._reply(up)
            if verb in (b'EHLO', b'LHLO'):
                replies = self._without_tls(replies)
            await self._say(client, replies)
            if verb == b'DATA' and replies[-1].startswith(b'354'):
                await self._body(client, up)
            elif verb == b'QUIT':
                return

    @staticmethod
    def _without_tls(lines):
        kept = [line for line in lines if line[4:12].upper() != b'STARTTLS']
        kept[-1] = kept[-1][:3] + b' ' + kept[-1][4:]
        return kept

    @staticmethod
    def _ident(body):
        found = re.search(rb'(?mi)^X-Id: *(\S+)', body)
        return found.group(1).decode() if found else ''

    async def _body(self, client, up):
        body = await client[0].readuntil(b'\r\n.\r\n')
        if self._chance(self.cut, 'cut in the body'):
            up[1].write(body[:len(body) // 2])
            await up[1].drain()
            raise Cut
        if self._chance(self.defer, 'deferred at the dot'):
            up[1].transport.abort()
            await self._say(client, [b'451 4.3.0 Chance says no, please try again later\r\n'])
            raise Cut
        up[1].write(body)
        await self._final(client, up, self._ident(body))

    async def _chunk(self, client, up, line, ident):
        words = line.split()
        body = await client[0].readexactly(int(words[1]))
        ident = self._ident(body) or ident
        if self._chance(self.cut, 'cut in a chunk'):
            raise Cut
        up[1].write(body)
        if words[-1].upper() == b'LAST':
            await self._final(client, up, ident)
            return ''
        await self._say(client, await self._reply(up))
        return ident

    async def _final(self, client, up, ident):
        """The end of a message is on its way: from here to the reply nobody knows but the server."""
        told = False
        try:
            replies = await self._reply(up)
            if self._chance(self.cut, 'cut at the final reply'):
                raise Cut
            await self._say(client, replies)
            # Dovecot says 421 while it shuts down, and has stored the message all the same.
            told = not client[0].at_eof() and not replies[-1].startswith(b'421')
            self.told.add(ident)
        finally:
            if not told:
                self.ambiguous[ident] += 1
