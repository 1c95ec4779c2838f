"""Many clients at once that log everything: each reply they were given, byte counts, and the account that the server's
ledger has to give of it.

    letters = [Letter(to=f'r{n % 100}@home.example') for n in range(200)]
    crowd = Crowd(server.address(), letters, body_gate=gate)
    with crowd:                                   # the clients run on a thread of their own
        gate.wait_all(200)                        # so many are in the middle of their body
        ...                                       # the fault strikes
        gate.open()
        crowd.heal()                              # from now on they try again until they are accepted
        crowd.wait()
    expected = Account(letters)                   # from the clients' own log

A letter that was told 4yz tries again once at once (which tells what a breaker says), and then when `heal` was called."""
import asyncio
import collections
import fcntl
import json
import os
import re
import sqlite3
import struct
import termios
import threading
import time

from lib import PATIENCE_S, wait_until

Told = collections.namedtuple('Told', 'at stage code cause line')
FULL = bool(os.environ.get('HOLDFAST_FULL'))
SIOCOUTQ = termios.TIOCOUTQ


class Letter:
    count = 0

    def __init__(self, to='alice@home.example', sender=None, size=2000):
        Letter.count += 1
        self.number, self.to = Letter.count, to
        self.sender = sender if sender is not None else f's{self.number}@client.example'
        self.token = f'tokenX{self.number}X{os.getpid()}'
        self.size, self.log, self.accepted, self.refused = size, [], 0, None

    def text(self):
        head = (f'From: <s@client.example>\r\nTo: <{self.to}>\r\nSubject: load\r\nMessage-ID: <{self.token}@client.example>\r\n'
                f'X-Token: {self.token}\r\n\r\n')
        line = 'All work and no play makes this a long letter, and nobody will ever read it.\r\n'
        return (head + line * max(1, (self.size - len(head)) // len(line))).encode()


class Gate:
    """Where clients wait in the middle until it is opened; from any thread."""

    def __init__(self, closed=True):
        self.closed, self.inside, self.lock = closed, 0, threading.Lock()

    async def pass_through(self):
        if not self.closed:
            return
        with self.lock:
            self.inside += 1
        try:
            while self.closed:
                await asyncio.sleep(0.01)
        finally:
            with self.lock:
                self.inside -= 1

    def wait_all(self, count, patience_s=PATIENCE_S):
        wait_until(f'{count} in the middle (now {self.inside})', lambda: self.inside >= count, patience_s)

    def open(self):
        self.closed = False


def unacknowledged(writer):
    """Bytes of ours that the peer's kernel has not acknowledged."""
    pending = fcntl.ioctl(writer.get_extra_info('socket').fileno(), SIOCOUTQ, struct.pack('i', 0))
    return struct.unpack('i', pending)[0] + writer.transport.get_write_buffer_size()


class Lost(Exception):
    """The connection ended where a reply was due."""


class Crowd:
    def __init__(self, address, letters, body_gate=None, rcpt_gate=None, patience_s=90, impatient=True):
        self.address, self.letters, self.patience_s = address, letters, patience_s
        self.body_gate, self.rcpt_gate = body_gate, rcpt_gate
        self.healed, self.impatient = False, impatient
        self.halfway = {}           # letter number -> bytes of its body that the server's kernel has
        self.awaiting = set()       # letters with a command out and no reply yet: (number, stage)
        self.fault = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    # ------------------------------------------------------------ one connection

    async def _reply(self, reader, letter, stage):
        self.awaiting.add((letter.number, stage))
        try:
            while True:
                line = await asyncio.wait_for(reader.readline(), self.patience_s)
                if not line.endswith(b'\n'):
                    raise Lost(stage)
                if line[3:4] == b' ':
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            raise Lost(stage)
        finally:
            self.awaiting.discard((letter.number, stage))
        text = line.decode().rstrip()
        cause = re.search(r'\(([a-z0-9._]+)\)$', text)
        return Told(time.time(), stage, int(text[:3]), cause.group(1) if cause else '', text)

    async def _say(self, streams, letter, stage, data):
        reader, writer = streams
        try:
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            pass                # what it said before it closed is still to be read
        return await self._reply(reader, letter, stage)

    async def _body(self, streams, letter):
        _, writer = streams
        text = letter.text()
        half = len(text) // 2
        if self.body_gate and self.body_gate.closed:
            writer.write(text[:half])
            await writer.drain()
            while unacknowledged(writer) and self.body_gate.closed:
                await asyncio.sleep(0.01)
            self.halfway[letter.number] = half
            await self.body_gate.pass_through()
            text = text[half:]
        return await self._say(streams, letter, 'dot', text + b'.\r\n')

    async def attempt(self, letter):
        """The last reply: the first of 4yz or 5yz, or the one after the dot. Lost when there was none."""
        streams = await asyncio.open_connection(*self.address)
        try:
            told = await self._reply(streams[0], letter, 'connect')
            for stage, command in (('ehlo', 'EHLO client.example'), ('mail', f'MAIL FROM:<{letter.sender}>'),
                                   ('rcpt', f'RCPT TO:<{letter.to}>'), ('data', 'DATA')):
                if told.code >= 400:
                    return told
                if stage == 'rcpt' and self.rcpt_gate:
                    await self.rcpt_gate.pass_through()
                told = await self._say(streams, letter, stage, command.encode() + b'\r\n')
            if told.code >= 400:
                return told
            return await self._body(streams, letter)
        finally:
            streams[1].close()

    # ------------------------------------------------------------ one letter until it is accepted

    async def _try(self, letter):
        try:
            told = await self.attempt(letter)
        except (Lost, ConnectionError, OSError) as lost:
            told = Told(time.time(), str(lost), 0, '', '')
        letter.log.append(told)
        if told.code == 250:
            letter.accepted += 1
        elif told.code >= 500:
            letter.refused = told.line
        return told.code == 250 or told.code >= 500

    async def _one(self, letter):
        end = time.monotonic() + self.patience_s
        tries = 0
        while not await self._try(letter):
            tries += 1
            while not self.healed and (tries > 1 or not self.impatient):
                if time.monotonic() > end:
                    return
                await asyncio.sleep(0.02)
            if time.monotonic() > end:
                return
            await asyncio.sleep(0.05 + 0.1 * min(tries, 10))

    async def _all(self):
        await asyncio.gather(*(self._one(letter) for letter in self.letters))

    def _run(self):
        try:
            asyncio.run(self._all())
        except BaseException as fault:      # told by wait()
            self.fault = fault

    # ------------------------------------------------------------ from the test's thread

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *fault):
        for gate in (self.body_gate, self.rcpt_gate):
            if gate:
                gate.open()
        self.healed = True

    def answered(self):
        """Letters that were told something."""
        return sum(1 for letter in self.letters if letter.log)

    def wait_answered(self, count, patience_s=60):
        wait_until(f'{count} letters to be answered', lambda: self.answered() >= count or self.fault, patience_s)

    def heal(self):
        self.healed = True

    def wait(self):
        self.thread.join(self.patience_s + 30)
        assert not self.thread.is_alive(), 'the clients did not come to an end'
        assert self.fault is None, f'the clients failed: {self.fault!r}'


# ------------------------------------------------------------------ the account

class Account:
    """The ledger as it has to be, from what the clients were told, in the order of their clocks. `recipients`: how many a
    reply at the dot speaks for is one here: the letters of a crowd have one recipient each."""

    def __init__(self, letters):
        self.rows, self.open = [], {}
        told = sorted((one.at, number, one) for number, letter in enumerate(letters) for one in letter.log)
        for _, number, one in told:
            self._take(letters[number], one)

    def _take(self, letter, told):
        keys = {'connect': ('', ''), 'ehlo': ('', ''), 'mail': (letter.sender or '<>', '')}
        mail = (letter.sender or '<>', letter.to)
        key = keys.get(told.stage, mail)
        if 400 <= told.code < 500:
            row = self.open.get(key)
            if not row:
                row = self.open[key] = {'key': key, 'attempts': 0, 'state': 'still_out'}
                self.rows.append(row)
            row['attempts'] += 1
            row['cause'] = told.cause
        elif told.code == 250:
            for ended in (mail, keys['mail'], ('', '')):
                self._end(ended, 'came_back')
        elif told.code >= 500:
            for ended in {key, keys['mail']}:
                self._end(ended, 'refused_later')

    def _end(self, key, state):
        row = self.open.pop(key, None)
        if row:
            row['state'] = state

    def summary(self):
        states = collections.Counter(row['state'] for row in self.rows)
        return {'deferred': len(self.rows), 'came_back': states['came_back'], 'refused_later': states['refused_later'],
                'still_out': states['still_out'], 'overdue': 0,
                'by_cause': dict(collections.Counter(row['cause'] for row in self.rows))}

    def table(self):
        return sorted((*row['key'], row['cause'], row['attempts'], row['state']) for row in self.rows)


def why_in(server, *words):
    """What `why --in --json` says, cut to what an account holds."""
    code, out, err = server.run('why', '--in', '--json', *words)
    assert code == 0, f'why --in: {code} {err}'
    said = json.loads(out)
    return {name: said[name] for name in ('deferred', 'came_back', 'refused_later', 'still_out', 'overdue', 'by_cause')}


STATES = ('still_out', 'came_back', 'refused_later', 'overdue')


def ledger_table(folder):
    """Every row of the ledger, as Account.table() has them."""
    path = os.path.join(folder, 'history.db')
    with sqlite3.connect(f'file:{path}?mode=ro', uri=True, timeout=30) as database:
        return sorted((sender, to, cause, attempts, STATES[state]) for sender, to, cause, attempts, state in database.execute(
            'SELECT sender, recipient, cause, attempts, state FROM ledger'))


def expect_account(server, letters, history=None):
    """The ledger is written a moment later; when it has as many rows and ends as it should, every row has to be right."""
    account = Account(letters)
    wanted = account.summary()
    try:
        wait_until('the ledger to agree', lambda: why_in(server) == wanted, 20)
    except AssertionError:
        raise AssertionError(f'the clients\' account is {wanted}, `why --in` says {why_in(server)}') from None
    folder = history or os.path.join(server.folder, 'spool')
    try:
        wait_until('the rows to agree', lambda: ledger_table(folder) == account.table(), 10)
    except AssertionError:
        ledger, clients = ledger_table(folder), account.table()
        raise AssertionError(f'only in the ledger: {[row for row in ledger if row not in clients]}; '
                             f'only in the clients\' log: {[row for row in clients if row not in ledger]}') from None
    return wanted


# ------------------------------------------------------------------ fates

def delivered(server, domain='home.example'):
    """{token: how often it lies in a mailbox}."""
    found = collections.Counter()
    root = os.path.join(server.folder, 'mail', domain)
    for user in os.listdir(root) if os.path.isdir(root) else ():
        for mail in server.mails(user, domain):
            token = re.search(rb'X-Token: (\S+)', mail)
            found[token.group(1).decode() if token else '?'] += 1
    return found


def expect_delivered_once(server, letters):
    accepted = sum(letter.accepted for letter in letters)
    wait_until(f'{accepted} messages in the mailboxes', lambda: sum(delivered(server).values()) >= accepted, 60)
    wait_until('the queue to be empty', lambda: server.metric('holdfast_queue_messages') == 0, 30)
    found = delivered(server)
    wrong = {letter.token: found[letter.token] for letter in letters if found[letter.token] != letter.accepted}
    assert not wrong, f'not delivered as often as accepted: {wrong}'
    assert sum(found.values()) == accepted, f'{sum(found.values())} in the mailboxes, {accepted} accepted'


def expect_fates(letters, faults, lost=False):
    """Each reply was 250 or one of the pairs (cause, reply code) of `faults`; in the end each letter was accepted once."""
    for letter in letters:
        for told in letter.log:
            assert told.code == 250 or (told.cause, told.code) in faults or (lost and told.code == 0), \
                f'{letter.token}: {told.stage}: {told.line or "no reply"}'
        assert letter.accepted == 1 and letter.refused is None, f'{letter.token}: accepted {letter.accepted} times: {letter.log[-1]}'


def count_told(letters):
    return dict(collections.Counter(f'{told.code} {told.cause}'.strip() for letter in letters for told in letter.log))
