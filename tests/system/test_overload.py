#!/usr/bin/env python3
"""More than the machine or its limits can bear: no descriptors, no memory, floods of connections, of header, of lines, of
recipients, and clients that are slow on purpose. Every answer is a 4yz (or a 5yz that is the client's own doing) with its
cause, the submission port and the metrics go on answering, memory stays bounded, and when it is over the server serves as
before, without a restart."""
import asyncio
import collections
import os
import re
import resource
import sys
import time

from lib import Checks, Client, wait_until
from lib_faults import FaultServer, Mail, expect_accepted, write_file
from lib_load import FULL

checks = Checks()
ATTEMPTS = 30000 if FULL else 10000


class House(FaultServer):
    """With a second listener for submission, and clients by the hundred."""

    def __init__(self, extra='', **more):
        super().__init__('listen submission { address = "127.0.0.1:0"  kind = submission }\n' + extra, start=False, **more)
        write_file(self, 'users', 'alice\nbob\n' + ''.join(f'r{number}\n' for number in range(100)))
        self.start()

    def facts(self):
        with open(f'/proc/{self.worker_pid}/status') as file:
            return {name: int(value) for name, value in re.findall(r'(Vm\w+):\s+(\d+)', file.read())}

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.worker_pid}/fd'))


def serves_others(server):
    """Submission, the metrics and the control socket answer while the rest is in trouble."""
    with Client(server.address('submission')) as client:
        assert client.banner.code == 220, f'submission says {client.banner}'
        assert client.command('EHLO c.example').code == 250
    assert server.metric('holdfast_sessions', direction='in') >= 0
    code, out, err = server.run('status')
    assert code == 0, f'status: {out} {err}'


def recovered(server):
    wait_until('the sessions to end', lambda: server.metric('holdfast_sessions', direction='in') <= 1, 60)
    wait_until('a message to be taken', lambda: quiet(lambda: Mail().play(server)[0].code == 250), 30)
    expect_accepted(server, Mail())
    serves_others(server)
    assert server.alive(), 'the server ended'


def quiet(ask):
    try:
        return ask()
    except (AssertionError, OSError):
        return False


# ------------------------------------------------------------------ clients by the thousand

class Flood:
    """So many connections, held open; `said`: the first line each was given."""

    def __init__(self, address, count, at_once=500, hold=True):
        self.address, self.count, self.at_once, self.hold = address, count, at_once, hold
        self.said = collections.Counter()

    async def _one(self, slots, kept):
        async with slots:
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(*self.address), 60)
                line = (await asyncio.wait_for(reader.readline(), 60)).decode()
            except asyncio.TimeoutError:
                self.said['no answer'] += 1
                return
            except OSError as fault:
                self.said[type(fault).__name__] += 1
                return
            cause = re.search(r'\(([a-z._]+)\)', line)
            self.said[f'{line[:9].strip() if cause else line[:3]} {cause.group(1) if cause else ""}'.strip()] += 1
            if self.hold and line.startswith('220'):
                kept.append(writer)
            else:
                writer.close()

    async def run(self, meanwhile=None):
        slots, kept = asyncio.Semaphore(self.at_once), []
        await asyncio.gather(*(self._one(slots, kept) for _ in range(self.count)))
        try:
            if meanwhile:
                await asyncio.get_running_loop().run_in_executor(None, meanwhile)
        finally:
            for writer in kept:
                writer.transport.abort()
        return len(kept)


def only(said, *allowed):
    wrong = {line: count for line, count in said.items() if line not in allowed}
    assert not wrong, f'told {dict(said)}'


def connections():
    """Ten thousand attempts where three hundred may be: 421 at once to the others, submission has its share."""
    with House('limits { connections = 300  connections_per_client = 100000 }') as server:
        before = server.facts()['VmRSS']
        flood = Flood(server.address(), ATTEMPTS)
        kept = asyncio.run(flood.run(lambda: serves_others(server)))
        after = server.facts()['VmRSS']
        print(f'# {dict(flood.said)}; resident {before} -> {after} KiB')
        only(flood.said, '220', '421 4.3.2 server.busy')
        assert kept <= 300 and flood.said['421 4.3.2 server.busy'] == ATTEMPTS - kept
        assert after - before < 60000, f'memory went from {before} to {after} KiB'
        assert server.metric('holdfast_deferrals_total', cause='server.busy') == ATTEMPTS - kept
        recovered(server)


def one_client():
    with House('limits { connections = 5000  connections_per_client = 50 }') as server:
        flood = Flood(server.address(), 500)
        asyncio.run(flood.run())
        print(f'# {dict(flood.said)}')
        only(flood.said, '220', '421 4.7.0 client.busy')
        assert flood.said['220'] == 50, flood.said
        recovered(server)


def descriptors():
    """Fewer descriptors than clients: those beyond are told so, and what is under way can still open what it needs."""
    with House('limits { connections_per_client = 100000 }', command=('prlimit', '--nofile=256:256')) as server:
        flood = Flood(server.address(), 1500, at_once=400)

        def meanwhile():
            serves_others(server)
            print(f'# {server.descriptors()} of 256 descriptors in use')
            assert server.descriptors() < 250, f'{server.descriptors()} of 256 descriptors are in use'
        asyncio.run(flood.run(meanwhile))
        print(f'# {dict(flood.said)}')
        only(flood.said, '220', '421 4.3.2 server.busy')
        assert flood.said['220'] >= 20, flood.said
        recovered(server)


def descriptors_taken_away():
    """The limit falls below what is in use: nothing new can be opened at all. It says nothing wrong and comes back."""
    with House('limits { connections_per_client = 100000 }') as server:
        with Client(server.address()) as client:
            client.command('EHLO c.example')
            limit = resource.prlimit(server.worker_pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.worker_pid, resource.RLIMIT_NOFILE, (8, limit[1]))
            for line in ('MAIL FROM:<a@[127.0.0.1]>', 'RCPT TO:<alice@home.example>'):
                reply = client.command(line)
                assert reply.code == 250 or 400 <= reply.code < 500, reply
                if reply.code != 250:
                    break
            reply = client.command('DATA') if reply.code == 250 else reply
            if reply.code == 354:
                client.send('Subject: large\r\n\r\n' + 'x' * 70 * 10 + '\r\n' + ('y' * 70 + '\r\n') * 9000 + '.\r\n')
                reply = client.reply()
            print(f'# a large message without descriptors: {reply.lines[-1]}')
            assert reply.code == 250 or 400 <= reply.code < 500, reply
            resource.prlimit(server.worker_pid, resource.RLIMIT_NOFILE, limit)
        recovered(server)


def memory():
    """The address space ends a little above where it is: sessions are refused with 421, nothing crashes."""
    with House('limits { connections_per_client = 100000 }') as server:
        limit = resource.prlimit(server.worker_pid, resource.RLIMIT_AS)
        size = server.facts()['VmSize'] * 1024
        resource.prlimit(server.worker_pid, resource.RLIMIT_AS, (size + (24 << 20), limit[1]))
        flood = Flood(server.address(), 2500)
        asyncio.run(flood.run())
        print(f'# {dict(flood.said)}')
        only(flood.said, '220', '421 4.3.2 server.busy')
        assert flood.said['421 4.3.2 server.busy'] > 0, 'memory did not run out'
        assert server.alive(), 'the server ended'
        resource.prlimit(server.worker_pid, resource.RLIMIT_AS, limit)
        recovered(server)


async def talk(address, *steps):
    """Sends each step and reads a line; the lines. A step may be bytes or a list of pieces."""
    reader, writer = await asyncio.open_connection(*address)
    lines = []
    try:
        lines.append((await asyncio.wait_for(reader.readline(), 60)).decode())
        for step in steps:
            for piece in step if isinstance(step, list) else [step]:
                writer.write(piece)
                await writer.drain()
            line = b'250-'
            while line[3:4] == b'-':
                line = await asyncio.wait_for(reader.readline(), 60)
            lines.append(line.decode())
            if not line:
                break
    except (ConnectionError, asyncio.TimeoutError) as fault:
        lines.append('closed' if isinstance(fault, ConnectionError) else 'no answer')
    finally:
        writer.transport.abort()
    return lines


def many(server, count, *steps):
    """`count` such dialogues at once; the last lines, and the most memory the server had."""
    most = [0]

    async def watch():
        while True:
            most[0] = max(most[0], server.facts()['VmRSS'])
            await asyncio.sleep(0.02)

    async def all_of_them():
        watcher = asyncio.ensure_future(watch())
        try:
            return await asyncio.gather(*(talk(server.address(), *steps) for _ in range(count)))
        finally:
            watcher.cancel()
    lasts = collections.Counter()
    for lines in asyncio.run(all_of_them()):
        last = next((line for line in reversed(lines) if line and line != 'closed'), 'nothing')
        lasts[re.sub(r'as \S+', 'as ID', last.strip())] += 1
    return lasts, most[0]


OPENING = (b'EHLO c.example\r\n', b'MAIL FROM:<a@[127.0.0.1]>\r\n', b'RCPT TO:<alice@home.example>\r\n', b'DATA\r\n')
BOUND_KIB = 200 * 1024


def bounded(name, steps, count=60, allowed=('250', '4', '5')):
    with House('limits { message_size = 4M  errors = 20 }') as server:
        before = server.facts()['VmRSS']
        lasts, most = many(server, count, *steps)
        print(f'# {name}: {dict(lasts)}; resident {before} -> at most {most} KiB')
        assert all(line.startswith(allowed) for line in lasts), lasts
        assert most - before < BOUND_KIB, f'memory went from {before} to {most} KiB'
        recovered(server)


def slow():
    """Four hundred clients that send a byte now and then: each is told 421 and let go."""
    async def drip(address, said):
        reader, writer = await asyncio.open_connection(*address)
        try:
            await reader.readline()
            for octet in b'EHLO a.very.slow.client.example':
                writer.write(bytes([octet]))
                try:
                    line = await asyncio.wait_for(reader.readline(), 0.1)
                    said[line.decode().strip()[-13:]] += 1
                    return
                except asyncio.TimeoutError:
                    continue
            said['still there'] += 1
        except ConnectionError:
            said['closed'] += 1
        finally:
            writer.transport.abort()

    async def all_of_them(address, said):
        await asyncio.gather(*(drip(address, said) for _ in range(400)))
    with House('limits { command_timeout = 1s  data_timeout = 1s }') as server:
        said = collections.Counter()
        asyncio.run(all_of_them(server.address(), said))
        print(f'# {dict(said)}')
        assert said['(client.idle)'] >= 390, said
        recovered(server)


def run(word, name, test):
    if len(sys.argv) < 2 or word in sys.argv[1:]:
        began = time.monotonic()
        checks.run(name, test)
        print(f'# {time.monotonic() - began:.1f} s', flush=True)


def main():
    run('connections', f'{ATTEMPTS} connections where 300 may be: 421, submission goes on, heals', connections)
    run('client', '500 connections of one client: 421 4.7.0', one_client)
    run('descriptors', '256 descriptors, 1500 clients: 421, others are served, heals', descriptors)
    run('none', 'no descriptor at all: 4yz, heals', descriptors_taken_away)
    run('memory', 'no memory: 421, heals', memory)
    line = b'X: ' + b'y' * 900 + b'\r\n'
    run('header', 'a header of 8 MB, sixty times: 552', lambda: bounded('header', (*OPENING, [line * 100] * 88 + [b'\r\nx\r\n.\r\n']), allowed=('552 5.3.4',)))
    run('endless', 'a header of 20 MB, sixty times: cut off', lambda: bounded('endless', (*OPENING, [line * 100] * 220 + [b'\r\nx\r\n.\r\n']), allowed=('552', '354')))
    run('command', 'a command line of 8 MB, sixty times: cut off', lambda: bounded(
        'command line', ([b'EHLO ' + b'x' * 65536] + [b'x' * 65536] * 128 + [b'\r\n'],), allowed=('500', '554', '421', '220')))
    run('line', 'a line of 8 MB in a message, sixty times', lambda: bounded('line', (*OPENING, [b'x' * 65536] * 128 + [b'\r\n.\r\n'])))
    run('recipients', '3,000 recipients, thirty times: 452 beyond the limit', lambda: bounded('recipients', (*OPENING[:3], *[
        b'RCPT TO:<r1@home.example>\r\n'] * 3000), count=30, allowed=('452',)))
    run('unknown', 'recipients that do not exist, without end', lambda: bounded('unknown', (*OPENING[:2], *[b'RCPT TO:<nobody@home.example>\r\n'] * 300), count=30))
    run('slow', 'slow clients: 421 client.idle', slow)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
