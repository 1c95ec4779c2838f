#!/usr/bin/env python3
"""What is remembered of a message: a filter's verdict that came too late answers the next attempt at once; a message that makes a
filter fail again and again while others pass is poison; and a message whose 250 was lost is answered by its first id, once."""
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from lib import Checks, Client, Server, wait_until
from lib_faults import FaultServer, FromAddress, Mail, expect, expect_accepted
from lib_milter import ACCEPT, CONTINUE, PROGRESS, Milter, MilterServer, add_header, reply
from test_faults_filter import CLEAN, FakeClamd
from test_faults_spool import attached

checks = Checks()


class SlowClamd(FakeClamd):
    """Takes the whole message, and answers when it is let."""

    def __init__(self):
        super().__init__()
        self.let, self.scans, self.told = threading.Event(), 0, 0

    def talk(self, connection):
        with connection, connection.makefile('rb') as file:
            if file.read(6) == b'zPING\0':
                connection.sendall(b'PONG\0')
                return
            file.read(4)
            size = int.from_bytes(file.read(4), 'big')
            body = b''
            while size:
                body += file.read(size)
                size = int.from_bytes(file.read(4), 'big')
            self.scans += 1
            answer = self.judge(body)
            if answer is not None:
                connection.sendall(answer.encode())
                self.told += 1

    def judge(self, body):
        self.let.wait(60)
        return self.answer


class PoisonClamd(SlowClamd):
    """Dies (for this connection) at messages with the word."""

    def judge(self, body):
        return None if b'poison' in body else CLEAN


class SlowSpamd:
    """Says its verdict when it is let; knows one connection at a time."""

    def __init__(self):
        self.let, self.scans, self.score = threading.Event(), 0, 1.5
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=64)
        self.address = '127.0.0.1:%d' % self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        with connection, connection.makefile('rb') as file:
            if file.readline().startswith(b'PING'):
                connection.sendall(b'SPAMD/1.5 0 PONG\r\n')
                return
            length = 0
            for line in iter(file.readline, b'\r\n'):
                if line.lower().startswith(b'content-length:'):
                    length = int(line.split(b':')[1])
            file.read(length)
            self.scans += 1
            self.let.wait(60)
            header = f'X-Spam-Status: No, score={self.score}\r\n\r\n'
            connection.sendall((f'SPAMD/1.1 0 EX_OK\r\nContent-length: {len(header)}\r\nSpam: False ; {self.score} / 5.0\r\n\r\n'
                                + header).encode())

    def close(self):
        self.listener.close()


def recalled(server):
    return server.metric('holdfast_filter_verdicts_total', came='from_memory')


def late(server, count=1):
    wait_until('the late verdict to be kept', lambda: server.metric('holdfast_filter_verdicts_total', came='late') >= count)


def letter(word='hello', **more):
    mail = Mail(body=word, **more)
    mail.text = lambda: f'From: <a@client.example>\r\nSubject: late\r\nMessage-ID: <{word}@client.example>\r\n\r\n{mail.body}\r\n'
    return mail


# ------------------------------------------------------------------ late verdicts

def of_clamd():
    clamd = SlowClamd()
    with FaultServer(f'filter scan {{ speaks = clamd  address = "{clamd.address}"  timeout = 400ms }}\n') as server:
        expect(server, letter(), '451 4.3.0', 'filter.timeout', 'dot')
        clamd.let.set()
        late(server)
        server._wait('the journal to say so', lambda: any('answered late about' in line and 'accepted; kept' in line for line in server.lines))
        clamd.let.clear()                                    # it is as slow as ever
        expect_accepted(server, letter())                    # and this one is answered from memory
        assert clamd.scans == 1 and recalled(server) == 1, (clamd.scans, recalled(server))
        expect(server, letter('another'), '451 4.3.0', 'filter.timeout', 'dot')        # of this message nothing is known
        clamd.answer = 'stream: Some.Virus FOUND\0'
        clamd.let.set()
        late(server, 2)
        clamd.let.clear()
        told = expect(server, letter('another'), '550 5.7.1', 'filter.refused', 'dot')
        assert 'Some.Virus' in told['text'] and told['filter'] == 'scan', told
        assert clamd.scans == 2
    clamd.close()


def not_of_half_answers():
    """A late answer that is none is not kept: the message is asked about again."""
    clamd = SlowClamd()
    with FaultServer(f'filter scan {{ speaks = clamd  address = "{clamd.address}"  timeout = 300ms }}\n') as server:
        clamd.answer = 'stream: O'
        expect(server, letter(), '451 4.3.0', 'filter.timeout', 'dot')
        clamd.let.set()
        wait_until('half an answer to be given', lambda: clamd.told == 1)
        clamd.answer = CLEAN
        expect_accepted(server, letter())
        assert clamd.scans == 2, clamd.scans
    clamd.close()


def of_spamd():
    spamd = SlowSpamd()
    with FaultServer(f'filter spam {{ speaks = spamd  address = "{spamd.address}"  timeout = 400ms }}\n') as server:
        expect(server, letter(), '451 4.3.0', 'filter.timeout', 'dot')
        spamd.let.set()
        late(server)
        spamd.let.clear()
        expect_accepted(server, letter())
        assert spamd.scans == 1
        mail = server.mails('alice', 'home.example')[-1]
        assert b'X-Spam-Status: No, score=1.5' in mail, mail
    spamd.close()


class SlowMilter(Milter):
    let, verdict, ends = threading.Event(), [add_header('X-Late', 'yes'), ACCEPT], 0

    def end(self):
        type(self).ends += 1
        self.let.wait(60)
        return type(self).verdict


def of_a_milter():
    with MilterServer(SlowMilter) as milters, FaultServer(
            f'filter slow {{ speaks = milter  address = "{milters.address}"  timeout = 500ms }}\n') as server:
        expect(server, letter(), '451 4.3.0', 'filter.timeout', 'dot')
        SlowMilter.let.set()
        late(server)
        SlowMilter.let.clear()
        expect_accepted(server, letter())
        assert b'X-Late: yes' in server.mails('alice', 'home.example')[-1]
        assert SlowMilter.ends == 1
        expect(server, letter(sender='other@[127.0.0.1]'), '451 4.3.0', 'filter.timeout', 'dot')    # another sender is another question
        SlowMilter.verdict = [reply('550 5.7.1 not this')]
        SlowMilter.let.set()
        late(server, 2)
        SlowMilter.let.clear()
        got, where = letter(sender='other@[127.0.0.1]').play(server)
        assert got.lines[-1].startswith('550 5.7.1 not this') and where == 'dot', got.lines
        assert not milters.faults, milters.faults
        SlowMilter.let.set()


def survives_stopping():
    """A filter that is listened to does not keep the server from ending."""
    clamd = SlowClamd()
    with FaultServer(f'filter scan {{ speaks = clamd  address = "{clamd.address}"  timeout = 300ms }}\n') as server:
        for number in range(5):
            expect(server, letter(f'n{number}'), '451 4.3.0', 'filter.timeout', 'dot') if number < 4 else None
        began = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - began < 20
    clamd.let.set()
    clamd.close()


# ------------------------------------------------------------------ poison

def poison(setting, code, cause):
    clamd = PoisonClamd()
    text = f'filter scan {{ speaks = clamd  address = "{clamd.address}"  timeout = 30s  poison_after = 3  {setting} }}\n'
    with FaultServer(text) as server:
        for _ in range(3):
            expect(server, letter('poison'), '451 4.3.0', 'filter.crashed', 'dot')
        expect(server, letter('poison'), '451 4.3.0', 'filter.crashed', 'dot')      # no other has passed yet: it may be the filter
        expect_accepted(server, letter('fine'))
        asked = clamd.scans
        if code == '250':
            got, where = letter('poison').play(server)
            assert (got.code, where) == (250, 'dot'), got.lines
            held = server.wait_events('message.held', 1)[-1] if server.events('message.held') else None
            wait_until('it to be held', lambda: server.metric('holdfast_queue_messages', state='held') == 1)
            assert not any(b'poison' in mail for mail in server.mails('alice', 'home.example')), held
        else:
            told = expect(server, letter('poison'), code, cause, 'dot')
            assert told['filter'] == 'scan', told
        assert clamd.scans == asked, 'the filter was asked again'
        expect_accepted(server, letter('fine too'))                                 # others pass as ever
        if cause:                                                                   # a restart forgets nothing, however it came
            for end in (Server.kill, Server.stop):
                end(server)
                server.start()
                expect(server, letter('poison'), code, cause, 'dot')
            assert clamd.scans == asked + 1, 'the filter was asked again after a restart'
    clamd.close()


def poison_mended():
    """What is counted outlives a kill; what the filter judges after all is forgotten for good."""
    clamd = PoisonClamd()
    text = f'filter scan {{ speaks = clamd  address = "{clamd.address}"  timeout = 30s  poison_after = 3 }}\n'
    with FaultServer(text) as server:
        for number in range(3):
            expect(server, letter('poison'), '451 4.3.0', 'filter.crashed', 'dot')
            server.kill()
            server.start()
        expect_accepted(server, letter('fine'))
        expect(server, letter('poison'), '451 4.6.0', 'filter.poison', 'dot')
        server.kill()
        clamd.judge = lambda body: CLEAN
        text = open(server.config).read()
        with open(server.config, 'w') as file:
            file.write(text.replace('poison_after = 3', 'poison_after = 4'))
        server.start()
        expect_accepted(server, letter('poison'))
        server.kill()
        with open(server.config, 'w') as file:
            file.write(text)
        server.start()
        expect_accepted(server, letter('poison', sender='other@[127.0.0.1]'))     # no repeat of the one before the kill
    clamd.close()


# ------------------------------------------------------------------ the lost 250

def begin(server, source='127.0.0.1'):
    client = FromAddress(server.address(), source)
    client.command('EHLO client.example')
    return client


def send(client, word='lost', to=('alice',)):
    assert client.command('MAIL FROM:<a@client.example>').code == 250
    for user in to:
        assert client.command(f'RCPT TO:<{user}@home.example>').code == 250
    assert client.command('DATA').code == 354
    client.send(f'From: <a@client.example>\r\nMessage-ID: <{word}@client.example>\r\n\r\n{word}\r\n.\r\n')


def id_of(answer):
    assert answer.code == 250, answer.lines
    return re.search(r'Accepted as (\S+)', answer.lines[-1]).group(1)


def again(server, clamd, first, how):
    """`how`(client) leaves before the reply is written, which waits for the filter. The next time the first id is said, the time
    after it is a new message."""
    accepted, scans = server.metric('holdfast_messages_accepted_total'), clamd.scans
    client = begin(server)
    clamd.let.clear()
    send(client, first)
    wait_until('the filter to have it', lambda: clamd.scans > scans)
    how(client)
    clamd.let.set()
    lost = server.wait_events('message.accepted', int(accepted) + 1)[-1]['message']
    server._wait('the loss to be noticed', lambda: any(f'the 250 for {lost} was lost' in line for line in server.lines))
    with begin(server, '127.0.0.7') as client:          # the same network
        send(client, first)
        assert id_of(client.reply()) == lost
        client.command('QUIT')
    told = server.wait_events('message.repeated', 1, message=lost)
    assert told[-1]['from'] == 'a@client.example' and told[-1]['to'] == 'alice@home.example', told
    with begin(server) as client:
        send(client, first)
        assert id_of(client.reply()) != lost
        client.command('QUIT')


def mails_with(server, word, user='alice'):
    return sum(1 for mail in server.mails(user, 'home.example') if f'<{word}@client.example>'.encode() in mail)


def quits_ahead(client):
    """QUIT goes out with the dot or behind it, before any reply, and then the client's machine is gone."""
    client.send('QUIT\r\n')
    client.reset()


def quits_and_closes(client):
    client.send('QUIT\r\n')
    client.close()


def lost():
    ways = {'closed': Client.close, 'reset': Client.reset, 'quit-reset': quits_ahead, 'quit-closed': quits_and_closes}
    clamd = SlowClamd()
    with FaultServer(f'filter scan {{ speaks = clamd  address = "{clamd.address}"  timeout = 30s }}\n') as server:
        for word, way in ways.items():
            again(server, clamd, word, way)
        assert server.metric('holdfast_messages_repeated_total') == len(ways)
        for word in ways:
            wait_until('both copies', lambda word=word: mails_with(server, word) == 2)       # the first and the new one
        wait_until('the queue to be empty', lambda: server.metric('holdfast_queue_messages') == 0)
        assert all(mails_with(server, word) == 2 for word in ways)
    clamd.close()


def not_lost():
    """Who read the reply and then left without QUIT, or half-closed before, has sent two messages when he sends it twice."""
    with FaultServer() as server:
        for number in range(3):
            client = begin(server)
            send(client, 'read')
            if number == 1:
                client.end()
            id_of(client.reply())
            client.close()
        wait_until('three', lambda: mails_with(server, 'read') == 3)
        assert not server.events('message.repeated')


def other_envelope():
    """Other recipients, another network: no repeat."""
    clamd = SlowClamd()
    with FaultServer(f'filter scan {{ speaks = clamd  address = "{clamd.address}"  timeout = 30s }}\n') as server:
        client = begin(server)
        send(client, 'mine')
        wait_until('the filter to have it', lambda: clamd.scans)
        client.reset()
        clamd.let.set()
        server._wait('the loss to be noticed', lambda: any('was lost: a repeat' in line for line in server.lines))
        for source, to in (('127.0.1.1', ('alice',)), ('127.0.0.1', ('alice', 'bob'))):
            with begin(server, source) as client:
                send(client, 'mine', to)
                id_of(client.reply())
                client.command('QUIT')
        assert not server.events('message.repeated')
        wait_until('three', lambda: mails_with(server, 'mine') == 3)
    clamd.close()


def killed():
    """SIGKILL after the message is durable and before anybody is told: strace keeps the sync from returning. The client's repeat gets
    the id of the first, and the mailbox one copy; what has no Message-ID is stored again."""
    with FaultServer() as server:
        with begin(server) as client:
            send(client, 'before')
            id_of(client.reply())
            client.command('QUIT')
        server.wait_events('message.ended', 1)
        die_in_commit(server, 'killed')
        with begin(server, '127.0.0.7') as client:
            send(client, 'killed')
            first = id_of(client.reply())
            assert server.wait_events('message.repeated', 1, message=first)
            send(client, 'killed')
            assert id_of(client.reply()) != first       # once
            client.command('QUIT')
        wait_until('two, the first and the new one', lambda: mails_with(server, 'killed') == 2)
        assert mails_with(server, 'before') == 1
        die_in_commit(server, 'again')
        server.kill()                                   # and what is remembered outlives a second death
        server.start()
        with begin(server) as client:
            send(client, 'again')
            first = id_of(client.reply())
            assert server.wait_events('message.repeated', 1, message=first)
            client.command('QUIT')
        server.kill()
        server.start()
        with begin(server) as client:
            send(client, 'again')
            assert id_of(client.reply()) != first       # as does that it was used
            client.command('QUIT')


def die_in_commit(server, word):
    before, seen = len(server.events('message.accepted')), os.path.join(server.folder, 'trace')
    trace = subprocess.Popen(['strace', '-f', '-qq', '-e', 'trace=fdatasync', '-e', 'inject=fdatasync:delay_exit=60000000:when=1',
                              '-o', seen, '-p', str(server.worker_pid)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until('strace to be attached', lambda: attached(server.worker_pid))
        client = begin(server)
        send(client, word)
        wait_until('the record to be written', lambda: record_of(server, word))
        os.kill(server.worker_pid, signal.SIGKILL)
        server.process.kill()
    finally:
        trace.kill()                    # what it traces is as good as dead, and goes with it
        trace.wait()
    server.kill()
    client.close()
    assert len(server.events('message.accepted')) == before, 'the reply was out before the kill'
    server.start()


def record_of(server, word):
    """The segments hold it, so the writer's next call is the sync."""
    folder = os.path.join(server.folder, 'spool', 'log')
    for name in os.listdir(folder):
        if name.endswith('.seg'):
            with open(os.path.join(folder, name), 'rb') as file:
                if f'<{word}@client.example>'.encode() in file.read():
                    return True
    return False


def main():
    checks.run('a late verdict of clamd answers the next attempt', of_clamd)
    checks.run('a late answer that is none does not', not_of_half_answers)
    checks.run('a late verdict of spamd, with its fields', of_spamd)
    checks.run('a late verdict of a milter, with its changes, for the same dialogue', of_a_milter)
    checks.run('the server ends while it listens', survives_stopping)
    checks.run('poison is deferred by its name', lambda: poison('', '451 4.6.0', 'filter.poison'))
    checks.run('poison is refused, by setting', lambda: poison('on_poison = refuse', '554 5.6.0', 'filter.poison.final'))
    checks.run('what makes poison is counted across restarts', poison_mended)
    checks.run('poison is held, by setting', lambda: poison('on_poison = hold', '250', ''))
    checks.run('a lost 250: the first id, once', lost)
    if shutil.which('strace'):
        checks.run('a 250 that a kill of ours lost: the first id, once', killed)
    else:
        checks.skip('a 250 that a kill of ours lost', 'strace is not installed')
    checks.run('a 250 that was read: another message', not_lost)
    checks.run('another envelope: another message', other_envelope)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
