#!/usr/bin/env python3
"""The ledger against clients that log everything: at each stage, with several recipients, across a restart and a kill, row
by row. Then what is overdue, and that it costs nothing while nothing is deferred."""
import os
import random
import signal
import sqlite3
import tempfile
import time

from lib import Checks, Client, Server, wait_until
from lib_dns import SERVFAIL, ScriptedDns
from lib_faults import FaultServer, FromAddress, write_file
from lib_load import FULL, Letter, Told, count_told, expect_account, ledger_table, why_in
from test_faults_filter import CLEAN, FakeClamd, filter_text

checks = Checks()
NAMES = ('alice', 'bob', 'carol', 'emil', 'fay', 'dora', 'nobody')
SENDERS = tuple(f's{number}@good.example' for number in range(8)) + tuple(f's{number}@sick.example' for number in range(3)) + ('',)


class Book:
    """One client that keeps its own account of every reply."""

    def __init__(self):
        self.letters = {}

    def note(self, sender, recipients, stage, reply):
        cause = reply.lines[-1].rsplit('(', 1)[-1].rstrip(')') if reply.code >= 400 else ''
        told = Told(time.time(), stage, reply.code, cause, reply.lines[-1])
        for to in recipients:
            key = (sender, to)
            if key not in self.letters:
                self.letters[key] = Letter(to=to, sender=sender)
            self.letters[key].log.append(told)

    def all(self):
        return list(self.letters.values())

    def send(self, server, sender, recipients):
        """One transaction; what was said last."""
        with FromAddress(server.address(), '127.0.0.9') as client:
            if client.banner.code >= 400:           # filter.down
                self.note(sender, [''], 'connect', client.banner)
                return client.banner
            client.command('EHLO client.example')
            reply = client.command(f'MAIL FROM:<{sender}>')
            if reply.code >= 400:
                self.note(sender, [''], 'mail', reply)
                return reply
            taken = []
            for to in recipients:
                reply = client.command(f'RCPT TO:<{to}>')
                if reply.code == 250:
                    taken.append(to)
                else:
                    self.note(sender, [to], 'rcpt', reply)
            if not taken:
                return reply
            reply = client.command('DATA')
            if reply.code == 354:
                client.send('From: <s@good.example>\r\nSubject: one\r\n\r\ntext\r\n.\r\n')
                reply = client.reply()
            self.note(sender, taken, 'dot', reply)
            return reply


class House:
    """A server whose filter and name server do as told."""

    def __init__(self, more=''):
        self.fake = FakeClamd()
        self.names = ScriptedDns({('', 'NS'): 'ns.example.', ('good.example', 'MX'): '10 mx.good.example.', ('sick.example', None): SERVFAIL})
        self.server = FaultServer(f'{filter_text(self.fake.address)}resolver {{ forward = {{"127.0.0.1@{self.names.port}"}}  timeout = 2s }}\n'
                                  f'checks {{ sender_domain = require }}\nlimits {{ recipients = 4 }}\n{more}\n', start=False)
        write_file(self.server, 'users', 'alice\nbob\ncarol\nemil\nfay\ndora:disabled=yes\n')

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *fault):
        self.server.__exit__(*fault)
        self.fake.close()
        self.names.close()

    def wait_filter(self):
        wait_until('the breaker to close', lambda: self.server.metric('holdfast_breaker_open', dependency='scan') == 0)


def home(*names):
    return [f'{name}@home.example' for name in names]


def rows_of(server):
    return {(sender, to): (cause, attempts, state) for sender, to, cause, attempts, state in
            ledger_table(os.path.join(server.folder, 'spool'))}


def wait_rows(server, wanted):
    try:
        wait_until('these rows', lambda: rows_of(server) == wanted)
    except AssertionError:
        raise AssertionError(f'wanted {wanted}, the ledger has {rows_of(server)}') from None


# ------------------------------------------------------------------ stage by stage

def stages():
    with House() as house:
        server, book = house.server, Book()
        house.fake.answer = ''
        reply = book.send(server, 's@good.example', home('alice', 'bob', 'carol'))
        assert (reply.code, reply.lines[-1].split()[-1]) == (451, '(filter.crashed)'), reply
        crashed = ('filter.crashed', 1, 'still_out')
        wanted = {('s@good.example', to): crashed for to in home('alice', 'bob', 'carol')}
        wait_rows(server, wanted)                                       # the dot speaks for three
        house.fake.answer = CLEAN
        assert book.send(server, 's@good.example', home('carol', 'alice')).code == 250
        for to in home('carol', 'alice'):                               # two come back, in another order
            wanted['s@good.example', to] = ('filter.crashed', 1, 'came_back')
        wait_rows(server, wanted)
        book.send(server, 's@good.example', home('dora', 'alice'))      # one is told 450, the other accepted
        wanted['s@good.example', home('dora')[0]] = ('recipient.disabled', 1, 'still_out')
        wait_rows(server, wanted)
        book.send(server, 's@sick.example', home('alice'))              # at MAIL there is no recipient yet
        wanted['s@sick.example', ''] = ('dns.sender.temperror', 1, 'still_out')
        wait_rows(server, wanted)
        house.names.script[('sick.example', None)] = '10 mx.good.example.'
        tries = 1
        while True:                                                     # the resolver has a short memory of failures
            reply = book.send(server, 's@sick.example', home('nobody'))
            if reply.code == 550:
                break
            assert reply.code == 451 and tries < 1000, reply
            tries += 1
        wanted['s@sick.example', ''] = ('dns.sender.temperror', tries, 'refused_later')     # back, as far as a 550
        wait_rows(server, wanted)
        house.fake.answer = 'stream: Some.Virus FOUND\0'
        reply = book.send(server, 's@good.example', home('bob', 'emil'))
        assert reply.code == 550, reply
        wanted['s@good.example', home('bob')[0]] = ('filter.crashed', 1, 'refused_later')
        wait_rows(server, wanted)
        house.fake.answer = CLEAN
        reply = book.send(server, 'many@good.example', home('alice', 'bob', 'carol', 'emil', 'fay'))
        assert reply.code == 250, reply                                 # the surplus is told 452
        wanted['many@good.example', home('fay')[0]] = ('recipient.too_many', 1, 'still_out')
        wait_rows(server, wanted)
        assert book.send(server, 'many@good.example', home('fay')).code == 250
        wanted['many@good.example', home('fay')[0]] = ('recipient.too_many', 1, 'came_back')
        wait_rows(server, wanted)
        expect_account(server, book.all())


def idle():
    """A 421 in the middle of a transaction is a deferral, too."""
    with House('limits { command_timeout = 200ms }') as house:
        with FromAddress(house.server.address(), '127.0.0.9') as client:
            client.command('EHLO client.example')
            client.send('MAIL FROM:<slow@good.example>\r\nRCPT TO:<alice@home.example>\r\n')
            client.replies(2)
            reply = client.reply()
            assert reply.code == 421, reply
        wait_rows(house.server, {('slow@good.example', 'alice@home.example'): ('client.idle', 1, 'still_out')})


# ------------------------------------------------------------------ a long walk

def walk():
    seed = int(os.environ.get('HOLDFAST_SEED', '0')) or int.from_bytes(os.urandom(4), 'big')
    print(f'# HOLDFAST_SEED={seed}')
    chance = random.Random(seed)
    steps = 1500 if FULL else 240
    with House() as house:
        server, book = house.server, Book()
        for step in range(steps):
            if step == steps * 3 // 4:
                house.fake.answer = CLEAN
                house.wait_filter()
            elif chance.random() < 0.15:
                house.fake.answer = chance.choice(('', CLEAN, CLEAN, 'stream: ', 'stream: Some.Virus FOUND\0'))
            if chance.random() < 0.05:
                house.names.script[('sick.example', None)] = chance.choice((SERVFAIL, '10 mx.good.example.'))
            book.send(server, chance.choice(SENDERS), home(*chance.sample(NAMES, chance.randint(1, 6))))
            if step == steps // 3:
                server.stop()
                server.start()
            if step == 2 * steps // 3:
                expect_account(server, book.all())      # it is on the disk now: a kill takes nothing of it
                server.kill()
                server.start()
        said = expect_account(server, book.all())
        print('# told:', count_told(book.all()))
        print('# the account:', said)
        assert said['came_back'] + said['refused_later'] and said['still_out'], f'the walk was dull: {said}'


# ------------------------------------------------------------------ overdue, and bounds

def overdue():
    with House('ledger { overdue_after = 100ms }') as house:
        server, book = house.server, Book()
        house.fake.answer = ''
        book.send(server, 'late@good.example', home('alice', 'bob'))
        wait_until('both to be overdue', lambda: why_in(server)['overdue'] == 2)
        assert why_in(server)['still_out'] == 0
        wait_until('the gauge to say so', lambda: server.metric('holdfast_ledger_messages', state='overdue') == 2)
        house.fake.answer = CLEAN
        assert book.send(server, 'late@good.example', home('alice', 'bob')).code == 250
        wait_until('both to be back', lambda: why_in(server)['came_back'] == 2 and why_in(server)['overdue'] == 0)
        wait_until('the gauge to say so', lambda: server.metric('holdfast_ledger_messages', state='overdue') == 0)
        assert server.metric('holdfast_ledger_messages', state='came_back') == 2


def costs_nothing():
    """Accepted mail of many recipients leaves no row in the ledger and one line of history, whatever their number."""
    with House() as house:
        server, book = house.server, Book()
        for number in range(30):
            assert book.send(server, f'p{number}@good.example', home('alice', 'bob', 'carol', 'emil')).code == 250
        server.wait_events('message.ended', 30)
        server.stop()
        with sqlite3.connect(f'file:{server.folder}/spool/history.db?mode=ro', uri=True) as database:
            assert database.execute('SELECT count(*) FROM ledger').fetchone() == (0,)
            octets, = database.execute('SELECT sum(length(packed)) FROM events').fetchone()
        recipients = database.execute('SELECT count(*) FROM names WHERE text = "recipient.accepted"').fetchone()[0]
        assert recipients == 1 and octets < 30 * 4 * 400, f'{octets} octets of history for 30 messages'
        server.start()


# ------------------------------------------------------------------ a folder of its own

def elsewhere():
    """`history` names another folder: made with its parents for the server's user, read by every command; a reload may move it
    (a new worker), one that cannot be opened is refused by name and the old one runs on."""
    user = 'user = "nobody"\n' if os.geteuid() == 0 else ''
    with tempfile.TemporaryDirectory(prefix='holdfast-history-') as root:
        os.chmod(root, 0o755)
        text = ('hostname = "mx.home.example"\nspool = "{folder}/spool"\n' + f'history = "{root}/a/of mx"\n{user}'
                'listen smtp { address = "127.0.0.1:0" }\ndomain "home.example" { users = "file:{folder}/users"\n'
                '    deliver = "maildir:{folder}/mail/{domain}/{user}" }\n'
                'limits { recipients = 1 }\n')
        with Server(text=text, start=False) as server:
            os.chmod(server.folder, 0o755)
            server.start()
            deferred(server)
            first = os.path.join(root, 'a', 'of mx')
            facts = os.stat(first)
            assert facts.st_mode & 0o777 == 0o700, oct(facts.st_mode)
            assert facts.st_uid == os.stat(os.path.join(server.folder, 'spool')).st_uid, 'another owner than the spool\'s'
            assert not os.path.exists(os.path.join(server.folder, 'spool', 'history.db')), 'a history beside the spool, too'
            wait_until('the ledger to have a row', lambda: why_in(server)['deferred'] == 1)
            assert server.run('config', 'show')[1].count(f'history = "{first}"') == 1

            edit(server, f'{root}/a/of mx', '/proc/none/history')
            code, out, err = server.run('reload')
            assert code == 1 and '/proc/none/history' in out + err, (code, out, err)
            edit(server, '/proc/none/history', f'{root}/a/of mx')
            deferred(server)
            wait_until('the ledger to go on', lambda: ledger_table(first) == [('a@b.example', 'bob@home.example', 'recipient.too_many', 2, 'still_out')])

            edit(server, f'{root}/a/of mx', f'{root}/b')
            server.process.send_signal(signal.SIGHUP)
            server.wait_events('config.reloaded', 1)
            deferred(server)
            wait_until('the other ledger to have a row', lambda: why_in(server)['deferred'] == 1)
            assert os.path.exists(os.path.join(root, 'b', 'history.db'))
            server.stop()

            with open(os.path.join(root, 'file'), 'w'):
                pass
            edit(server, f'{root}/b', f'{root}/file')
            try:
                server.start()
            except AssertionError as fault:
                assert f'history: {root}/file/history.db: ' in str(fault), fault
            else:
                raise AssertionError('a file served as a folder')


def edit(server, old, new):
    with open(server.config) as file:
        text = file.read()
    assert old in text, f'{old!r} is not in the configuration'
    with open(server.config, 'w') as file:
        file.write(text.replace(old, new))


def deferred(server):
    """One recipient is told to come again, the other is taken."""
    with Client(server.address()) as client:
        for line, code in (('EHLO c.example', 250), ('MAIL FROM:<a@b.example>', 250), ('RCPT TO:<alice@home.example>', 250),
                           ('RCPT TO:<bob@home.example>', 452)):
            reply = client.command(line)
            assert reply.code == code, reply


def main():
    checks.run('`history`: a folder of its own, moved by a reload, refused by name', elsewhere)
    checks.run('each stage, several recipients, coming back apart and together', stages)
    checks.run('421 in the middle of a transaction', idle)
    checks.run('a long walk with a restart and a kill: equal to the client\'s own log, row by row', walk)
    checks.run('overdue, by setting, and back', overdue)
    checks.run('nothing deferred: nothing kept', costs_nothing)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
