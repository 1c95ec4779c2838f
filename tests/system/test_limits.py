#!/usr/bin/env python3
"""Limits and abuse: rates by client and by user, greylisting, block lists, PROXY, XCLIENT, PRDR, LIMITS, LMTP's replies."""
import base64
import os
import socket
import struct

from lib import Checks, Client, Closed, Server, wait_until
from lib_dns import SERVFAIL, SILENT, ScriptedDns

LISTEN = 'listen proxied { address = "127.0.0.1:0"  proxy = yes }\n'
V2_SIGNATURE = b'\r\n\r\n\0\r\nQUIT\n'


def expect(reply, code, text=''):
    assert reply.code == code and text in reply.lines[-1], f'expected {code} {text!r}, read {reply.lines}'
    return reply


def connect(address, source='127.0.0.1'):
    """A client from another address of the loopback network."""
    client = Client.__new__(Client)
    client.socket = socket.create_connection(address, timeout=30, source_address=(source, 0))
    client.pending, client.one_by_one = b'', False
    client.banner = client.reply()
    return client


def begin(server, source='127.0.0.1', name='smtp'):
    client = connect(server.address(name), source)
    expect(client.command('EHLO c.test'), 250)
    return client


def text_of_limits(checks):
    with Server(limits='recipients = 7') as server:
        def offers():
            with begin(server) as client:
                lines = client.command('EHLO c.test').lines
                assert '250-LIMITS RCPTMAX=7' in lines and '250-PRDR' in lines, lines
                assert not any('XCLIENT' in line for line in lines), lines

        def prdr():
            with begin(server) as client:
                expect(client.command('MAIL FROM:<x@y.example> PRDR'), 250)
                for user in ('alice', 'nosuch', 'bob'):
                    expect(client.command(f'RCPT TO:<{user}@rcpt.test>'), 550 if user == 'nosuch' else 250)
                expect(client.command('DATA'), 354)
                client.send(b'Subject: x\r\n\r\nx\r\n.\r\nNOOP\r\n')
                codes = [client.reply().code for _ in range(5)]
                assert codes == [353, 250, 250, 250, 250], codes
                expect(client.command('MAIL FROM:<x@y.example> PRDR'), 250)       # refused after the dot: to each
                for user in ('alice', 'bob'):
                    expect(client.command(f'RCPT TO:<{user}@rcpt.test>'), 250)
                expect(client.command('DATA'), 354)
                client.send(b'Subject: x\r\n\r\na\nb\r\n.\r\nNOOP\r\n')
                codes = [client.reply().code for _ in range(5)]
                assert codes == [353, 550, 550, 550, 250], codes
                expect(client.command('MAIL FROM:<x@y.example> PRDR'), 250)       # one recipient: as ever
                expect(client.command('RCPT TO:<alice@rcpt.test>'), 250)
                expect(client.command('DATA'), 354)
                client.send(b'Subject: x\r\n\r\nx\r\n.\r\nNOOP\r\n')
                assert [client.reply().code for _ in range(2)] == [250, 250]
                expect(client.command('MAIL FROM:<x@y.example> PRDR=1'), 501)

        def lmtp():
            with Client(server.address('lmtp')) as client:
                expect(client.command('LHLO c.test'), 250)
                expect(client.command('MAIL FROM:<x@y.example>'), 250)
                for user in ('alice', 'nosuch', 'bob'):
                    expect(client.command(f'RCPT TO:<{user}@rcpt.test>'), 550 if user == 'nosuch' else 250)
                expect(client.command('DATA'), 354)
                client.send(b'Subject: x\r\n\r\na\nb\r\n.\r\nNOOP\r\n')
                assert [client.reply().code for _ in range(3)] == [550, 550, 250]

        checks.run('limits and prdr are offered', offers)
        checks.run('prdr', prdr)
        checks.run('lmtp replies to each', lmtp)


# ---------------------------------------------------------------- rates

def rates(checks):
    accounts = 'auth { delay = 0s }'
    limits = 'client_messages = 3  client_recipients = 5  user_messages = 2'
    with Server(limits=limits, extra=accounts) as server:
        def messages():
            with begin(server) as client:
                for _ in range(3):
                    expect(client.command('MAIL FROM:<x@y.example>'), 250)
                    expect(client.command('RSET'), 250)
                expect(client.command('MAIL FROM:<x@y.example>'), 450, 'rate.limited')
                answer = expect(client.command('MAIL FROM:<x@y.example>'), 421, 'rate.exceeded')   # it went on
                assert answer.lines[-1].startswith('421 4.7.0 '), answer.lines
                assert client.rest() == b'', 'the session goes on'
            with begin(server) as client:       # not a matter of the connection
                expect(client.command('MAIL FROM:<x@y.example>'), 450, 'rate.limited')
            with begin(server, '127.0.0.9') as client:      # nor of others
                expect(client.command('MAIL FROM:<x@y.example>'), 250)

        def recipients():
            with begin(server, '127.0.0.2') as client:
                expect(client.command('MAIL FROM:<x@y.example>'), 250)
                for number in range(5):
                    expect(client.command(f'RCPT TO:<r{number}@rcpt.test>'), 250)
                for number in range(9):         # a transaction with accepted recipients is never cut
                    expect(client.command(f'RCPT TO:<r1{number}@rcpt.test>'), 450, 'rate.limited')
                expect(client.command('DATA'), 354)
                client.send(b'Subject: x\r\n\r\nx\r\n.\r\n')
                expect(client.reply(), 250)
                expect(client.command('MAIL FROM:<x@y.example>'), 250)
                expect(client.command('RCPT TO:<r1@rcpt.test>'), 421, 'rate.exceeded')

        def of_a_user():
            for attempt in range(3):
                with Client(server.address('submissions'), tls=True) as client:
                    expect(client.command('EHLO c.test'), 250)
                    secret = base64.b64encode(b'\0user@rcpt.test\0secretpassword').decode()
                    expect(client.command('AUTH PLAIN ' + secret), 235)
                    expect(client.command('MAIL FROM:<user@rcpt.test>'), 250 if attempt < 2 else 450)

        def failed_logins():
            with Server(limits='client_failures = 2', extra=accounts) as other:
                secret = base64.b64encode(b'\0user@rcpt.test\0wrong').decode()
                right = base64.b64encode(b'\0user@rcpt.test\0secretpassword').decode()
                for attempt in range(3):
                    with Client(other.address('submissions'), tls=True) as client:
                        expect(client.command('EHLO c.test'), 250)
                        expect(client.command('AUTH PLAIN ' + secret), 535 if attempt < 2 else 450)
                        if attempt == 2:
                            expect(client.command('AUTH PLAIN ' + right), 421, 'rate.exceeded')
                        if attempt == 0:        # a good one takes nothing
                            expect(client.command('AUTH PLAIN ' + right), 235)

        checks.run('messages of a client', messages)
        checks.run('recipients of a client', recipients)
        if server.certificate:
            checks.run('messages of a user', of_a_user)
            checks.run('failed logins of a client', failed_logins)
        else:
            checks.skip('messages of a user', 'no openssl command to make a certificate')
    with Server(limits=limits, extra='relay { from = {"127.0.0.0/8"} }') as server:
        def exempt():
            with begin(server) as client:
                for _ in range(9):
                    expect(client.command('MAIL FROM:<x@y.example>'), 250)
                    expect(client.command('RSET'), 250)
        checks.run('own networks are exempt', exempt)


# ---------------------------------------------------------------- greylisting

def greylist(checks):
    extra = 'greylist { enabled = yes  delay = 0s }\n'

    def rcpt(server, user='alice', source='127.0.0.1', sender='x@y.example'):
        with begin(server, source) as client:
            expect(client.command(f'MAIL FROM:<{sender}>'), 250)
            return client.command(f'RCPT TO:<{user}@rcpt.test>')

    def first_and_second():
        with Server(extra=extra) as server:
            expect(rcpt(server), 451, 'greylisted')
            expect(rcpt(server, source='127.0.0.77'), 250)      # the same network
            expect(rcpt(server), 250)
            expect(rcpt(server, 'bob'), 451)
            expect(rcpt(server, sender='z@y.example'), 451)
            expect(rcpt(server, source='127.0.1.1'), 451)
            expect(rcpt(server, 'nosuch'), 550)
            folder, server.own_folder = server.folder, False
        with Server(folder=folder, extra=extra) as server:      # it outlives a restart
            expect(rcpt(server), 250)
            expect(rcpt(server, 'carol'), 451)
            server.own_folder = True

    def too_early():
        with Server(extra='greylist { enabled = yes  delay = 1h }\n') as server:
            expect(rcpt(server), 451, 'greylisted')
            expect(rcpt(server), 451, 'greylisted')
            with begin(server) as client:       # one deferred recipient spoils nothing for the rest of the dialogue
                expect(client.command('MAIL FROM:<x@y.example>'), 250)
                expect(client.command('RCPT TO:<alice@rcpt.test>'), 451)
                expect(client.command('DATA'), 554)

    def others_go_on():
        """The deferred recipient gets nothing of the message that the others get."""
        with Server(extra=extra) as server:
            expect(rcpt(server), 451, 'greylisted')
            with begin(server) as client:
                expect(client.command('MAIL FROM:<x@y.example>'), 250)
                expect(client.command('RCPT TO:<alice@rcpt.test>'), 250)
                expect(client.command('RCPT TO:<bob@rcpt.test>'), 451)
                expect(client.command('DATA'), 354)
                client.send('Subject: x\r\n\r\nx\r\n.\r\n')
                expect(client.reply(), 250)
            server.wait_events('message.ended', 1)
            got = [len(server.mails(user)) for user in ('alice', 'bob')]
            assert got == [1, 0], got

    checks.run('greylisted once', first_and_second)
    checks.run('a deferred recipient gets nothing', others_go_on)
    checks.run('a repeat that comes too early', too_early)


# ---------------------------------------------------------------- block lists

def block_lists(checks):
    names = ScriptedDns({('2.0.0.127.bl.example', 'A'): '127.0.0.4', ('3.0.0.127.bl.example', 'A'): '127.255.255.254',
                         ('4.0.0.127.bl.example', None): SERVFAIL, ('5.0.0.127.bl.example', None): SILENT,
                         ('6.0.0.127.soft.example', 'A'): '127.0.0.2', ('7.0.0.127.bl.example', 'A'): '192.0.2.1'})
    extra = (f'resolver {{ forward = {{"127.0.0.1@{names.port}"}}  timeout = 500ms }}\n'
             'dnsbl "bl.example" { }\ndnsbl "soft.example" { mode = record }\n')
    with Server(extra=extra) as server:
        def answer(source):
            with begin(server, source) as client:
                return client.command('MAIL FROM:<x@y.example>')

        checks.run('a listed client', lambda: expect(answer('127.0.0.2'), 550, 'dnsbl.listed'))
        checks.run('which list and code is in the journal',
                   lambda: server.wait_events('message.refused', 1, cause='dnsbl.listed', text='bl.example: 127.0.0.4'))
        for source, what in (('127.0.0.1', 'a client that is not listed'), ('127.0.0.3', 'a list that will not be asked'),
                             ('127.0.0.4', 'a list that fails'), ('127.0.0.5', 'a list that is silent'),
                             ('127.0.0.6', 'a list that is only recorded'), ('127.0.0.7', 'an answer that is none of a list')):
            checks.run(what, lambda: expect(answer(source), 250))
        checks.run('recorded', lambda: wait_until('the note', lambda: any('soft.example' in line and 'dnsbl.listed' in line
                                                                          for line in server.lines)))
    names.close()


def silent_lists(checks):
    """Six lists that say nothing have one patience together, not six time-outs."""
    names = ScriptedDns({}, dead=True)
    lists = ''.join(f'dnsbl "bl{number}.example" {{ }}\n' for number in range(6))
    with Server(extra=f'resolver {{ forward = {{"127.0.0.1@{names.port}"}}  timeout = 20s  patience = 1s }}\n' + lists) as server:
        def soon():
            with begin(server, '127.0.0.8') as client:
                expect(client.command('MAIL FROM:<x@y.example>'), 250)
            def notes():
                return [line for line in server.lines if 'could not be asked' in line]
            server._wait('a note for each list', lambda: len(notes()) >= 6)
            assert len(notes()) == 6, notes()
        checks.run('six silent lists', soon)
    names.close()


# ---------------------------------------------------------------- PROXY and XCLIENT

def v2(command=1, family=0x11, body=None, length=None, version=2):
    body = socket.inet_aton('192.0.2.7') + socket.inet_aton('192.0.2.1') + struct.pack('>HH', 4711, 25) if body is None else body
    return V2_SIGNATURE + bytes([version << 4 | command, family]) + struct.pack('>H', len(body) if length is None else length) + body


def proxy(checks):
    extra = (LISTEN +
             'listen tlsproxied { address = "127.0.0.1:0"  proxy = yes  tls = implicit }\n'
             'trusted { proxy = {"127.0.0.1", "127.0.0.8/29"} }\n')

    def session(server, header, source='127.0.0.1', rest=b'EHLO c.test\r\n'):
        client = Client.__new__(Client)
        client.socket = socket.create_connection(server.address('proxied'), timeout=30, source_address=(source, 0))
        client.pending, client.one_by_one = b'', False
        client.send(header + rest)
        return client

    def client_is(server, header, address):
        with session(server, header) as client:
            expect(client.reply(), 220)
            expect(client.reply(), 250)
            expect(client.command('MAIL FROM:<x@y.example>'), 250)
            expect(client.command('RCPT TO:<u@elsewhere.example>'), 550, 'relay.denied')
        wait_until('the event of ' + address, lambda: any(event['client'].startswith(address)
                                                          for event in server.events('message.refused')), 5)

    def closed(server, data, source='127.0.0.1', half=False):
        with session(server, data, source, b'') as client:
            if half:
                client.end()
            rest = client.rest()
            assert rest == b'', f'it said {rest!r}'

    with Server(extra=extra) as server:
        if not server.certificate:
            checks.skip('proxy', 'no openssl command to make a certificate')
            return
        checks.run('version 1', lambda: client_is(server, b'PROXY TCP4 192.0.2.9 192.0.2.1 4711 25\r\n', '192.0.2.9:4711'))
        checks.run('version 1, IPv6', lambda: client_is(server, b'PROXY TCP6 2001:db8::9 2001:db8::1 4711 25\r\n', '[2001:db8::9]:4711'))
        checks.run('version 1, unknown', lambda: client_is(server, b'PROXY UNKNOWN\r\n', '127.0.0.1'))
        checks.run('version 2', lambda: client_is(server, v2(), '192.0.2.7:4711'))
        checks.run('version 2 with more behind', lambda: client_is(server, v2(body=v2()[16:] + bytes(3000)), '192.0.2.7:4711'))
        checks.run('version 2, local', lambda: client_is(server, v2(command=0, family=0, body=b''), '127.0.0.1'))
        six = socket.inet_pton(socket.AF_INET6, '2001:db8::7') + bytes(16) + struct.pack('>HH', 1, 2)
        checks.run('version 2, IPv6', lambda: client_is(server, v2(family=0x21, body=six), '[2001:db8::7]:1'))

        def no_good():
            for data in (b'EHLO c.test\r\n', b'PROXY TCP4 1.2.3.4\r\n', b'PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n', b'PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n',
                         b'PROXY TCP4 ' + b'1' * 200 + b'\r\n', b'PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n' + b'x' * 100, v2(version=1), v2(command=2), v2(body=b'1234')):
                closed(server, data)
            for header in (v2(), b'PROXY TCP4 192.0.2.9 192.0.2.1 4711 25\r\n', v2(length=65535)):
                closed(server, header[:-1], half=True)

        checks.run('no good header: closed without a word', no_good)
        checks.run('from a stranger: closed without a word', lambda: closed(server, v2(), source='127.0.0.2'))

        def over_tls():
            raw = socket.create_connection(server.address('tlsproxied'), timeout=30)
            client = Client.__new__(Client)
            client.socket, client.pending, client.one_by_one = raw, b'', False
            client.send(v2())
            client.start_tls()
            expect(client.reply(), 220)
            expect(client.command('EHLO c.test'), 250)
            client.close()

        checks.run('before a TLS handshake', over_tls)
        checks.ok('the server is still there', server.alive())


def xclient(checks):
    extra = 'trusted { xclient = {"127.0.0.1"} }\nrelay { from = {"127.0.0.0/8"} }\n'
    with Server(extra=extra) as server:
        def another_client():
            with begin(server) as client:
                assert any(line.startswith('250-XCLIENT') for line in client.command('EHLO c.test').lines)
                expect(client.command('XCLIENT ADDR=192.0.2.44 PORT=99 NAME=some.example HELO=x PROTO=ESMTP'), 220)
                expect(client.command('MAIL FROM:<x@y.example>'), 503)      # EHLO comes first again
                expect(client.command('EHLO c.test'), 250)
                expect(client.command('MAIL FROM:<x@y.example>'), 250)
                expect(client.command('RCPT TO:<u@elsewhere.example>'), 550, 'relay.denied')
                expect(client.command('XCLIENT ADDR=192.0.2.45'), 503)      # not within a transaction
            found = server.wait_events('message.refused', 1, cause='relay.denied')
            assert found[-1]['client'] == '192.0.2.44:99', found[-1]

        def as_a_user():
            with begin(server) as client:
                expect(client.command('XCLIENT ADDR=IPV6:2001:db8::1 LOGIN=user@rcpt.test'), 220)
                expect(client.command('EHLO c.test'), 250)
                expect(client.command('MAIL FROM:<bob@rcpt.test>'), 553, 'sender.not_owned')
                expect(client.command('MAIL FROM:<user@rcpt.test>'), 250)

        def strangers():
            with begin(server, '127.0.0.2') as client:
                assert not any('XCLIENT' in line for line in client.command('EHLO c.test').lines)
                expect(client.command('XCLIENT ADDR=192.0.2.44'), 500)

        def malformed():
            with begin(server) as client:
                for line in ('XCLIENT ADDR=1.2.3', 'XCLIENT FOO=1', 'XCLIENT PORT=99999', 'XCLIENT ADDR', 'XCLIENT ADDR=+0'):
                    expect(client.command(line), 501)
                expect(client.command('XCLIENT ADDR=[UNAVAILABLE] NAME=[TEMPUNAVAIL]'), 220)

        checks.run('xclient names another client', another_client)
        checks.run('xclient names a user', as_a_user)
        checks.run('xclient from a stranger', strangers)
        checks.run('xclient malformed', malformed)


def main():
    checks = Checks()
    for part in (text_of_limits, rates, greylist, block_lists, silent_lists, proxy, xclient):
        try:
            part(checks)
        except (AssertionError, OSError, Closed) as fault:
            checks.ok(part.__name__, False, fault)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
