#!/usr/bin/env python3
"""SMTP smuggling: false ends of data, each in one write and in writes of one byte, and the pipelining case.

Holdfast's answer to all of them is the same: only CR LF . CR LF ends DATA; a body with a bare CR, bare LF or NUL is refused
with 550 5.5.2, once, at its true end, and the session goes on in step."""
import json

from lib import Checks, Client, Server, shared

HEAD = b'From: <a@sender.test>\r\nSubject: outer\r\n\r\nouter body'
INNER = (b'MAIL FROM:<smuggled@sender.test>\r\nRCPT TO:<b@rcpt.test>\r\nDATA\r\n'
         b'From: <smuggled@sender.test>\r\nSubject: SMUGGLED\r\n\r\nx\r\n.\r\n')


def begin(server):
    client = Client(server.address())
    client.command('EHLO c')
    for line, code in (('MAIL FROM:<a@sender.test>', 250), ('RCPT TO:<b@rcpt.test>', 250), ('DATA', 354)):
        reply = client.command(line)
        assert reply.code == code, reply
    return client


def stored(server):
    """(envelope senders accepted so far), made certain by a message of our own."""
    with begin(server) as client:
        client.send(b'Subject: fence\r\n\r\n.\r\n')
        message = client.reply().lines[-1].split()[-1]
    server.wait_events('message.accepted', 1, message=message)
    return [event.get('from') for event in server.events('message.accepted')]


def play(server, end, one_by_one):
    before = len(stored(server))
    with begin(server) as client:
        client.one_by_one = one_by_one
        client.send(HEAD + end + INNER)
        client.one_by_one = False
        reply = client.reply()
        assert reply.lines == ['550 5.5.2 Bare CR, bare LF or NUL in the message is not allowed (message.malformed)'], reply
        assert client.command('NOOP').code == 250, 'out of step'
        assert client.command('DATA').code == 503, 'a transaction is open'
    senders = stored(server)
    assert len(senders) == before + 1, f'{len(senders) - before - 1} messages were stored'
    assert not any('smuggled' in sender for sender in senders), senders


def pipelined(server, one_by_one):
    """What follows DATA before its 354 is body, never a command: two messages, each whole, and nothing of them executed."""
    before = len(stored(server))
    with begin(server) as client:
        client.one_by_one = one_by_one
        client.send(HEAD + b'\r\n.\r\n' + INNER.replace(b'x\r\n', b'RSET\r\nNOOP\r\nQUIT\r\n'))
        client.one_by_one = False
        codes = [reply.code for reply in client.replies(5)]
        assert codes == [250, 250, 250, 354, 250], codes
        assert client.command('NOOP').code == 250
    assert len(stored(server)) == before + 3


def refused_data(server):
    """DATA is refused and the body follows all the same: none of it is executed."""
    before = len(stored(server))
    with Client(server.address()) as client:
        client.command('EHLO c')
        client.send(b'MAIL FROM:<a@sender.test>\r\nRCPT TO:<nobody@rcpt.test>\r\nDATA\r\n' + HEAD + b'\r\n.\r\n' + INNER)
        codes = [reply.code for reply in client.replies(3)]
        assert codes == [250, 550, 554], codes
        assert client.rest() == b'', 'the session goes on'
    assert len(stored(server)) == before + 1


def main():
    path = shared('vectors', 'smtp-smuggling', 'cases.json')
    if not path:
        return 0
    with open(path, encoding='utf-8') as file:
        cases = json.load(file)['cases']
    checks = Checks()
    checks.ok('12 sequences are there', len(cases) == 12, str(len(cases)))
    with Server() as server:
        for case in cases:
            end = bytes.fromhex(case['eod_bytes_hex'])
            for one_by_one in (False, True):
                way = 'byte by byte' if one_by_one else 'in one write'
                checks.run(f'{case["id"]} {way}', lambda: play(server, end, one_by_one))
        checks.run('unauth_pipelining in one write', lambda: pipelined(server, False))
        checks.run('unauth_pipelining byte by byte', lambda: pipelined(server, True))
        checks.run('body after a refused DATA', lambda: refused_data(server))
        checks.ok('the server is still there', server.alive())
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
