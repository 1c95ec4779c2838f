#!/usr/bin/env python3
"""What a next hop without 8BITMIME or SMTPUTF8 gets: the same mail in 7 bits, signed anew where it is ours; what cannot be
converted comes back, or goes as it is where the setting says so; a recipient's TLS policy that the message waives."""
import base64
import email
import email.policy
import os
import re
import subprocess
import sys

from lib import Checks, Client, Server
from lib_hop import NextHop

checks = Checks()
try:
    import dkim
except ImportError:
    dkim = None
    if sys.executable != '/usr/bin/python3' and os.path.exists('/usr/lib/python3/dist-packages/dkim'):
        os.execv('/usr/bin/python3', ['/usr/bin/python3', *sys.argv])

BOUNDARY = '=_parts'
MAIL = ('From: Joerg <joerg@ours.example>\r\nTo: <x@far.example>\r\nSubject: parts\r\nMIME-Version: 1.0\r\n'
        f'Content-Type: multipart/mixed; boundary="{BOUNDARY}"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
        f'--{BOUNDARY}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße aus Köln \r\n.punkt\r\n'
        f'--{BOUNDARY}\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n'
        'Content-Transfer-Encoding: 8bit\r\n\r\nпривет\r\n'
        f'--{BOUNDARY}--\r\n')


def text_of(body):
    message = email.message_from_bytes(body, policy=email.policy.default)
    return [part.get_payload(decode=True).decode() for part in message.walk() if part.get_content_type() == 'text/plain']


def deliver(server, hop, body, to='x@far.example', mail=' BODY=8BITMIME', sender='joerg@ours.example'):
    before = len(hop.messages)
    message = send8(server, to, sender, body, mail)
    server.wait_events('delivery.done', 1, message=message)
    return message, hop.messages[before:][-1]


def send8(server, to, sender, body, mail):
    with Client(server.address('smtp')) as client:
        assert client.command('EHLO client.example').code == 250
        for line in (f'MAIL FROM:<{sender}>{mail}', f'RCPT TO:<{to}>'):
            reply = client.command(line.encode())
            assert reply.code == 250, (line, reply)
        assert client.command('DATA').code == 354
        client.send(body.replace('\r\n.', '\r\n..').encode() + b'.\r\n')
        reply = client.reply()
        assert reply.code == 250, reply
    message = re.search(r'Accepted as (\S+)', reply.lines[-1]).group(1)
    server.wait_events('message.accepted', 1, message=message)
    return message


def converted(server, hop, key):
    message, (_, _, body) = deliver(server, hop, MAIL)
    body = body.replace(b'\r\n..', b'\r\n.')
    assert all(byte < 0x80 for byte in body) and all(len(line) <= 998 for line in body.split(b'\r\n')), body
    assert text_of(body) == ['Grüße aus Köln \r\n.punkt', 'привет'], text_of(body)
    note = server.wait_events('delivery.note', 1, message=message)[0]
    assert note['text'] == 'converted to 7 bits: 1 part(s) to quoted-printable, 1 to base64; signed anew', note
    code, story, _ = server.run('why', message)
    assert 'converted to 7 bits' in story, story
    if dkim is None:
        checks.skip('dkimpy verifies the new signature', 'python3-dkim is not installed')
        return
    assert body.startswith(b'DKIM-Signature:'), body[:100]
    assert dkim.verify(body, dnsfunc=lambda name, timeout=5: key if name.rstrip(b'.') == b's1._domainkey.ours.example' else None)


def of_others(server, hop):
    """A signature of somebody else cannot be made anew; that is told. One that says it is ours does not make it ours."""
    for domain in ('else.example', 'ours.example'):
        message, (_, _, body) = deliver(server, hop, f'DKIM-Signature: v=1; d={domain}; s=s1; b=AAAA\r\n' + MAIL.replace('joerg@ours', 'eve@else'),
                                        sender='eve@else.example')
        assert body.count(b'DKIM-Signature:') == 1, body
        note = server.wait_events('delivery.note', 1, message=message)[0]
        assert note['text'].endswith('; the DKIM signatures that it bears do not hold any more'), note


def not_convertible(server, hop):
    signed = MAIL.replace('multipart/mixed', 'multipart/signed')
    for body, words in ((signed, 'signed'), (MAIL.replace('Subject: parts', 'Subject: für'), 'header')):
        message = send8(server, 'x@far.example', 'joerg@ours.example', body, ' BODY=8BITMIME')
        event = server.wait_events('delivery.failed', 1, message=message)[0]
        assert event['cause'] == 'remote.no_8bit' and event['enhanced'] == '5.6.3' and words in event['text'], event
    message = send8(server, 'x@far.example', 'joerg@ours.example', MAIL.replace('Subject: parts', 'Subject: für'), ' BODY=8BITMIME SMTPUTF8')
    event = server.wait_events('delivery.failed', 1, message=message)[0]
    assert event['cause'] == 'remote.no_smtputf8' and event['enhanced'] == '5.6.7', event


def by_setting(server, hop):
    message = send8(server, 'x@refused.example', 'joerg@ours.example', MAIL, ' BODY=8BITMIME')
    assert server.wait_events('delivery.failed', 1, message=message)[0]['cause'] == 'remote.no_8bit'
    message, (_, _, body) = deliver(server, hop, MAIL, to='x@raw.example')
    assert 'Grüße'.encode() in body and not server.events('delivery.note')[-1].get('message') == message


def a_labels(server, hop):
    message, (sender, to, body) = deliver(server, hop, 'Subject: plain\r\n\r\nplain\r\n', to='x@bücher.example', mail=' SMTPUTF8', sender='a@köln.example')
    assert sender == 'a@xn--kln-sna.example' and to == ['x@xn--bcher-kva.example'], (sender, to)
    message = send8(server, 'jörg@bücher.example', 'a@ours.example', 'Subject: plain\r\n\r\nplain\r\n', ' SMTPUTF8')
    assert server.wait_events('delivery.failed', 1, message=message)[0]['cause'] == 'remote.no_smtputf8'


def plain_is_plain(server, hop):
    before = len(server.events('delivery.note'))
    message, (_, _, body) = deliver(server, hop, 'Subject: plain\r\n\r\nplain\r\n')
    assert body.endswith(b'Subject: plain\r\n\r\nplain\r\n') and len(server.events('delivery.note')) == before


def main():
    with NextHop(lambda hop: (hop.say('220 hop'), hop.serve(('SIZE 1000000',)))) as hop:
        server = Server(text='hostname = "mx.ours.example"\nspool = "{folder}/spool"\nlisten smtp { address = "127.0.0.1:0" }\n'
                             'relay { from = {"127.0.0.0/8"}  via = "smtp:127.0.0.1:%d" }\nretry { schedule = {200ms}  jitter = 0 }\n'
                             'route "refused.example" { via = "smtp:127.0.0.1:%d"  downgrade = refuse }\n'
                             'route "raw.example" { via = "smtp:127.0.0.1:%d"  downgrade = send }\n'
                             'sign a { domain = "ours.example"  selector = "s1"  key = "{folder}/dkim.pem" }\n' % ((hop.port,) * 3), start=False)
        path = f'{server.folder}/dkim.pem'
        subprocess.run(['openssl', 'genrsa', '-out', path, '2048'], check=True, capture_output=True)
        public = subprocess.run(['openssl', 'rsa', '-in', path, '-pubout', '-outform', 'DER'], check=True, capture_output=True).stdout
        key = b'v=DKIM1; k=rsa; p=' + base64.b64encode(public)
        with server:
            server.start()
            checks.run('parts are converted, and signed anew', lambda: converted(server, hop, key))
            checks.run('the signatures of others are told of', lambda: of_others(server, hop))
            checks.run('what cannot be converted comes back', lambda: not_convertible(server, hop))
            checks.run('refused, or sent as it is, by setting', lambda: by_setting(server, hop))
            checks.run('domains go in A-labels', lambda: a_labels(server, hop))
            checks.run('plain mail stays as it is', lambda: plain_is_plain(server, hop))
            checks.ok('the next hop had no complaint', not hop.faults, hop.faults)
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
