#!/usr/bin/env python3
"""The fault matrix for real: each fault strikes the running server while a client stands at each stage of the dialogue; in `data` and
`dot` the peer's kernel has acknowledged every byte that was sent so far, so the server is in the middle of this very message. The
client's own log is then reconciled with the mailboxes and, row by row, with the server's ledger.

    test_matrix.py [--all | --only FAULT | --write]       --write: the table into docs/matrix.md; without: a slice

A fault may be answered 4yz with its own cause, or with 250 where the answer did not depend on it; never 5yz, and never silence but
where the process itself dies. When it is over the same letter has to be taken, and be delivered as often as it was accepted."""
import argparse
import concurrent.futures
import errno
import fcntl
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, Checks, Client, Closed, wait_until  # noqa: E402
from lib_directory import SLAPD, Postgres, Slapd, postgres_program  # noqa: E402
from lib_dns import REFUSED, SERVFAIL, TRUNCATED, Alias, ScriptedDns  # noqa: E402
from lib_faults import write_file  # noqa: E402
from lib_load import FULL, SIOCOUTQ, Letter, Told, expect_account, expect_delivered_once  # noqa: E402
from lib_strike import ALLOCATION, IO, LIBRARY, STALL, Doors, Page, StruckServer, clamd, processes  # noqa: E402

checks = Checks()
STAGES = ('connect', 'ehlo', 'mail', 'rcpt', 'data', 'dot')
PATIENCE_S = 90


class Filter:
    """A scripted clamd whose mood may change while it holds a message."""

    def __init__(self):
        self.mood = 'well'
        self.whole = clamd(lambda text: b'stream: OK\0')
        self.answers = {'garbage': b'\x00\xff\x00 what?\0', 'half': b'stream: O', 'no end': b'stream: OK', 'error': b'Can not fork ERROR\0',
                        'too large': b'INSTREAM size limit exceeded. ERROR\0'}
        self.doors = Doors(self.serve)
        self.port = self.doors.port

    def serve(self, connection):
        if self.mood == 'hangs':
            until = time.monotonic() + 20
            while self.mood == 'hangs' and time.monotonic() < until:
                time.sleep(0.02)
            return
        if self.mood == 'dies':
            connection.recv(100)
            return
        if self.mood == 'slow':
            clamd(lambda text: time.sleep(0.3) or b'stream: OK\0')(connection)
            return
        if self.mood in self.answers:
            clamd(lambda text: self.answers[self.mood])(connection)
            return
        self.whole(connection)

    def close(self):
        self.doors.close()


class House:
    """One server with everything that can fail, each letter with a domain of its own, so that no answer is remembered."""

    def __init__(self, directory=None):
        """directory: a class of what is asked who exists, in place of an SQLite file."""
        self.filter = Filter()
        self.directory = directory() if directory else None
        users = self.directory.users if directory else 'sqlite:{folder}/users.db?table=users'
        self.names = ScriptedDns({('', 'NS'): 'ns.example.', ('mx.home.example', 'A'): '127.0.0.1'})
        self.server = StruckServer(None, f'filter av {{ speaks = clamd  address = "127.0.0.1:{self.filter.port}"  timeout = 1s  connect_timeout = 1s }}\n'
                                   f'resolver {{ forward = {{"127.0.0.1@{self.names.port}"}}  timeout = 1s  patience = 1s }}\n'
                                   'checks { sender_domain = enforce }\nlimits { after_dot = 10s }\n'
                                   'retry { schedule = {200ms}  jitter = 0 }\ndirectory { timeout = 1s }\n'
                                   'tls { certificate = "{folder}/cert.pem"  key = "{folder}/key.pem" }\n', users=users)
        self.server.page = self.page = Page(self.server.folder)
        self.users = os.path.join(self.server.folder, 'users.db')
        self.database = sqlite3.connect(self.users, isolation_level=None, check_same_thread=False)
        self.database.execute('CREATE TABLE users(address TEXT PRIMARY KEY, password TEXT)')
        self.database.execute('INSERT INTO users VALUES("alice@home.example", "")')
        self.letters = []
        self.sender = None      # whose turn it is
        self.server.start()
        self.address = self.server.address()

    def letter(self):
        letter = Letter(size=30000)
        letter.sender = f's@n{letter.number}.client.example'
        self.names.script[(f'n{letter.number}.client.example', 'MX')] = '10 mx.client.example.'
        self.letters.append(letter)
        return letter

    def restart(self):
        self.server.kill()
        self.page.put()
        self.server.start()
        self.address = self.server.address()

    def close(self):
        self.server.kill()
        if self.directory:
            self.directory.close()
        self.database.close()
        self.filter.close()
        self.names.close()
        self.server.own_folder = True
        self.server.__exit__(None, None, None)


# ------------------------------------------------------------------ one letter, struck at one stage

class Sender:
    """One try of a letter, step by step; what it is told goes into the letter's log."""

    def __init__(self, house, letter, tls=False):
        self.house, self.letter, self.client, self.tls = house, letter, None, tls
        house.sender = self

    def told(self, stage, reply):
        line = reply.lines[-1]
        cause = line[line.rfind('(') + 1:-1] if line.endswith(')') else ''
        self.letter.log.append(Told(time.time(), stage, reply.code, cause, line))
        return reply

    def bytes_arrived(self):
        def all_of_them():
            if not self.house.server.alive():
                raise Closed('the server is gone')
            pending = fcntl.ioctl(self.client.socket.fileno(), SIOCOUTQ, struct.pack('i', 0))
            return struct.unpack('i', pending)[0] == 0
        wait_until('every byte to be acknowledged', all_of_them)

    def run(self, at, strike):
        """Until the end or the first 4yz or 5yz; `strike` is called when stage `at` is next. The last (stage, reply)."""
        self.at = at
        text = self.letter.text()
        half = len(text) // 2
        stage = 'connect'
        try:
            for stage in STAGES:
                if stage == 'dot':
                    self.client.send(text[half:])
                    self.bytes_arrived()
                if stage == at:
                    strike()
                if stage == 'connect':
                    self.client = Client(self.house.address)
                    reply = self.client.banner
                elif stage == 'data':
                    continue                # half of the body is there, and nothing is due
                elif stage == 'dot':
                    self.client.send(b'.\r\n')
                    reply = self.client.reply()
                else:
                    if stage == 'mail' and self.tls:
                        self.client.command('STARTTLS')
                        self.client.start_tls()
                        self.client.command('EHLO client.example')
                    reply = self.client.command({'ehlo': 'EHLO client.example', 'mail': f'MAIL FROM:<{self.letter.sender}>',
                                                 'rcpt': f'RCPT TO:<{self.letter.to}>'}[stage])
                if reply.code >= 400 or stage == 'dot':
                    self.told(stage, reply)
                    return stage, reply
                if stage == 'rcpt':
                    reply = self.client.command('DATA')
                    if reply.code != 354:
                        self.told('data', reply)
                        return 'data', reply
                    self.client.send(text[:half])
                    self.bytes_arrived()
            return stage, reply
        except (OSError, Closed, EOFError):
            self.letter.log.append(Told(time.time(), stage, 0, '', ''))
            return stage, None
        finally:
            if self.client:
                self.client.close()


def again_until_taken(house, letter):
    def once():
        stage, reply = Sender(house, letter).run(None, lambda: None)
        assert reply is None or reply.code < 500, f'refused after the fault: {reply.lines}'
        return reply is not None and reply.code == 250 and stage == 'dot'
    wait_until('the letter to be taken when the fault is over', once, PATIENCE_S)
    letter.accepted += 1


def cell(house, fault, stage):
    """What the client was answered, as text for the table; AssertionError when it was wrong."""
    letter, struck = house.letter(), []

    def strike():
        struck.append(stage)
        fault.strike(house)

    def come_to_it():
        """What the last fault left may defer it before: then again, as any client."""
        where, reply = Sender(house, letter, fault.tls).run(stage, strike)
        assert struck or reply is None or 400 <= reply.code < 500, f'before the fault: {reply.lines}'
        return struck and (where, reply)
    try:
        where, reply = wait_until(f'the dialogue to come to {stage}', come_to_it, PATIENCE_S)
        if reply is None:
            assert fault.silent, f'no reply at {where}'
            shown = 'connection lost'
        else:
            told = letter.log[-1]
            assert reply.code == 250 or (400 <= reply.code < 500 and told.cause in fault.causes), f'at {where}: {told.line}'
            shown = '250' if reply.code == 250 else f'{reply.code} `{told.cause}`' + (f' at {where}' if where != stage else '')
    finally:
        fault.heal(house)
    if reply is not None and reply.code == 250:
        letter.accepted += 1
    else:
        again_until_taken(house, letter)
    return shown


# ------------------------------------------------------------------ the faults

class Fault:
    def __init__(self, dependency, name, causes, strike, heal=lambda house: None, silent=False, tls=False, directory=None):
        """silent: a lost connection is an answer. directory: as House has it; such a row is not of the slice."""
        self.dependency, self.name, self.causes, self.strike, self.heal, self.silent = dependency, name, causes.split(), strike, heal, silent
        self.tls, self.directory = tls, directory


def mood(name, word, causes):
    def set_to(value):
        def change(house):
            house.filter.mood = value
        return change
    return Fault('filter', name, causes, set_to(word), set_to('well'))


def filter_gone():
    def strike(house):
        house.filter.doors.shut()
    return Fault('filter', 'connection refused', 'filter.unreachable filter.crashed filter.down', strike, lambda house: house.filter.doors.open_again())


def dns(name, value, causes='dns.resolver.failed'):
    def strike(house):
        house.kept = dict(house.names.script)
        if value == 'dead':
            house.names.dead = True
            return
        for key in house.names.script:
            if value != 'loop':
                house.names.script[key] = value
            elif key[0]:
                house.names.script[key] = Alias(key[0])

    def heal(house):
        house.names.script, house.names.dead = house.kept, False
    return Fault('DNS', name, causes, strike, heal)


def dns_slow():
    def take(seconds):
        def change(house):
            house.names.delay_s = seconds
        return change
    return Fault('DNS', 'slow: 0.3 s an answer', 'dns.sender.temperror dns.resolver.failed', take(0.3), take(0))


class Ldap:
    """A real slapd that has one user."""

    def __init__(self):
        base = Slapd.SUFFIX
        self.real = Slapd(f'dn: {base}\nobjectClass: dcObject\nobjectClass: organization\no: Home\ndc: home\n\n'
                          f'dn: cn=alice,{base}\nobjectClass: inetOrgPerson\ncn: alice\nsn: alice\nmail: alice@home.example\n\n', tls=False)
        self.users = f'ldap://127.0.0.1:{self.real.port}/{base}'

    def close(self):
        self.real.__exit__()


class Sql:
    """A real PostgreSQL that has one user."""

    def __init__(self):
        self.real = Postgres("CREATE TABLE users(address text PRIMARY KEY, password text); INSERT INTO users VALUES('alice@home.example', '')")
        self.users = self.real.uri('?table=users')

    close = Ldap.close


def real_directories():
    found = []
    for kind, noun, there in ((Ldap, 'slapd', SLAPD and os.path.exists(SLAPD)), (Sql, 'PostgreSQL', postgres_program('postgres'))):
        if there:
            found += [Fault('directory', f'{noun} is down', 'directory.unavailable', lambda house: house.directory.real.stop(),
                            lambda house: house.directory.real.start(), directory=kind),
                      Fault('directory', f'{noun} stands still', 'directory.unavailable', lambda house: house.directory.real.freeze(),
                            lambda house: house.directory.real.thaw(), directory=kind)]
    return found


# ------------------------------------------------------------------ the client itself fails

def connected(house):
    """The sender's client; at `connect` there is none yet, and then it is one that says nothing."""
    if not house.sender.client:
        house.sender.client = Client(house.address, banner=False)
    return house.sender.client


def client_forgets_the_answer(house):
    """The dot is sent and the answer is not waited for: it may have been taken."""
    client = connected(house)
    if house.sender.at == 'dot':
        client.send(b'.\r\n')
    client.reset()


def directory_locked(house):
    house.database.execute('BEGIN EXCLUSIVE')


def directory_free(house):
    house.database.execute('COMMIT')


def rename(old, new):
    return lambda house: os.rename(house.users + old, house.users + new)


def directory_table(command):
    return lambda house: house.database.execute(command)


def disk(name, call, number, causes='spool.failed spool.full spool.down local.failed'):
    def strike(house):
        house.page.put(1, IO, 1, True, call, number)
    return Fault('spool', name, causes, strike, lambda house: house.page.put())


def stopped(seconds):
    """SIGSTOP: all of it stands still for a while."""
    def strike(house):
        group = house.server.process.pid
        os.killpg(group, signal.SIGSTOP)
        threading.Timer(seconds, lambda: os.killpg(group, signal.SIGCONT)).start()
    return strike


def goes_on(house):
    def runs():
        with open(f'/proc/{house.server.process.pid}/status') as file:
            return 'stopped' not in file.read()
    wait_until('the server to go on', runs)


def descriptors(house):
    """Each of its processes may open nothing any more."""
    house.limits = {}
    for pid in processes(house.server):
        house.limits[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f'/proc/{pid}/fd'))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used - 2, house.limits[pid][1]))


def descriptors_back(house):
    for pid, limits in house.limits.items():
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        except ProcessLookupError:
            pass


def told_to_reload(house, says, text=None):
    """SIGHUP, with another configuration in its file, until the journal says how that went."""
    def count():
        return '\n'.join(house.server.lines).count(says)
    told = count()
    if text is not None:
        write_file(house.server, 'holdfast.conf', text)
    house.server.process.send_signal(signal.SIGHUP)
    wait_until(f'the journal to say {says!r}', lambda: count() > told)


def reload_badly(house):
    with open(house.server.config) as file:
        house.kept = file.read()
    told_to_reload(house, 'not reloaded', house.kept + 'nonsense {\n')


def disk_stalls(milliseconds):
    def strike(house):
        house.page.put(1, STALL, 1, True, 'fdatasync', milliseconds)
    return Fault('spool', f'each sync takes {milliseconds / 1000:g} s', '', strike, lambda house: house.page.put())


OURS = 'server.busy server.stopping undecided spool.failed spool.down filter.unreachable directory.unavailable directory.misconfigured local.failed'
FAULTS = [
    disk('every sync fails with EIO', 'fdatasync', errno.EIO),
    disk('every write fails with EIO', 'pwritev64', errno.EIO),
    disk('every write fails with ENOSPC', 'pwritev64', errno.ENOSPC),
    disk('every write fails with EDQUOT', 'pwritev64', errno.EDQUOT),
    disk('every write fails with EROFS', 'pwritev64', errno.EROFS),
    disk('every write fails with EACCES', 'pwritev64', errno.EACCES),
    disk('every read fails with EIO, the users\' too', 'pread64', errno.EIO, 'directory.unavailable spool.failed spool.down local.failed'),
    disk_stalls(1000),
    filter_gone(),
    mood('slow: 0.3 s an answer', 'slow', 'filter.timeout'),
    mood('hangs', 'hangs', 'filter.timeout filter.down'),
    mood('dies in the middle', 'dies', 'filter.crashed filter.garbled filter.down'),
    mood('garbage', 'garbage', 'filter.garbled filter.down'),
    mood('half an answer', 'half', 'filter.garbled filter.down'),
    mood('an answer without its end', 'no end', 'filter.garbled filter.down'),
    mood('its own error', 'error', 'filter.misconfigured filter.down'),
    mood('over its size limit', 'too large', 'filter.unscannable'),
    dns('silent', 'dead'),
    dns('SERVFAIL for what is asked', SERVFAIL, 'dns.sender.temperror'),
    dns('lame: REFUSED for what is asked', REFUSED, 'dns.sender.temperror'),
    dns('truncated, and nobody answers by TCP', TRUNCATED, 'dns.sender.temperror dns.resolver.failed'),
    dns('a CNAME that leads to itself', 'loop', 'dns.sender.temperror'),
    dns_slow(),
    Fault('directory', 'locked', 'directory.unavailable', directory_locked, directory_free),
    Fault('directory', 'file gone', 'directory.misconfigured directory.unavailable', rename('', '.away'), rename('.away', '')),
    Fault('directory', 'table gone', 'directory.misconfigured', directory_table('ALTER TABLE users RENAME TO away'),
          directory_table('ALTER TABLE away RENAME TO users')),
    *real_directories(),
    Fault('client', 'resets the connection', '', lambda house: connected(house).reset(), silent=True),
    Fault('client', 'sends no more (half-closed)', 'client.lost', lambda house: connected(house).end(), silent=True),
    Fault('client', 'goes without the answer to its dot', '', client_forgets_the_answer, silent=True),
    Fault('client', 'is slow: 1.2 s without a word', '', lambda house: time.sleep(1.2)),
    # TCP ends without a word of TLS.
    Fault('client', 'is cut off within TLS', '', lambda house: connected(house).socket.close(), silent=True, tls=True),
    Fault('machine', 'is told to reload', '', lambda house: told_to_reload(house, 'config.reloaded')),
    Fault('machine', 'is told to reload what is wrong', '', reload_badly,
          lambda house: told_to_reload(house, 'config.reloaded', house.kept)),
    Fault('machine', 'no descriptors', OURS, descriptors, descriptors_back, silent=True),
    Fault('machine', 'no memory', OURS + ' filter.timeout filter.crashed filter.garbled recipient.too_many', lambda house: house.page.put(1, ALLOCATION, 1, True),
          lambda house: house.page.put(), silent=True),
    # What it asked before is past its time when it goes on: then it defers.
    Fault('machine', 'stands still for 2 s', 'dns.sender.temperror dns.resolver.failed filter.timeout', stopped(2), goes_on),
    Fault('machine', 'killed and started again', '', lambda house: house.server.kill(), lambda house: house.restart(), silent=True),
]


def table(rows):
    lines = ['| what fails | how | ' + ' | '.join(f'at {stage}' for stage in STAGES) + ' | reconciled |', '|' + '---|' * (len(STAGES) + 3)]
    lines += [f'| {fault.dependency} | {fault.name} | ' + ' | '.join(cells) + f' | {reconciled} |' for fault, cells, reconciled in rows]
    return '\n'.join(lines) + '\n'


def one(fault):
    house = House(fault.directory)
    cells = []
    try:
        for stage in STAGES:
            try:
                cells.append(cell(house, fault, stage))
                checks.ok(f'{fault.dependency}: {fault.name}, at {stage}: {cells[-1]}', True)
            except (AssertionError, OSError) as wrong:
                cells.append('**wrong**')
                checks.ok(f'{fault.dependency}: {fault.name}, at {stage}', False, wrong)
                if not house.server.alive():
                    house.restart()
        letters = [letter for letter in house.letters if letter.accepted]
        expect_delivered_once(house.server, letters)
        lost = any(told.code == 0 for letter in house.letters for told in letter.log)
        if not lost:
            expect_account(house.server, house.letters)
        reconciled = f'{len(letters)} delivered once' + ('' if lost else ', ledger agrees')
        checks.ok(f'{fault.dependency}: {fault.name}: {reconciled}', True)
    except (AssertionError, OSError) as wrong:
        reconciled = '**wrong**'
        checks.ok(f'{fault.dependency}: {fault.name}: reconciled', False, wrong)
    finally:
        house.close()
    return fault, cells, reconciled


def row(number):
    """In a process of its own: the number, what `one` says, and how many checks passed and failed."""
    checks.passed = checks.failed = 0
    _, cells, reconciled = one(FAULTS[number])
    return number, cells, reconciled, checks.passed, checks.failed


def a_slice():
    """The same ones each time."""
    chance = random.Random(1)
    faults = []
    for dependency in dict.fromkeys(fault.dependency for fault in FAULTS):
        mine = [fault for fault in FAULTS if fault.dependency == dependency and not fault.directory]
        faults += chance.sample(mine, min(2, len(mine)))
    return faults


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--only', help='faults whose "WHAT: HOW" contains this')
    parser.add_argument('--write', action='store_true')
    parser.add_argument('--jobs', type=int, default=2, help='rows at a time: they mostly wait')
    parser.add_argument('--all', action='store_true', help='not only the slice: two of each dependency')
    options = parser.parse_args()
    if not os.path.exists(LIBRARY):
        print(f'SKIP {LIBRARY} is not built\n0 passed, 0 failed, 1 skipped')
        return 0
    whole = options.all or options.write or options.only or FULL
    numbers = [FAULTS.index(fault) for fault in (FAULTS if whole else a_slice()) if not options.only or options.only in f'{fault.dependency}: {fault.name}']
    rows = []
    with concurrent.futures.ProcessPoolExecutor(options.jobs, multiprocessing.get_context('fork')) as pool:
        for number, cells, reconciled, passed, failed in pool.map(row, numbers):
            rows.append((FAULTS[number], cells, reconciled))
            checks.passed, checks.failed = checks.passed + passed, checks.failed + failed
    if options.write and not options.only and not checks.failed:
        path = os.path.join(ROOT, 'docs', 'matrix.md')
        text = open(path, encoding='utf-8').read()
        begin, end = '<!-- matrix -->\n', '<!-- end matrix -->'
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text.split(begin)[0] + begin + table(rows) + end + text.split(end)[1])
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
