#!/usr/bin/env python3
"""Logging in at a smarthost, another Holdfast's submission listeners: SCRAM-SHA-256 and PLAIN, by STARTTLS and from the first byte;
a wrong password defers, and no secret is written anywhere."""
import base64
import os
import shutil
import tempfile

from lib import HASHES, Checks, Client, Server, make_certificate, wait_until
from lib_hop import NextHop

checks = Checks()
SCRAM = ('SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$Xzcxp8pR/VYhs3ezUhZcbISS7I0/Hv7eOWWD9HJRjHU=:'
         'zjzgU+nj5Y2b5hJjS8gfESFZ/t6elbKdmaJaguOioHc=')     # of "scrampassword"
SMARTHOST = '''
domain "auth.test" {{ users = "file:{folder}/accounts"  deliver = "maildir:{folder}/mail/{{domain}}/{{user}}" }}
auth {{ scram = {scram}  delay = 50ms }}
'''


def smarthost(folder, scram):
    with open(os.path.join(folder, 'accounts'), 'w') as file:
        file.write(f'alice:{HASHES["user"]}:senders=*\ncarol:scram={SCRAM}:senders=*\n')
    return Server(folder=folder, extra=SMARTHOST.format(folder=folder, scram=scram))


def login_file(folder, name, password, mode=0o600):
    path = os.path.join(folder, f'login-{name}-{mode}')
    with open(path, 'w') as file:
        file.write(f'{name}\n{password}\n')
    os.chmod(path, mode)
    return path


def route(via, login, tls='must'):
    return f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "auth.test" {{ via = "{via}"  tls = {tls}  login = "{login}" }}\nretry {{ schedule = {{1h}} }}\n'


def send(server):
    with Client(server.address('smtp')) as client:
        client.command('EHLO client.example')
        assert client.command('MAIL FROM:<alice@rcpt.test>').code == 250
        assert client.command('RCPT TO:<alice@auth.test>').code == 250
        assert client.command('DATA').code == 354
        client.send('Subject: hello\r\n\r\nhello\r\n.\r\n')
        assert client.reply().code == 250
        client.command('QUIT')


def outcome(server):
    return wait_until('an outcome', lambda: server.events('delivery.done') + server.events('delivery.deferred'))[-1]


def written(server):
    """All that is kept: the journal and the files of the spool."""
    found = '\n'.join(server.lines).encode()
    for base, _, names in os.walk(os.path.join(server.folder, 'spool')):
        for name in names:
            path = os.path.join(base, name)
            if os.path.isfile(path):
                with open(path, 'rb') as file:
                    found += file.read()
    return found


def goes(folder, hub, listener, name, password, scheme='smtp'):
    via = f'{scheme}:%s:%d' % hub.address(listener)
    with Server(extra=route(via, login_file(folder, name, password))) as server:
        before = len(hub.events('message.accepted'))
        send(server)
        event = outcome(server)
        assert event['event'] == 'delivery.done' and event.get('tls'), event
        assert len(hub.wait_events('message.accepted', before + 1)) == before + 1


def waits(folder, hub):
    via = 'smtp:%s:%d' % hub.address('submission')
    with Server(extra=route(via, login_file(folder, 'alice@auth.test', 'wrongpassword'))) as server:
        send(server)
        event = outcome(server)
        assert event['event'] == 'delivery.deferred' and event['cause'] == 'login.refused' and event['side'] == 'ours', event
        assert event['code'] == 535 and event['stage'] == 'auth', event
        server.stop()
        kept = written(server)
        for secret in (b'wrongpassword', base64.b64encode(b'\0alice@auth.test\0wrongpassword'), b'd3JvbmdwYXNzd29yZA=='):
            assert secret not in kept, secret


def repeats(folder):
    """A next hop that shows what it could not read: neither transcript nor journal keeps that."""
    certificate, key = make_certificate(folder)

    def script(hop):
        hop.say('220 hop')
        hop.line()
        hop.say('250-hop\r\n250 STARTTLS')
        if hop.line() == 'STARTTLS':
            hop.say('220 go')
            hop.start_tls(certificate, key)
            hop.line()
            hop.say('250-hop\r\n250 AUTH LOGIN')
            assert hop.line() == 'AUTH LOGIN'
            hop.say('334 VXNlcm5hbWU6')
            hop.line()
            hop.say('334 ' + base64.b64encode(b'the name was alice').decode())
            hop.say('535-5.7.8 cannot log you in with ' + hop.line() + '\r\n535 5.7.8 that is not repeatedpassword')
    with NextHop(script) as hop, Server(extra=route(f'smtp:127.0.0.1:{hop.port}', login_file(folder, 'alice', 'repeatedpassword'))) as server:
        send(server)
        event = outcome(server)
        assert event['cause'] == 'login.refused' and 'a reply that repeats a secret, left out' in event['text'], event
        shown = server.run('why', '--transcript', event['message'])[1]
        assert 'AUTH LOGIN' in shown and '< 334 [left out]' in shown and '< 535 (a reply that repeats a secret, left out)' in shown, shown
        server.stop()
        kept = written(server)
        for secret in (b'repeatedpassword', base64.b64encode(b'repeatedpassword'), base64.b64encode(b'the name was alice')):
            assert secret not in kept, secret


def open_file(folder):
    server = Server(extra=route('smtp:127.0.0.1:9', login_file(folder, 'alice', 'x', 0o644)), start=False)
    try:
        server.start()
    except AssertionError as fault:
        assert 'can be read by everybody' in str(fault), fault
    else:
        raise AssertionError('it started')
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


def main():
    folder = tempfile.mkdtemp(prefix='holdfast-login-')
    with smarthost(folder, 'yes') as hub:
        checks.run('SCRAM-SHA-256 by STARTTLS', lambda: goes(folder, hub, 'submission', 'carol@auth.test', 'scrampassword'))
        checks.run('SCRAM-SHA-256 from the first byte', lambda: goes(folder, hub, 'submissions', 'carol@auth.test', 'scrampassword', 'smtps'))
        checks.run('a wrong password waits, and is written nowhere', lambda: waits(folder, hub))
    with smarthost(folder, 'no') as hub:
        checks.run('PLAIN by STARTTLS', lambda: goes(folder, hub, 'submission', 'alice@auth.test', 'secretpassword'))
        checks.run('PLAIN from the first byte', lambda: goes(folder, hub, 'submissions', 'alice@auth.test', 'secretpassword', 'smtps'))
    checks.run('what a next hop repeats is not kept', lambda: repeats(folder))
    checks.run('a file that everybody can read is refused', lambda: open_file(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
