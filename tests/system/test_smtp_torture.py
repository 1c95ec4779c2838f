#!/usr/bin/env python3
"""Every case of the torture list (../shared/vectors/smtp-torture) over a real socket, each judged by a check of its own.

REPLIES holds the cases that are bytes in, replies out; the functions marked @case the others. A case of the list that has
neither fails. Where the list leaves a choice, what stands here is Holdfast's, and it is constant:
  a path without brackets, and blanks behind the colon, are taken; commands end at CR LF only, so a bare LF, a bare CR or NUL
  spoils the whole line (500); a body or chunk with one is refused whole at its true end (550); lines of any length are kept.
"""
import base64
import json
import re
import threading
import time

import lib_torture_client
from lib import Checks, Client, Closed, Server, shared, wait_until

LIMITS = 'message_size = 1M  recipients = 100  errors = 10  hops = 100'
NEEDS_TLS = {'auth-bad-b64', 'auth-cancel', 'auth-twice', 'auth-long', 'auth-nul-split', 'auth-brute'}

A = b'A'
# id: (state, bytes, [a pattern for each reply's last line], ending). Ending: 'sync' - NOOP is answered 250 next, and
# nothing else; 'close' - the connection ends.
REPLIES = {
    'ehlo-noarg': ('conn', b'EHLO\r\n', ['501 '], 'sync'),
    'ehlo-bad-chars': ('conn', b'EHLO a\0b\r\n', ['50[01] '], 'sync'),
    'helo-literal': ('conn', b'HELO [127.0.0.1]\r\nEHLO [IPv6:::1]\r\n', ['250 ', '250 '], 'sync'),
    'cmd-lower': ('conn', b'ehlo x\r\nmail from:<a@b.test>\r\n', ['250 ', '250 '], 'sync'),
    'cmd-trailing-space': ('ehlo', b'NOOP \r\nRSET  \r\nDATA \r\n', ['250 ', '250 ', '503 '], 'sync'),
    'cmd-leading-space': ('ehlo', b' NOOP\r\n', ['50[01] '], 'sync'),
    'not-implemented': ('ehlo', b'EXPN x\r\nVRFY x\r\nHELP\r\nTURN\r\nSEND FROM:<a@b>\r\n',
                        ['502 ', '252 ', '214 ', '50[02] ', '50[02] '], 'sync'),
    'http-verb': ('conn', b'GET / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b.test>\r\n', ['554 '], 'close'),
    'header-as-command': ('ehlo', b'Subject: x\r\nFrom: y\r\n', ['554 '], 'close'),
    'tls-hello-on-plain': ('conn', b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc', ['554 '], 'close'),
    'line-512': ('ehlo', b'NOOP ' + 505 * A + b'\r\n', ['250 '], 'sync'),
    'line-513': ('ehlo', b'NOOP ' + 506 * A + b'\r\n', ['250 '], 'sync'),
    'line-64k': ('ehlo', b'NOOP ' + 65536 * A + b'\r\nNOOP\r\n', ['500 5.5.2', '250 '], 'sync'),
    'bare-lf-cmd': ('ehlo', b'NOOP\nNOOP\r\nMAIL FROM:<a@b.test>\nRCPT TO:<u@rcpt.test>\n\r\nRCPT TO:<u@rcpt.test>\r\n',
                    ['500 ', '500 ', '503 '], 'sync'),
    'bare-cr-cmd': ('ehlo', b'NOOP\rNOOP\r\n', ['500 '], 'sync'),
    'nul-cmd': ('ehlo', b'NO\0OP\r\nNOOP\r\n', ['500 ', '250 '], 'sync'),
    'telnet-iac': ('conn', b'\xff\xf4\xff\xfdEHLO x\r\nEHLO x\r\n', ['500 ', '250 '], 'sync'),
    '8bit-cmd': ('ehlo', b'MAIL FROM:<\xc3\xa9@b.test>\r\n', ['553 5.6.7 '], 'sync'),
    'mail-space-after-colon': ('ehlo', b'MAIL FROM: <a@b.test>\r\n', ['250 '], 'sync'),
    'mail-nobrackets': ('ehlo', b'MAIL FROM:a@b.test\r\n', ['250 '], 'sync'),
    'rcpt-postmaster': ('mail', b'RCPT TO:<Postmaster>\r\n', ['250 '], 'sync'),
    'rcpt-quoted-crlf': ('mail', b'RCPT TO:<"a\r\nRSET\r\n"@b.test>\r\n', ['501 ', '250 ', '50[01] '], 'sync'),
    'rcpt-percent-hack': ('mail', b'RCPT TO:<u%other.test@rcpt.test>\r\nRCPT TO:<other.test!u@rcpt.test>\r\n'
                          b'RCPT TO:<"u@other.test"@rcpt.test>\r\n', ['550 5.1.1 ', '550 5.1.1 ', '550 5.1.1 '], 'sync'),
    'rcpt-domain-literal': ('mail', b'RCPT TO:<u@[192.0.2.1]>\r\n', ['550 5.7.1 '], 'sync'),
    'param-unknown': ('ehlo', b'MAIL FROM:<a@b.test> FOO=bar\r\n', ['555 5.5.4 '], 'sync'),
    'param-dup': ('ehlo', b'MAIL FROM:<a@b.test> SIZE=1 SIZE=2\r\n', ['(501|555) '], 'sync'),
    'size-huge': ('ehlo', b'MAIL FROM:<a@b.test> SIZE=99999999999999999999\r\n', ['(501|552 5.3.4) '], 'sync'),
    'size-neg': ('ehlo', b'MAIL FROM:<a@b.test> SIZE=-1\r\n', ['501 '], 'sync'),
    'body-bad': ('ehlo', b'MAIL FROM:<a@b.test> BODY=FOO\r\n', ['(501|555) '], 'sync'),
    'helo-then-esmtp': ('helo', b'MAIL FROM:<a@b.test> SIZE=10\r\nMAIL FROM:<a@b.test> RET=HDRS\r\n'
                        b'MAIL FROM:<a@b.test> SMTPUTF8\r\n', ['555 ', '555 ', '555 '], 'sync'),
    'ret-dup-bad': ('ehlo', b'MAIL FROM:<a@b.test> RET=FOO ENVID=a+GG\r\nMAIL FROM:<a@b.test> ENVID=a+GG\r\n',
                    ['501 5.5.4 ', '501 5.5.4 '], 'sync'),
    'notify-mix': ('mail', b'RCPT TO:<u@rcpt.test> NOTIFY=NEVER,FAILURE\r\n', ['501 5.5.4 '], 'sync'),
    'orcpt-inject': ('mail', b'RCPT TO:<u@rcpt.test> ORCPT=rfc822;a+0D+0AX-Evil:+201@b.test\r\n', ['501 '], 'sync'),
    'order-rcpt-first': ('ehlo', b'RCPT TO:<u@rcpt.test>\r\n', ['503 5.5.1 '], 'sync'),
    'order-data-first': ('ehlo', b'DATA\r\n', ['503 5.5.1 '], 'sync'),
    'order-data-norcpt': ('mail', b'DATA\r\n', ['554 5.5.1 '], 'sync'),
    'order-data-all-rcpt-rejected': ('mail', b'RCPT TO:<x1@rcpt.test>\r\nRCPT TO:<x2@other.test>\r\nDATA\r\n',
                                     ['550 ', '550 ', '554 5.5.1 '], 'sync'),
    'nested-mail': ('mail', b'MAIL FROM:<c@d.test>\r\n', ['503 5.5.1 '], 'sync'),
    'ehlo-mid-transaction': ('rcpt', b'EHLO x\r\nDATA\r\n', ['250 ', '503 '], 'sync'),
    'rset-mid': ('rcpt', b'RSET\r\nDATA\r\n', ['250 ', '503 '], 'sync'),
    'bdat-no-mail': ('ehlo', b'BDAT 7 LAST\r\nabcdefgNOOP\r\n', ['503 ', '250 '], 'sync'),
    'bdat-all-rcpt-bad': ('mail', b'RCPT TO:<x1@rcpt.test>\r\nBDAT 7 LAST\r\nabcdefg', ['550 ', '554 '], 'sync'),
    'bdat-then-data': ('rcpt', b'BDAT 3\r\nabcDATA\r\n', ['250 ', '503 5.5.1 '], 'sync'),
    'bdat-after-last': ('rcpt', b'BDAT 1 LAST\r\naBDAT 1 LAST\r\nb', ['250 ', '503 '], 'sync'),
    'bdat-oversize': ('rcpt', b'BDAT 999999999 LAST\r\n', ['552 5.3.4 '], 'close'),
    'bdat-barelf-relay': ('rcpt', b'BDAT 17 LAST\r\nS: x\r\n\r\na\n.\nb\rc\r\n', ['550 5.5.2 '], 'sync'),
    'bdat-binarymime': ('ehlo', b'MAIL FROM:<a@b.test> BODY=BINARYMIME\r\n', ['555 '], 'sync'),
    'starttls-arg': ('ehlo', b'STARTTLS foo\r\n', ['501 '], 'sync'),
    'auth-plain-clear': ('ehlo', b'AUTH PLAIN AGEAYg==\r\n', ['503 '], 'sync'),
    'auth-in-mail': ('mail', b'AUTH PLAIN AGEAYg==\r\n', ['503 '], 'sync'),
    'pipeline-after-quit': ('ehlo', b'QUIT\r\nMAIL FROM:<a@b.test>\r\n', ['221 '], 'close'),
    'lmtp-helo': ('lmtp', b'HELO x\r\nEHLO x\r\n', ['500 ', '500 '], 'sync'),
    'smtp-lhlo': ('conn', b'LHLO x\r\n', ['500 '], 'sync'),
    'xclient-untrusted': ('ehlo', b'XCLIENT ADDR=192.0.2.1\r\nXFORWARD NAME=x\r\n', ['5[05]0 ', '5[05]0 '], 'sync'),
    'proxy-v1-untrusted': ('conn', b'PROXY TCP4 1.2.3.4 5.6.7.8 1 25\r\n', ['500 '], 'sync'),
    'utf8-invalid': ('ehlo', b'MAIL FROM:<\xff\xfe@b.test> SMTPUTF8\r\n', ['(501|553) '], 'sync'),
}
CASES = {}


def case(name):
    def keep(function):
        CASES[name] = function
        return function
    return keep


def expect(reply, pattern):
    last = reply.lines[-1]
    assert re.match(pattern, last), f'expected {pattern!r}, read {last!r}'
    assert not any('\0' in line for line in reply.lines), 'NUL in a reply'
    return reply


class House:
    """The server under test, and clients brought to a state of the dialogue."""

    def __init__(self, server):
        self.server = server

    def client(self, state='ehlo', listener='smtp'):
        if state == 'lmtp':
            return Client(self.server.address('lmtp'))
        client = Client(self.server.address(listener))
        expect(client.banner, '220 ')
        steps = {'conn': [], 'helo': ['HELO c.test']}.get(state, ['EHLO c.test'])
        if state in ('mail', 'rcpt', 'data'):
            steps = steps + ['MAIL FROM:<a@b.test>']
        if state in ('rcpt', 'data'):
            steps = steps + ['RCPT TO:<alice@rcpt.test>']
        for step in steps:
            expect(client.command(step), '250 ')
        if state == 'data':
            expect(client.command('DATA'), '354 ')
        return client

    def accepted(self):
        """How many messages were accepted so far, made certain by one more (which is not counted)."""
        with self.client('data') as client:
            client.send(b'Subject: fence\r\n\r\n.\r\n')
            message = expect(client.reply(), '250 2.0.0 Accepted as ').lines[-1].split()[-1]
        self.server.wait_events('message.accepted', 1, message=message)
        events = self.server.events('message.accepted')
        position = [event['message'] for event in events].index(message)
        self.fences = getattr(self, 'fences', 0) + 1
        return position + 1 - self.fences

    def counted(self, test, *allowed):
        before = self.accepted()
        test()
        took = self.accepted() - before
        assert took in allowed, f'{took} messages were accepted, right is {allowed}'

    def body_of(self, marker, user='alice'):
        """The delivered message that holds the marker, LF lines, from our marker's line on."""
        def find():
            for mail in self.server.mails(user):
                text = mail.replace(b'\r\n', b'\n')
                if marker in text:
                    return text
            return None
        return wait_until(f'the delivery of {marker!r}', find)


def in_step(client):
    expect(client.command('NOOP'), '250 2.0.0 ')


def send_until_refused(client, piece, most):
    """Writes pieces until the server stops taking them; how many bytes went."""
    sent = 0
    try:
        while sent < most:
            sent += client.socket.send(piece)
    except OSError:
        pass
    return sent


# ---------------------------------------------------------------------- timing, syntax, limits

@case('pre-banner-talk')
def _(house):
    with Client(house.server.address('smtp'), banner=False) as client:
        client.send(b'EHLO x\r\n')
        expect(client.reply(), '220 ')
        expect(client.reply(), '250 ')
        in_step(client)


@case('unknown-verb')
def _(house):
    with house.client() as client:
        for _ in range(10):
            expect(client.command('XYZZY'), '500 5.5.2 ')
        expect(client.command('XYZZY'), '421 4.7.0 ')
        assert client.rest() == b''


@case('line-endless')
def _(house):
    before = house.server.memory_kib()
    with house.client() as client:
        sent = send_until_refused(client, 65536 * A, 64 << 20)
        assert sent < 16 << 20, f'took {sent} bytes of one line'
        try:
            expect(client.reply(), '(421|500) ')
        except Closed:
            pass    # the reset may overtake the reply
    assert house.server.memory_kib() - before < 8192, 'memory grew'
    in_step(house.client())


@case('mail-source-route')
def _(house):
    with house.client() as client:
        expect(client.command('MAIL FROM:<@x.test,@y.test:route@b.test>'), '250 ')
        expect(client.command('RCPT TO:<u@other.test>'), '550 ')
    house.server.wait_events('message.refused', 1, **{'from': 'route@b.test'})


@case('rcpt-quoted')
def _(house):
    with house.client('mail') as client:
        expect(client.command('RCPT TO:<"a b\\"c"@rcpt.test>'), '550 5.1.1 ')
    house.server.wait_events('message.refused', 1, to='"a b\\"c"@rcpt.test')


@case('slowloris')
def _(house):
    with Server(limits='command_timeout = 1s') as server, Client(server.address('smtp')) as client:
        client.send(b'N')
        expect(client.reply(), '421 4.4.2 ')
        assert client.rest() == b''


@case('pipeline-flood')
def _(house):
    with house.client() as client:
        before = house.server.memory_kib()
        client.socket.setblocking(False)
        total, sent = 1000000, 0
        stuck_at = None
        while sent < total * 6:
            try:
                sent += client.socket.send(b'NOOP\r\n' * 1000 if sent % 6 == 0 else (b'NOOP\r\n' * 2)[sent % 6:])
                stuck_at = None
            except BlockingIOError:
                stuck_at = stuck_at or time.monotonic()
                if time.monotonic() - stuck_at > 0.5:    # back-pressure: it takes no more until we read
                    break
                time.sleep(0.01)
        assert sent < total * 6, 'no back-pressure at all'
        assert house.server.memory_kib() - before < 8192, 'memory grew'
        client.socket.setblocking(True)
        client.socket.settimeout(30)
        if sent % 6:
            finish = threading.Thread(target=client.socket.sendall, args=(b'NOOP\r\n'[sent % 6:],))
            finish.start()
        for _ in range((sent + 5) // 6):
            expect(client.reply(), '250 ')
        in_step(client)


@case('rcpt-100')
def _(house):
    with house.client('mail') as client:
        client.send(b''.join(b'RCPT TO:<r%d@rcpt.test>\r\n' % number for number in range(100)))
        for _ in range(100):
            expect(client.reply(), '250 ')


@case('rcpt-too-many')
def _(house):
    with house.client('mail') as client:
        client.send(b''.join(b'RCPT TO:<r%d@rcpt.test>\r\n' % number for number in range(100)))
        for _ in range(100):
            expect(client.reply(), '250 ')
        expect(client.command('RCPT TO:<r100@rcpt.test>'), '452 4.5.3 ')
        expect(client.command('DATA'), '354 ')
        client.send(b'Subject: too many\r\n\r\n.\r\n')
        expect(client.reply(), '250 ')
    for number in range(100):
        assert len(house.server.wait_mails(f'r{number}', 1)) == 1, number
    assert house.server.mails('r100') == []


# ---------------------------------------------------------------------- order and data

@case('quit-in-data')
def _(house):
    with house.client('data') as client:
        client.send(b'Subject: quit-in-data\r\n\r\nQUIT\r\n.\r\n')
        expect(client.reply(), '250 ')
        in_step(client)
    assert house.body_of(b'quit-in-data').endswith(b'\n\nQUIT\n')


@case('drop-in-data')
def _(house):
    def fin():
        with house.client('data') as client:
            client.send(b'Subject: dropped\r\n\r\nhalf')
            client.end()
            assert client.rest() == b''

    def reset():
        client = house.client('data')
        client.send(b'Subject: dropped\r\n\r\nhalf')
        client.reset()
    house.counted(lambda: (fin(), reset()), 0)


@case('drop-after-dot')
def _(house):
    def reset():
        client = house.client('data')
        client.send(b'Subject: dropped after the dot\r\n\r\nx\r\n.\r\n')
        client.reset()
    house.counted(reset, 0, 1)


@case('dot-stuff')
def _(house):
    with house.client('data') as client:
        client.send(b'Subject: dot-stuff\r\n\r\n..\r\n.x\r\n...\r\n.\r\n')
        expect(client.reply(), '250 ')
    assert house.body_of(b'dot-stuff').endswith(b'\n\n.\nx\n..\n')


@case('dot-first')
def _(house):
    with house.client('data') as client:
        client.send(b'.\r\n')
        expect(client.reply(), '250 ')
        in_step(client)


@case('dot-split-writes')
def _(house):
    with house.client('data') as client:
        client.send(b'Subject: dot-split\r\n\r\nbody')
        client.one_by_one = True
        client.send(b'\r\n.\r\n')
        expect(client.reply(), '250 ')
        in_step(client)
    assert house.body_of(b'dot-split').endswith(b'\n\nbody\n')


@case('dot-buffer-edge')
def _(house):
    with house.client() as client:
        for size in (*range(4095, 4100), *range(8191, 8196), *range(16383, 16388), *range(65535, 65540)):
            for step in ('MAIL FROM:<a@b.test>', 'RCPT TO:<bob@rcpt.test>'):
                expect(client.command(step), '250 ')
            expect(client.command('DATA'), '354 ')
            head = b'Subject: edge-%d-\r\n\r\n' % size
            body = (b'x' * 70 + b'\r\n') * (size // 72 + 1)
            whole = (head + body)[:size - 1].rstrip(b'\r\n')
            whole += b'y' * (size - 1 - len(whole))
            client.send(whole + b'\r\n.\r\n')
            expect(client.reply(), '250 ')
            in_step(client)
    for size in (4096, 65536):
        assert house.body_of(b'edge-%d-' % size, 'bob').endswith(b'\n')


def sent_as_is(house, name, body, pattern='250 '):
    with house.client('data') as client:
        client.send(b'Subject: ' + name + b'\r\n\r\n' + body + b'.\r\n')
        expect(client.reply(), pattern)
        in_step(client)
    if pattern == '250 ':
        assert house.body_of(b'Subject: ' + name + b'\n').endswith(b'\n\n' + body.replace(b'\r\n', b'\n'))


@case('data-line-998')
def _(house):
    sent_as_is(house, b'line-998', 998 * A + b'\r\n')


@case('data-line-1001')
def _(house):
    sent_as_is(house, b'line-5000', 5000 * A + b'\r\n')


@case('data-nul')
def _(house):
    house.counted(lambda: sent_as_is(house, b'nul', b'a\0b\r\n', '550 5.5.2 '), 0)


@case('data-no-header')
def _(house):
    with house.client('data') as client:
        client.send(b'only a line of body, data-no-header\r\n.\r\n')
        expect(client.reply(), '250 ')
    assert house.body_of(b'data-no-header').endswith(b'\nonly a line of body, data-no-header\n')


@case('data-bare-cr-header')
def _(house):
    def test():
        with house.client('data') as client:
            client.send(b'Subject: a\rX-Injected: 1\r\n\r\n.\r\n')
            expect(client.reply(), '550 5.5.2 ')
            in_step(client)
    house.counted(test, 0)


@case('data-long-header')
def _(house):
    with house.client('data') as client:
        client.send(b'From: a@b.test (' + (b'c' * 70 + b'\r\n ') * 13000 + b')\r\n\r\n.\r\n')
        expect(client.reply(), '(250|552|554) ')
        in_step(client)


@case('data-many-headers')
def _(house):
    with house.client('data') as client:
        client.send(b'X: y\r\n' * 170000 + b'\r\n.\r\n')
        expect(client.reply(), '(250|552|554) ')
        in_step(client)


@case('data-mime-bomb')
def _(house):
    parts = b''.join(b'Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n' % (n, n) for n in range(10000))
    with house.client('data') as client:
        client.send(parts + b'\r\n.\r\n')
        expect(client.reply(), '(250|55[0-9]) ')
        in_step(client)


@case('received-loop')
def _(house):
    with house.client('data') as client:
        client.send(b'Received: by x.example\r\n' * 101 + b'\r\n.\r\n')
        expect(client.reply(), '554 5.4.6 ')
        in_step(client)


@case('size-exceeded-in-data')
def _(house):
    head = b'Subject: x\r\n\r\n'
    for over, pattern in ((0, '250 '), (1, '552 5.3.4 ')):
        with house.client('data') as client:
            body = head + (b'z' * 62 + b'\r\n') * 16384
            body = body[:(1 << 20) + over - 2] + b'\r\n'
            body = re.sub(rb'\r(?!\n)|(?<!\r)\n', b'z', body)
            assert len(body) == (1 << 20) + over
            client.send(body + b'.\r\n')
            expect(client.reply(), pattern)
            in_step(client)


@case('size-exceeded-smuggle')
def _(house):
    def test():
        with house.client('data') as client:
            client.send((b'a' * 899 + b'\r\n') * 1200 + b'.\nHELP\r\nMAIL FROM:<x@b.test>\r\n.\r\n')
            expect(client.reply(), '55[02] ')
            in_step(client)
    house.counted(test, 0)


# ---------------------------------------------------------------------- BDAT

@case('bdat-basic')
def _(house):
    def test():
        with house.client('rcpt') as client:
            client.send(b'BDAT 5\r\nHelloBDAT 0 LAST\r\n')
            expect(client.reply(), '250 ')
            expect(client.reply(), '250 2.0.0 Accepted as ')
            in_step(client)
    house.counted(test, 1)
    event = house.server.events('message.accepted')[-2]
    assert event.get('size') in (None, 5) and event.get('size_bytes') in (None, 5), event


@case('bdat-rset')
def _(house):
    def test():
        with house.client('rcpt') as client:
            client.send(b'BDAT 3\r\nabcRSET\r\nBDAT 1 LAST\r\nx')
            for pattern in ('250 ', '250 ', '503 '):
                expect(client.reply(), pattern)
            in_step(client)
    house.counted(test, 0)


@case('bdat-badsize')
def _(house):
    for size in (b' -1', b' 0x10', b' 18446744073709551616', b''):
        with house.client('rcpt') as client:
            client.send(b'BDAT' + size + b'\r\n')
            expect(client.reply(), '501 ')
            assert client.rest() == b'', size


@case('bdat-dot-lines')
def _(house):
    body = b'Subject: bdat-dots\r\n\r\n.\r\n..\r\n'
    with house.client('rcpt') as client:
        client.send(b'BDAT %d LAST\r\n' % len(body) + body)
        expect(client.reply(), '250 ')
        in_step(client)
    assert house.body_of(b'bdat-dots').endswith(b'\n\n.\n..\n')


@case('bdat-pipelined')
def _(house):
    def test():
        with house.client() as client:
            client.send(b'MAIL FROM:<a@b.test>\r\nRCPT TO:<alice@rcpt.test>\r\nBDAT 12\r\nSubject: p\r\nBDAT 5 LAST\r\n\r\nx\r\nQUIT\r\n')
            for pattern in ('250 2.1.0', '250 2.1.5', '250 2.0.0 12', '250 2.0.0 Accepted', '221 '):
                expect(client.reply(), pattern)
            assert client.rest() == b''
    house.counted(test, 1)


@case('bdat-exim-2017')
def _(house):
    for shape, first in ((b'BDAT 1\r\nxBDAT .\x7f\r\n', '250 '), (b'BDAT .\x7f\r\n', None), (b'BDAT \x7f\r\n', None)):
        with house.client('rcpt') as client:
            client.send(shape)
            if first:
                expect(client.reply(), first)
            expect(client.reply(), '501 ')
    in_step(house.client())


# ---------------------------------------------------------------------- STARTTLS

def shake(client):
    expect(client.reply(), '220 ')
    client.start_tls()


@case('starttls-inject')
def _(house):
    with house.client() as client:
        client.send(b'STARTTLS\r\nNOOP\r\n')
        shake(client)
        assert client.quiet(), 'the injected NOOP was answered'
        expect(client.command('EHLO c.test'), '250 ')


@case('starttls-inject-ehlo')
def _(house):
    with house.client() as client:
        client.send(b'STARTTLS\r\nEHLO evil\r\nMAIL FROM:<x@y.test>\r\n')
        shake(client)
        assert client.quiet(), 'injected commands were answered'
        expect(client.command('RCPT TO:<alice@rcpt.test>'), '503 ')


@case('starttls-keeps-state')
def _(house):
    with house.client('rcpt') as client:
        client.send(b'STARTTLS\r\n')
        shake(client)
        expect(client.command('DATA'), '503 ')


@case('starttls-twice')
def _(house):
    with house.client() as client:
        client.send(b'STARTTLS\r\n')
        shake(client)
        reply = expect(client.command('EHLO c.test'), '250 ')
        assert not any('STARTTLS' in line for line in reply.lines)
        expect(client.command('STARTTLS'), '503 5.5.1 ')


@case('starttls-fail')
def _(house):
    with house.client() as client:
        client.send(b'STARTTLS\r\n')
        expect(client.reply(), '220 ')
        client.send(b'garbage that is no handshake at all\r\nNOOP\r\n')
        rest = client.rest()
        assert not re.search(rb'\d\d\d ', rest), rest


# ---------------------------------------------------------------------- pipelining, LMTP

@case('pipeline-basic')
def _(house):
    def test():
        with house.client() as client:
            client.send(b'MAIL FROM:<a@b.test>\r\nRCPT TO:<alice@rcpt.test>\r\nRCPT TO:<bad@rcpt.test>\r\n'
                        b'RCPT TO:<bob@rcpt.test>\r\nDATA\r\n')
            for pattern in ('250 ', '250 ', '550 ', '250 ', '354 '):
                expect(client.reply(), pattern)
            client.send(b'Subject: pipeline-basic\r\n\r\n.\r\n')
            expect(client.reply(), '250 ')
    house.counted(test, 1)
    house.body_of(b'pipeline-basic', 'alice')
    house.body_of(b'pipeline-basic', 'bob')


def lmtp_rcpts(house, users):
    client = Client(house.server.address('lmtp'))
    expect(client.command('LHLO c.test'), '250 ')
    expect(client.command('MAIL FROM:<a@b.test>'), '250 ')
    return client, [client.command(f'RCPT TO:<{user}@rcpt.test>').code for user in users]


@case('lmtp-per-rcpt')
def _(house):
    client, codes = lmtp_rcpts(house, ('alice', 'nobody', 'bob', 'carol'))
    with client:
        assert codes == [250, 550, 250, 250], codes
        expect(client.command('DATA'), '354 ')
        client.send(b'.\r\n')
        for _ in range(3):
            expect(client.reply(), '250 ')
        in_step(client)


@case('lmtp-bdat')
def _(house):
    client, codes = lmtp_rcpts(house, ('alice', 'bob'))
    with client:
        client.send(b'BDAT 3\r\nabcBDAT 2 LAST\r\n\r\n')
        for _ in range(3):
            expect(client.reply(), '250 ')
        in_step(client)


def submission(house):
    client = Client(house.server.address('submissions'), tls=True)
    expect(client.command('EHLO c.test'), '250 ')
    return client


def plain(text):
    return 'AUTH PLAIN ' + base64.b64encode(text.encode()).decode()


@case('auth-bad-b64')
def _(house):
    with submission(house) as client:
        expect(client.command('AUTH PLAIN !!!'), '501 5.5.')
        in_step(client)


@case('auth-cancel')
def _(house):
    with submission(house) as client:
        expect(client.command('AUTH LOGIN'), '334 ')
        expect(client.command('*'), '501 ')
        in_step(client)


@case('auth-twice')
def _(house):
    with submission(house) as client:
        expect(client.command(plain('\0user@testserver\0secretpassword')), '235 2.7.0')
        expect(client.command(plain('\0user@testserver\0secretpassword')), '503 ')
        in_step(client)


@case('auth-long')
def _(house):
    with submission(house) as client:
        line = plain('\0user@testserver\0' + 'x' * (12288 // 4 * 3 - 17))
        assert len(line) - len('AUTH PLAIN ') == 12288, len(line)
        expect(client.command(line), '535 5.7.8')
        in_step(client)


@case('auth-nul-split')
def _(house):
    for text in ('a\0user@testserver\0secretpassword\0extra', '\0user@testserver\0secret\0password', '\0\0', 'x'):
        with submission(house) as client:
            expect(client.command(plain(text)), '501 ')
            in_step(client)


@case('auth-brute')
def _(house):
    with submission(house) as client:
        for guess in range(2):
            began = time.monotonic()
            expect(client.command(plain(f'\0user@testserver\0guess{guess}')), '535 5.7.8')
            assert time.monotonic() - began >= 0.1, 'a guess cost no time'
        expect(client.command(plain('\0user@testserver\0guess')), '421 4.7.0')
        assert client.rest() == b''


@case('proxy-v2-bad')
def _(house):
    head = b'\r\n\r\n\0\r\nQUIT\n\x21\x11'
    for data, half in ((head + b'\xff\xff' + bytes(12), True), (head + b'\0\x0c' + bytes(11), True), (head + b'\0\x04' + bytes(4), False),
                       (head[:13], True), (head[:12] + b'\x31\x11\0\x0c' + bytes(12), False)):
        with Client(house.server.address('proxied'), banner=False) as client:
            client.send(data)
            if half:
                client.end()
            assert client.rest() == b'', 'it said something'
    with Client(house.server.address('proxied'), banner=False) as client:
        client.send(head + b'\0\x0c' + bytes(12))
        expect(client.reply(), '220 ')


def play_replies(house, name):
    state, data, patterns, ending = REPLIES[name]
    with house.client(state) as client:
        client.send(data)
        for pattern in patterns:
            expect(client.reply(), pattern)
        if ending == 'close':
            rest = client.rest()
            assert rest == b'', f'more was said: {rest!r}'
        else:
            in_step(client)


def main():

    path = shared('vectors', 'smtp-torture', 'cases.json')
    if not path:
        return 0
    with open(path, encoding='utf-8') as file:
        names = [entry['id'] for entry in json.load(file)['cases']]
    checks = Checks()
    lib_torture_client.register(CASES)
    with Server(limits=LIMITS, extra='auth { delay = 100ms }\n'
                'listen proxied { address = "127.0.0.1:0"  proxy = yes }\ntrusted { proxy = {"127.0.0.1"} }\n') as server:
        house = House(server)
        for name in names:
            if ('starttls' in name or name in NEEDS_TLS) and not server.certificate:
                checks.skip(name, 'no openssl command to make a certificate')
            elif name in REPLIES:
                checks.run(name, lambda: play_replies(house, name))
            elif name in CASES:
                checks.run(name, lambda: CASES[name](house))
            else:
                checks.ok(name, False, 'the list has a case that this test does not know')
        checks.ok('the server is still there', server.alive())
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
