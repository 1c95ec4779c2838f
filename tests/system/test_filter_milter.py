#!/usr/bin/env python3
"""Milters that fail: at every step, in every way, and what is answered, journalled and counted; other instances, settings, order,
and how long a connection lives. The milters are in Python (lib_milter.py)."""
import base64
import struct
import threading

from lib import Checks, Client, Server, wait_until
from lib_faults import FaultServer, FromAddress, Mail, expect, expect_accepted, expect_healed, free_port
from lib_milter import (ACCEPT, CONTINUE, PROGRESS, REJECT, SHUTDOWN, STEPS, TEMPFAIL, Milter, MilterServer, add_header,
                        add_recipient, change_header, replace_body, reply)

HALF = bytearray(struct.pack('!I', 5) + b'y4')           # and then the connection ends
ENDLESS = bytearray(struct.pack('!I', 1 << 30) + b'c')
BANNER = bytearray(b'220 mx.example ESMTP\r\n')
COMMANDS = {'C': 'mail', 'H': 'mail', 'M': 'mail', 'R': 'rcpt', 'T': 'dot', 'L': 'dot', 'N': 'dot', 'B': 'dot', 'E': 'dot'}


class Moody(Milter):
    """Answers the command `at` with `answers` (a list of packets; bytearray: raw; None: closes; 'hang': says nothing)."""
    at, answers = None, None
    released = threading.Event()

    def handle(self, command, data):
        usual = super().handle(command, data)
        if command != type(self).at:
            return usual
        if type(self).answers == 'hang':
            self.released.wait(60)
            return False
        return type(self).answers


def moody():
    class Mine(Moody):
        pass
    return Mine


def filter_text(name, *milters, more=''):
    addresses = ', '.join(f'"{milter.address}"' for milter in milters)
    return f'filter {name} {{ speaks = milter  address = {{{addresses}}}  {more} }}\n'


def close_after(kind, server, milters, mail, command, answers, wanted):
    kind.at, kind.answers = command, answers
    try:
        code, cause = wanted
        expect(server, mail, code, cause, COMMANDS[command])
    finally:
        kind.at = None


# ------------------------------------------------------------------ every fault at every step

def check_faults(checks):
    faults = {
        'crash': ([None], ('451 4.3.0', 'filter.crashed')),
        'half an answer': ([HALF, None], ('451 4.3.0', 'filter.garbled')),
        'another protocol': ([BANNER], ('451 4.3.0', 'filter.garbled')),
        'an impossible length': ([ENDLESS], ('451 4.3.0', 'filter.garbled')),
        'no answer of the protocol': ([b'?'], ('451 4.3.0', 'filter.garbled')),
        'no connection': ([b'f'], ('451 4.3.2', 'filter.overloaded')),
        'codes that disagree': ([reply('550 4.7.1 no')], ('451 4.3.5', 'filter.misconfigured')),
        'a reply of 250': ([reply('250 2.0.0 fine')], ('451 4.3.5', 'filter.misconfigured')),
        'reject': ([REJECT], ('550 5.7.1', 'filter.milter.reject')),
        'tempfail': ([TEMPFAIL], ('451 4.7.1', 'filter.milter.tempfail')),
        'reject after progress': ([PROGRESS, PROGRESS, REJECT], ('550 5.7.1', 'filter.milter.reject')),
    }
    kind = moody()
    with MilterServer(kind) as milters, FaultServer(filter_text('moody', milters)) as server:
        for name, (answers, wanted) in faults.items():
            for command in COMMANDS:
                checks.run(f'{name} at {command}', lambda answers=answers, command=command, wanted=wanted:
                           close_after(kind, server, milters, Mail(), command, answers, wanted))
                kind.at = None
                expect_healed(server, Mail())       # and nothing of it stays; a success closes the count of the breaker
        checks.run('shutdown closes the session', lambda: check_shutdown(server, kind))
        checks.ok('the milters understood everything', not milters.faults, milters.faults)


def check_shutdown(server, kind):
    for answers in ([SHUTDOWN], [reply('421 4.7.0 go away')]):
        kind.at, kind.answers = 'R', answers
        with Client(server.address()) as client:
            client.command('EHLO c.example')
            client.command('MAIL FROM:<a@b.example>')
            answer = client.command('RCPT TO:<alice@home.example>')
            assert answer.lines[0].startswith('421 4.7.0 '), answer.lines
            assert client.rest() == b''
    kind.at = None


# Postfix's names for what it gives, by step (milter_connect_macros and so on), and what else it documents.
USUAL = {'C': 'j {daemon_name} {daemon_addr} v _', 'H': '{tls_version} {cipher} {cipher_bits}',
         'M': '{auth_type} {auth_authen} {mail_addr} {mail_host} {mail_mailer}', 'R': '{rcpt_addr} {rcpt_host} {rcpt_mailer}',
         'T': 'i', 'N': 'i', 'E': 'i'}
MORE = '{client_addr} {client_name} {client_port} {client_ptr} {daemon_port} {if_addr} {if_name}'
# No certificate is asked of clients, AUTH= of MAIL is not believed, and connections are not counted for milters.
NEVER = '{auth_author} {cert_subject} {cert_issuer} {client_connections}'


def check_macros(checks):
    """Each macro that Postfix documents, by name and value: those of each step by themselves, and all of them to who asks."""
    class Noting(Milter):
        def __init__(self, owner):
            super().__init__(owner)
            self.given = {}

        def handle(self, command, data):
            if command == 'D':
                words = [word.decode() for word in data[1:].split(b'\0')[:-1]]
                self.given.setdefault(chr(data[0]), {}).update(zip(words[::2], words[1::2]))
            return super().handle(command, data)

    names = ' '.join([*USUAL.values(), MORE, NEVER]).encode()

    class Asking(Noting):
        lists = b''.join(struct.pack('!I', step) + names + b'\0' for step in range(7))

    def given(kind):
        with MilterServer(kind) as milters, Server(extra=f'filter asking {{ speaks = milter  address = "{milters.address}" }}\n'
                                                         'auth { domain = "testserver" }\n') as server:
            with Client(server.address('submissions'), tls=True) as client:
                port = client.socket.getsockname()[1]
                client.command('EHLO c.example')
                login = base64.b64encode(b'\0user\0secretpassword').decode()
                assert client.command(f'AUTH PLAIN {login}').code == 235
                assert client.command('MAIL FROM:<user@testserver>').code == 250
                assert client.command('RCPT TO:<alice@rcpt.test>').code == 250
                assert client.command('DATA').code == 354
                client.send('Subject: x\r\n\r\nx\r\n.\r\n')
                answer = client.reply()
                assert answer.code == 250, answer.lines
                client.command('QUIT')
            host, name = server.address('submissions')[1], 'unknown'
            values = {'j': 'mx.test', '{daemon_name}': 'submission', '{daemon_addr}': '127.0.0.1', 'v': 'Holdfast', '_': '[127.0.0.1]',
                      '{tls_version}': 'TLSv1.3', '{cipher}': 'TLS_AES_256_GCM_SHA384', '{cipher_bits}': '256', '{auth_type}': 'PLAIN',
                      '{auth_authen}': 'user@testserver', '{mail_addr}': 'user@testserver', '{mail_host}': 'testserver',
                      '{mail_mailer}': 'smtp', '{rcpt_addr}': 'alice@rcpt.test', '{rcpt_host}': 'rcpt.test', '{rcpt_mailer}': 'smtp',
                      'i': answer.lines[-1].split()[-1], '{client_addr}': '127.0.0.1', '{client_name}': name, '{client_ptr}': name,
                      '{client_port}': str(port), '{daemon_port}': str(host), '{if_addr}': '127.0.0.1', '{if_name}': 'mx.test'}
            return milters.sessions[0].given, values

    def usual():
        said, values = given(Noting)
        for step, names in USUAL.items():
            for name in names.split():
                assert said.get(step, {}).get(name) == values[name], f'{name} at {step}: {said.get(step)}, not {values[name]}'

    def asked():
        said, values = given(Asking)
        everything = set(' '.join([*USUAL.values(), MORE]).split())
        assert everything == set(values), everything ^ set(values)
        for name in everything:             # at the end all are known
            assert said['E'].get(name) == values[name] or name.startswith('{rcpt_'), f'{name}: {said["E"].get(name)!r}, not {values[name]!r}'
        for name in ('{rcpt_addr}', '{rcpt_host}', '{rcpt_mailer}'):
            assert said['R'].get(name) == values[name] and name not in said['E'], f'{name}: {said["R"]}'
        given_never = [name for step in said.values() for name in NEVER.split() if name in step]
        assert not given_never, given_never
    checks.run('the macros of each step, as Postfix gives them', usual)
    checks.run('all macros to who asks for them', asked)


def check_refused_recipient(checks):
    """A recipient that the milter refuses gets nothing; the others of the same message do."""
    class Picky(Milter):
        def rcpt(self, recipient, words):
            return reply('550 5.7.1 not him') if 'bob' in recipient else CONTINUE

    def one_of_two():
        with Client(server.address()) as client:
            client.command('EHLO c.example')
            client.command('MAIL FROM:<a@[127.0.0.1]>')
            said = [client.command(f'RCPT TO:<{user}@home.example>').code for user in ('alice', 'bob')]
            assert said == [250, 550], said
            assert client.command('DATA').code == 354
            client.send('Subject: x\r\n\r\nx\r\n.\r\n')
            assert client.reply().code == 250
        server.wait_events('message.ended', 1)
        assert [len(server.mails(user, 'home.example')) for user in ('alice', 'bob')] == [1, 0]

    with MilterServer(Picky) as milters, FaultServer(filter_text('picky', milters)) as server:
        checks.run('a refused recipient gets nothing', one_of_two)


def check_hang(checks):
    kind = moody()
    text = 'command_timeout = 300ms  timeout = 300ms'
    with MilterServer(kind) as milters, FaultServer(filter_text('moody', milters, more=text)) as server:
        for command in COMMANDS:
            checks.run(f'hang at {command}', lambda command=command: close_after(
                kind, server, milters, Mail(), command, 'hang', ('451 4.3.0', 'filter.timeout')))
            expect_healed(server, Mail())
        kind.released.set()


# ------------------------------------------------------------------ instances and settings

def check_instances(checks):
    """The first one dies in the middle of a message; the second hears all of it, and the message is taken once."""
    first, second = moody(), moody()
    for command in ('C', 'M', 'R', 'L', 'B', 'E'):
        with MilterServer(first) as one, MilterServer(second) as two, FaultServer(filter_text('pair', one, two)) as server:
            first.at, first.answers = command, [None]

            def taken():
                expect_accepted(server, Mail())
                assert two.sessions[-1].said.replace('D', '').startswith('OCHMRTLLLNBE'), two.said()
            checks.run(f'another instance takes over at {command}', taken)


def check_settings(checks):
    dead = free_port()
    address = f'filter dead {{ speaks = milter  address = "127.0.0.1:{dead}"  on_fault = '
    with FaultServer(address + 'accept }\n') as server:
        def marked():
            expect_accepted(server, Mail())
            mail = server.mails('alice', 'home.example')[-1]
            assert mail.count(b'X-Holdfast-Filter: dead; not scanned; cause=filter.unreachable') == 1, mail
        checks.run('on_fault = accept marks the message, once', marked)
    with FaultServer(address + 'hold }\n') as server:
        def held():
            reply_, _ = Mail().play(server)
            assert reply_.code == 250, reply_.lines
            _, text, _ = server.run('queue', '--json')
            assert '"state": "held"' in text, text
        checks.run('on_fault = hold holds it', held)
    with FaultServer(address + 'refuse }\n') as server:
        checks.run('on_fault = refuse never refuses for an outage',
                   lambda: expect(server, Mail(), '451 4.3.0', 'filter.unreachable', 'mail'))

        def breaker():
            for _ in range(6):
                Mail().play(server)
            server.wait_events('breaker.open', 1)
            with MilterServer(Milter, port=dead):
                server.wait_events('breaker.closed', 1)
                expect_healed(server, Mail())
        checks.run('the breaker opens, and closes when the milter negotiates again', breaker)


# ------------------------------------------------------------------ several milters, changes, connections

class First(Milter):
    def end(self):
        return [add_header('X-First', 'was here'), change_header(1, 'Subject', 'changed'), replace_body(b'new\nbody'), ACCEPT]


class Second(Milter):
    headers_seen, body_seen = [], b''

    def end(self):
        type(self).headers_seen, type(self).body_seen = list(self.headers), self.content
        return [replace_body(b'newest\r\n' * 20000), replace_body(b'end\r\n'), ACCEPT]


class Lost(Milter):
    def end(self):
        return [add_recipient('<nobody@home.example>'), ACCEPT]


def check_order(checks):
    with MilterServer(First) as one, MilterServer(Second) as two, \
            FaultServer(filter_text('one', one) + filter_text('two', two)) as server:
        def both():
            expect_accepted(server, Mail())
            assert ('X-First', 'was here') in Second.headers_seen and ('Subject', 'changed') in Second.headers_seen, Second.headers_seen
            assert Second.body_seen == b'new\r\nbody', Second.body_seen
            mail = server.mails('alice', 'home.example')[-1]
            header = mail.replace(b'\r\n', b'\n').split(b'\n\n')[0] + b'\n'
            assert b'X-First: was here\n' in header and b'Subject: changed\n' in header and header.count(b'Subject:') == 1, header
            assert mail.replace(b'\r\n', b'\n').split(b'\n\n', 1)[1] == b'newest\n' * 20000 + b'end\n', len(mail)
        checks.run('the second milter sees what the first changed', both)
    with MilterServer(Lost) as lost, FaultServer(filter_text('lost', lost)) as server:
        checks.run('a recipient that a milter adds and that does not exist',
                   lambda: expect(server, Mail(), '451 4.3.5', 'filter.misconfigured', 'dot'))


class Listener(Milter):
    heard, answer = [], CONTINUE

    def mail(self, sender, words):
        self.heard.append(('mail', sender, words))
        return CONTINUE

    def rcpt(self, recipient, words):
        self.heard.append(('rcpt', recipient, words))
        return CONTINUE

    def unknown(self, line):
        self.heard.append(('unknown', line))
        return type(self).answer


def check_words(checks):
    """ESMTP parameters and unknown commands, as the client gave them."""
    with MilterServer(Listener) as milters, FaultServer(filter_text('listens', milters)) as server:
        def parameters():
            with FromAddress(server.address(), '127.0.0.1') as client:
                client.command('EHLO client.example')
                assert client.command('MAIL FROM:<a@b.example> SIZE=77 BODY=8BITMIME RET=HDRS ENVID=a+2Bb SMTPUTF8').code == 250
                assert client.command('RCPT TO:<alice@home.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;A+2B@x.example').code == 250
            assert Listener.heard == [
                ('mail', 'a@b.example', ['SIZE=77', 'BODY=8BITMIME', 'RET=HDRS', 'ENVID=a+2Bb', 'SMTPUTF8']),
                ('rcpt', 'alice@home.example', ['NOTIFY=FAILURE,DELAY', 'ORCPT=rfc822;A+2B@x.example'])], Listener.heard

        def unknown():
            Listener.heard.clear()
            with FromAddress(server.address(), '127.0.0.1') as client:
                assert client.command('FROB one two').code == 500              # before HELO, too
                client.command('EHLO client.example')
                assert client.command('MAIL FROM:<a@b.example>').code == 250
                assert client.command('RCPT TO:<alice@home.example>').code == 250
                assert client.command('Frob  three').code == 500
                assert client.command('DATA').code == 354                      # the transaction stands
                client.send('Subject: x\r\n\r\nbody\r\n.\r\n')
                assert client.reply().code == 250
            assert [one for one in Listener.heard if one[0] == 'unknown'] == [('unknown', 'FROB one two'), ('unknown', 'Frob  three')]
            assert milters.sessions[-1].said.replace('D', '').startswith('OCUHMRUTLLLNBE') or \
                milters.sessions[-1].said.replace('D', '').startswith('OCUHMRUTLNBE'), milters.said()

        def closes():
            Listener.answer = SHUTDOWN
            with FromAddress(server.address(), '127.0.0.1') as client:
                client.command('EHLO client.example')
                answer = client.command('FROB')
                assert answer.lines[0].startswith('421 4.7.0 '), answer.lines
                assert client.rest() == b''
            Listener.answer = CONTINUE
        checks.run('ESMTP parameters reach the milter', parameters)
        checks.run('unknown commands reach the milter', unknown)
        checks.run('a milter may end the session at an unknown command', closes)
        checks.ok('the milter understood everything', not milters.faults, milters.faults)


class Sparse(Milter):
    steps = sum(STEPS[name] for name in ('NO_HELO', 'NO_BODY', 'MUTE_HEADERS', 'MUTE_MAIL', 'MUTE_EOH', 'NO_DATA'))


def several_messages(server, count):
    with FromAddress(server.address(), '127.0.0.1') as client:
        client.command('EHLO client.example')
        for _ in range(count):
            assert client.command('MAIL FROM:<a@b.example>').code == 250
            assert client.command('RCPT TO:<alice@home.example>').code == 250
            client.command('RSET')
            client.command('MAIL FROM:<a@b.example>')
            client.command('RCPT TO:<alice@home.example>')
            client.command('DATA')
            client.send('Subject: x\r\n\r\nbody\r\n.\r\n')
            assert client.reply().code == 250
        client.command('QUIT')


def check_connections(checks):
    for reuse, wanted in (('no', 2), ('yes', 1)):
        with MilterServer(Milter) as milters, FaultServer(filter_text('kept', milters, more=f'reuse = {reuse}') + 'loops = 1\n') as server:
            def sessions():
                several_messages(server, 2)
                wait_until('the end of the session', lambda: milters.said()[-1] in 'QK')
                several_messages(server, 1)
                said = [session.said.replace('D', '') for session in milters.sessions]
                assert len(said) == wanted, said
                one = 'MRAMRTLNBE'
                assert said[0].startswith('OCH' + one + one), said
                assert reuse == 'no' or said[0].startswith('OCH' + one + one + 'KCH' + one), said
            checks.run(f'one connection serves a session (reuse = {reuse})', sessions)
    with MilterServer(Sparse) as milters, FaultServer(filter_text('sparse', milters)) as server:
        def sparse():
            several_messages(server, 3)
            assert milters.sessions[0].said.replace('D', '').startswith('OC' + 'MRAMRLNE' * 3), milters.said()
        checks.run('steps that a milter leaves out or does not answer', sparse)


def check_stale(checks):
    """The milter went away between two messages of one session: the next message finds a new connection."""
    with MilterServer(Milter) as milters, FaultServer(filter_text('stale', milters)) as server:
        def stale():
            with FromAddress(server.address(), '127.0.0.1') as client:
                client.command('EHLO client.example')
                for _ in range(3):
                    client.command('MAIL FROM:<a@b.example>')
                    client.command('RCPT TO:<alice@home.example>')
                    client.command('DATA')
                    client.send('Subject: x\r\n\r\nbody\r\n.\r\n')
                    answer = client.reply()
                    assert answer.code == 250, answer.lines
                    for connection in milters.connections:
                        connection.close()
                        milters.connections.remove(connection)
            assert len(milters.sessions) >= 1
        checks.run('a connection that went away between messages', stale)


def main():
    checks = Checks()
    for check in (check_faults, check_macros, check_refused_recipient, check_hang, check_instances, check_settings, check_order, check_words, check_connections,
                  check_stale):
        check(checks)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
