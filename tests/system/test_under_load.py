#!/usr/bin/env python3
"""Each fault domain breaks for real while at least 200 messages are in the middle, which bytes counted at the peer prove,
and is healed. Then: every message was accepted, or told its 4yz with its cause until it was; nothing unscanned was taken,
nothing refused for our fault; `why --in` agrees with the clients' own log; each accepted message is delivered once.

HOLDFAST_FULL=1 runs it with 600 messages a fault instead of 220."""
import asyncio
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time

from lib import Checks, wait_until
from lib_dns import SERVFAIL, ScriptedDns
from lib_faults import FaultServer, Mail, write_file
from lib_load import (FULL, Crowd, Gate, Letter, Told, count_told, delivered, expect_account, expect_delivered_once, expect_fates)
from test_faults_filter import Clamd
from test_faults_spool import Disk, can_mount, spool_on

MANY = 600 if FULL else 220
LEAST = 200
checks = Checks()
# Deliveries meet the fault, too, and have to come through while the test looks.
AGAIN = 'retry { schedule = {300ms}  warn_after = 1h  expire_after = 5d  jitter = 0 }\n'


def letters_for(number, **more):
    return [Letter(to=f'r{index % 100}@home.example', **more) for index in range(number)]


def user_names():
    return ['alice', *(f'r{number}' for number in range(101))]


def told(name, letters):
    print(f'# {name}: {count_told(letters)}', flush=True)


# ------------------------------------------------------------------ the filter

class Scan:
    """One connection to the proxy: what passed of it."""

    def __init__(self):
        self.head, self.token, self.forwarded, self.complete, self.verdict = b'', '', 0, False, b''
        self.state, self.need = 'length', b''

    def take(self, data):
        """Follows INSTREAM's chunks: where the message ends, and whose it is."""
        while data and not self.complete:
            if self.state == 'length':
                take = 4 - len(self.need)
                self.need, data = self.need + data[:take], data[take:]
                if len(self.need) == 4:
                    size, = struct.unpack('!I', self.need)
                    self.need, self.complete, self.state = b'', size == 0, size
            else:
                piece, data = data[:self.state], data[self.state:]
                self.state -= len(piece)
                self.forwarded += len(piece)
                if not self.token:
                    self.head += piece
                    found = re.search(rb'X-Token: (\S+)\r\n', self.head)
                    self.token = found.group(1).decode() if found else ''
                self.state = self.state or 'length'


class Proxy:
    """In front of a real clamd: counts the bytes of each message, may stop each of them in its middle, and remembers each
    verdict that a complete message was given."""

    HOLD_AT = 6000

    def __init__(self, clamd):
        self.clamd, self.gate, self.scans, self.ends = clamd, Gate(closed=False), [], set()
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        self.ready.wait(10)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, '127.0.0.1', 0, backlog=1024))
        self.address = '127.0.0.1:%d' % server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()

    async def _serve(self, reader, writer):
        self.ends.add(writer)
        scan = Scan()
        try:
            above, below = await asyncio.open_unix_connection(self.clamd.socket)
            self.ends.add(below)
            back = asyncio.ensure_future(self._back(above, writer, scan))
            first = await reader.readuntil(b'\0')
            below.write(first)
            await self._forth(reader, below, scan if first == b'zINSTREAM\0' else None)
            await back
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for end in (writer, locals().get('below')):
                if end:
                    self.ends.discard(end)
                    end.transport.abort()

    async def _forth(self, reader, below, scan):
        if scan:
            self.scans.append(scan)
        while True:
            data = await reader.read(4096)
            if not data:
                return
            if scan:
                scan.take(data)
            below.write(data)
            await below.drain()
            if scan and scan.forwarded >= self.HOLD_AT and not scan.complete:
                await self.gate.pass_through()

    async def _back(self, above, writer, scan):
        while True:
            try:
                data = await above.read(4096)
            except ConnectionError:
                data = b''
            if not data:
                writer.transport.abort()
                return
            scan.verdict += data
            writer.write(data)

    def cut(self):
        """Every connection that is open is reset."""
        self.loop.call_soon_threadsafe(lambda: [end.transport.abort() for end in list(self.ends)])

    def in_the_middle(self):
        return [scan for scan in list(self.scans) if scan.token and not scan.complete and not scan.verdict]

    def clean(self):
        return {scan.token for scan in list(self.scans) if scan.complete and scan.verdict == b'stream: OK\0'}


def filter_round(server, proxy, name, strike, heal, faults):
    letters = letters_for(MANY, size=24000)
    proxy.gate = Gate()
    with Crowd(server.address(), letters) as crowd:
        proxy.gate.wait_all(LEAST)
        ours = {letter.token for letter in letters}

        def held():
            return {scan.token: scan.forwarded for scan in proxy.in_the_middle()
                    if scan.token in ours and proxy.HOLD_AT <= scan.forwarded < 24000}
        wait_until('so many to be in the middle by bytes', lambda: len(held()) >= LEAST)
        middle = held()
        print(f'# {name}: {len(middle)} messages had {min(middle.values())} to {max(middle.values())} of 24000 bytes at clamd')
        strike()
        proxy.gate.open()
        crowd.wait_answered(LEAST)
        heal()
        crowd.heal()
        crowd.wait()
    told(name, letters)
    expect_fates(letters, faults)
    assert sum(1 for letter in letters if letter.log[0].code == 451) >= LEAST, 'the fault struck too few'
    unscanned = {letter.token for letter in letters if letter.accepted} - proxy.clean()
    assert not unscanned, f'accepted without a clean verdict of the whole message: {unscanned}'
    wait_until('the breaker to close', lambda: server.metric('holdfast_breaker_open', dependency='scan') == 0)
    return letters


def filters():
    if not shutil.which('clamd'):
        checks.skip('the filter under load', 'clamd is not installed (clamav-daemon)')
        return
    server = FaultServer(AGAIN, start=False)
    clamd = Clamd(os.path.join(server.folder, 'clamd'))
    with open(os.path.join(clamd.folder, 'clamd.conf'), 'a') as file:
        file.write('MaxConnectionQueueLength 1000\nMaxQueue 400\nMaxThreads 20\nCommandReadTimeout 60\n')
    proxy = Proxy(clamd)
    with open(server.config, 'a') as file:
        file.write(f'filter scan {{ speaks = clamd  address = "{proxy.address}"  timeout = 10s  connect_timeout = 5s }}\n')
    write_file(server, 'users', '\n'.join(user_names()) + '\n')
    everything = []

    def one(name, strike, heal, faults):
        everything.extend(filter_round(server, proxy, name, strike, heal, faults))
    try:
        clamd.start()
        with server:
            server.start()
            checks.run('clamd: its connections cut in the middle of 200 messages', lambda: one(
                'cut', proxy.cut, lambda: None, {('filter.crashed', 451), ('filter.down', 421)}))
            checks.run('clamd: killed in the middle of 200 messages', lambda: one(
                'kill', clamd.kill, clamd.start, {('filter.crashed', 451), ('filter.unreachable', 451), ('filter.down', 421)}))
            checks.run('clamd: stopped (SIGSTOP) in the middle of 200 messages', lambda: one(
                'stop', clamd.pause, clamd.resume, {('filter.timeout', 451), ('filter.down', 421)}))
            checks.run('clamd: each accepted message is delivered once', lambda: expect_delivered_once(server, everything))
            checks.run('clamd: `why --in` agrees with the clients', lambda: account(server, everything))
    finally:
        clamd.kill()


def account(server, letters, **more):
    print('# the account:', expect_account(server, letters, **more))


# ------------------------------------------------------------------ DNS

class OpenDns(ScriptedDns):
    """Knows, too, which names were asked for while it said nothing."""

    def held(self):
        return {name for name, kind in list(self.asked) if kind == 'MX'}


def dns_round(server, names, name, strike, heal):
    """The questions are out (the name server has their bytes) and unanswered when the fault strikes."""
    letters = [Letter(to=f'r{index % 100}@home.example', sender=f'a@d{index}.{name}.example') for index in range(MANY)]
    names.dead = True
    with Crowd(server.address(), letters) as crowd:
        wanted = {letter.sender.split('@')[1] for letter in letters}
        wait_until('200 questions to be open', lambda: len(wanted & names.held()) >= LEAST and
                   sum(1 for _, stage in list(crowd.awaiting) if stage == 'mail') >= LEAST)
        print(f'# {name}: {len(wanted & names.held())} names were asked for and not answered')
        strike()
        crowd.wait_answered(LEAST)
        heal(wanted)
        crowd.heal()
        crowd.wait()
    told(name, letters)
    expect_fates(letters, {('dns.sender.temperror', 451), ('dns.resolver.failed', 451), ('dns.resolver.down', 421)})
    struck = [letter.log[0] for letter in letters if letter.log[0].code == 451]
    assert len(struck) >= LEAST, 'the fault struck too few'
    ours = sum(1 for said in struck if said.cause == 'dns.resolver.failed')
    assert name != 'silent' or ours >= LEAST, f'nobody answers our resolver, and {len(struck) - ours} of {len(struck)} heard that it is their fault'
    return letters


def dns():
    names = OpenDns({('', 'NS'): 'ns.example.', ('good.example', 'MX'): '10 mx.good.example.'})
    extra = f'resolver {{ forward = {{"127.0.0.1@{names.port}"}}  timeout = 4s }}\nchecks {{ sender_domain = require }}\n{AGAIN}'
    everything = []
    server = FaultServer(extra, start=False)
    write_file(server, 'users', '\n'.join(user_names()) + '\n')

    def answer_all(wanted):
        for domain in wanted:
            names.script[(domain, None)] = '10 mx.good.example.'
            names.script[(domain, 'MX')] = '10 mx.good.example.'
        names.dead = False

    def servfail(domains):
        for domain in domains:
            names.script[(domain, None)] = SERVFAIL
        names.dead = False

    def one(name, strike):
        everything.extend(dns_round(server, names, name, strike, answer_all))
    with server:
        server.start()
        checks.run('DNS: silent while 200 questions are open', lambda: one('silent', lambda: None))
        checks.run('DNS: SERVFAIL to 200 open questions', lambda: one('servfail', lambda: servfail(
            f'd{index}.servfail.example' for index in range(MANY))))
        checks.run('DNS: each accepted message is delivered once', lambda: expect_delivered_once(server, everything))
        checks.run('DNS: `why --in` agrees with the clients', lambda: account(server, everything))
    names.close()


# ------------------------------------------------------------------ the directory

def directory_round(server, name, strike, heal, faults):
    """All clients have said MAIL; the fault strikes; RCPT is out and unanswered at 200 of them."""
    letters = letters_for(MANY)
    gate = Gate()
    with Crowd(server.address(), letters, rcpt_gate=gate) as crowd:
        gate.wait_all(LEAST)
        strike()
        gate.open()
        wait_until('200 answers', lambda: crowd.answered() >= LEAST)
        heal()
        crowd.heal()
        crowd.wait()
    told(name, letters)
    expect_fates(letters, faults)
    assert sum(1 for letter in letters if letter.log[0].code == 451) >= LEAST, 'the fault struck too few'
    return letters


def directory_sqlite():
    server = FaultServer(AGAIN, users='sqlite:{folder}/users.db?table=users', start=False)
    path = os.path.join(server.folder, 'users.db')
    database = sqlite3.connect(path, isolation_level=None)
    database.execute('CREATE TABLE users(address TEXT PRIMARY KEY, password TEXT)')
    database.executemany('INSERT INTO users VALUES(?, "")', [(f'{name}@home.example',) for name in user_names()])
    everything = []
    # Another process holds the lock, as a long transaction or a backup would.
    holder = ('import sqlite3,sys\nd=sqlite3.connect(sys.argv[1],isolation_level=None)\nfor line in sys.stdin:\n'
              ' d.execute(line)\n print("done",flush=True)\n')
    with subprocess.Popen([sys.executable, '-c', holder, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        def lock(command):
            other.stdin.write(command + '\n')
            other.stdin.flush()
            assert other.stdout.readline() == 'done\n'
        try:
            with server:
                server.start()
                checks.run('SQLite: locked by another process under 200 RCPTs', lambda: everything.extend(directory_round(
                    server, 'locked', lambda: lock('BEGIN EXCLUSIVE'), lambda: lock('COMMIT'), {('directory.unavailable', 451)})))
                checks.run('SQLite: the file vanishes under 200 RCPTs', lambda: everything.extend(directory_round(
                    server, 'vanished', lambda: os.rename(path, path + '.away'), lambda: os.rename(path + '.away', path),
                    {('directory.misconfigured', 451)})))
                checks.run('SQLite: each accepted message is delivered once', lambda: expect_delivered_once(server, everything))
                checks.run('SQLite: `why --in` agrees with the clients', lambda: account(server, everything))
        finally:
            other.kill()
            database.close()


def directory_file():
    server = FaultServer(AGAIN, start=False)
    write_file(server, 'users', '\n'.join(user_names()) + '\n')
    path = os.path.join(server.folder, 'users')
    everything, scout = [], Letter(to='alice@home.example', sender='scout@[127.0.0.1]')
    with server:
        server.start()

        def vanish():
            os.rename(path, path + '.away')
            wait_until('the server to notice', lambda: probe(server, scout))
        checks.run('file: vanishes under 200 RCPTs', lambda: everything.extend(directory_round(
            server, 'vanished', vanish, lambda: os.rename(path + '.away', path), {('directory.misconfigured', 451)})))
        checks.run('file: each accepted message is delivered once', lambda: delivered_but_probes(server, everything))
        checks.run('file: `why --in` agrees with the clients', lambda: account(server, everything + [scout]))


def probe(server, letter):
    """Files are looked at once a second. What the probe is told belongs to the account, too."""
    reply, stage = Mail(sender=letter.sender, to=letter.to).play(server)
    line = reply.lines[-1]
    cause = re.search(r'\(([a-z0-9._]+)\)$', line)
    letter.log.append(Told(time.time(), stage, reply.code, cause.group(1) if cause else '', line))
    return reply.code == 451


def delivered_but_probes(server, letters):
    wait_until('each letter once', lambda: all(delivered(server)[letter.token] == 1 for letter in letters), 60)


# ------------------------------------------------------------------ the spool's disk

def spool_round(server, letters, name, strike, heal, faults, lost=False):
    """Each client has sent half of its body and the server's kernel has acknowledged it; half of them lie on the disk."""
    gate = Gate()
    with Crowd(server.address(), letters, body_gate=gate, patience_s=120) as crowd:
        gate.wait_all(LEAST, 60)
        assert len(crowd.halfway) >= LEAST and min(crowd.halfway.values()) > 300000
        print(f'# {name}: {len(crowd.halfway)} bodies were half there, {min(crowd.halfway.values())} bytes each acknowledged')
        strike()
        gate.open()
        crowd.wait_answered(LEAST)
        address = heal(crowd)
        crowd.address = address or crowd.address
        crowd.heal()
        crowd.wait()
    told(name, letters)
    expect_fates(letters, faults, lost)


def spool_full():
    """Not a byte is left while 200 bodies are being written; then there is room again."""
    with Disk(megabytes=1200) as disk, spool_on(disk, AGAIN) as server:
        write_file(server, 'users', '\n'.join(user_names()) + '\n')
        letters = letters_for(MANY, size=700000)
        filler = os.path.join(disk.at, 'filler')

        def fill():
            with open(filler, 'wb') as file:
                try:
                    while True:
                        space = os.statvfs(disk.at)
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, max(4096, space.f_bavail * space.f_frsize * 9 // 10))
                except OSError:
                    pass

        def empty(crowd):
            os.unlink(filler)
        spool_round(server, letters, 'full', fill, empty, {('spool.full', 452), ('spool.failed', 451)})
        assert sum(1 for letter in letters if letter.log[0].code in (451, 452)) >= LEAST // 2, 'the fault struck too few'
        expect_delivered_once(server, letters)
        account(server, letters, history=os.path.join(disk.at, 'spool'))


def spool_dead():
    """Every access fails from one moment to the next; the operator repairs the disk and starts the server again. What was
    acknowledged before is delivered, nothing twice. The history is on another disk: its account is right while the spool is
    dead, and after the repair."""
    with Disk(megabytes=1200) as disk, spool_on(disk, 'history = "{folder}/history/of/mx"\n' + AGAIN) as server:
        write_file(server, 'users', '\n'.join(user_names()) + '\n')
        letters = letters_for(MANY, size=700000)
        history = os.path.join(server.folder, 'history', 'of', 'mx')
        scout = Letter(to='alice@home.example', sender='scout@[127.0.0.1]')

        def repair(crowd):
            wait_until('everybody to have tried twice', lambda: all(letter.accepted or len(letter.log) > 1 for letter in letters), 90)
            # A short one goes into the log itself, whose failure stops the spool; the long ones have files of their own.
            probe(server, scout)
            account(server, letters + [scout], history=history)
            wait_until('`why --in` to say that the spool is dead', lambda: 'The spool has failed; the history goes on.' in server.run(
                'why', '--in')[2])
            server.kill()
            disk.unmount()
            disk.mount()
            server.start()
            return server.address()
        spool_round(server, letters, 'dead', disk.shut_down, repair,
                    {('spool.failed', 451), ('spool.down', 421), ('spool.failed', 421)}, lost=True)
        expect_delivered_once(server, letters)
        account(server, letters + [scout], history=history)
        assert not os.path.exists(os.path.join(disk.at, 'spool', 'history.db')), 'a history beside the spool, too'


def main():
    wanted = sys.argv[1:]
    for name, run in (('filter', filters), ('dns', dns), ('sqlite', directory_sqlite), ('file', directory_file)):
        if not wanted or name in wanted:
            run()
    if can_mount():
        if not wanted or 'full' in wanted:
            checks.run('disk: full while 200 bodies are written', spool_full)
        if not wanted or 'dead' in wanted:
            checks.run('disk: dead while 200 bodies are written', spool_dead)
    else:
        checks.skip('the spool\'s disk under load', 'no loop mount here (needs root and mkfs.ext4)')
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
