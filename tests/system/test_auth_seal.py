#!/usr/bin/env python3
"""Sealing by the server: mail of others that an alias passes on gets an ARC set, which dkimpy checks; on top of a chain, of a broken
one, of one that nobody can check; mail that stays here, and our own, gets none."""
import os
import shutil
import sys
import tempfile

if not shutil.which('openssl'):
    print('ok sealing # SKIP openssl is not installed\n0 passed, 0 failed, 1 skipped')
    raise SystemExit(0)

import test_auth_dkimpy as dkimpy  # goes on with the system's Python where dkimpy is there only
from lib import Checks, Client, Server, wait_until
from lib_hop import NextHop

MESSAGE = b'From: ann@sender.example\r\nTo: away@rcpt.test\r\nSubject: passed on\r\nDate: Tue, 24 Nov 2026 10:00:00 +0000\r\n\r\nHello.\r\n'


def send(server, message, to):
    with Client(server.address()) as client:
        for line in ('EHLO c.example', 'MAIL FROM:<ann@sender.example>', f'RCPT TO:<{to}>', 'DATA'):
            client.command(line)
        client.send(message + b'.\r\n')
        reply = client.reply()
    assert reply.code == 250, reply


def arrived(hop, count):
    wait_until(f'{count} messages at the next hop', lambda: len(hop.messages) >= count)
    return hop.messages[count - 1][2]


def fields(message, name):
    head = message.split(b'\r\n\r\n')[0]
    return sum(line.lower().startswith(name.lower() + b':') for line in head.split(b'\r\n'))


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder, NextHop(lambda hop: (hop.say('220 hop'), hop.serve(['SIZE', '8BITMIME']))) as hop:
        bench = dkimpy.Bench(folder)
        key = bench.keys[1]
        text = ('hostname = "mx.rcpt.test"\nspool = "{folder}/spool"\nlisten smtp { address = "127.0.0.1:0" }\n'
                'domain "rcpt.test" { users = "file:{folder}/users"  aliases = "file:{folder}/aliases"  deliver = "maildir:{folder}/mail/{domain}/{user}" }\n'
                f'route "away.example" {{ via = "smtp:127.0.0.1:{hop.port}" }}\nresolver {{ forward = {{"127.0.0.1@{bench.server.port}"}}  timeout = 2s }}\n'
                'checks { spf = record  dkim = record  arc = record }\n'
                f'sign rsa {{ domain = "{dkimpy.DOMAIN}"  selector = "{key.selector}"  key = "{key.path}"  seal = yes }}\n'
                'log { format = json  level = info }\n')
        server = Server(text=text, start=False)
        with open(os.path.join(server.folder, 'aliases'), 'w') as file:
            file.write('away: friend@away.example\nagain: friend@away.example\n')   # twice by one alias would be a loop
        server.start()
        with server:
            send(server, MESSAGE, 'away@rcpt.test')
            first = arrived(hop, 1)
            verdict, results, why = dkimpy.dkim.arc_verify(first, dnsfunc=bench.record)
            checks.ok('a first seal: dkimpy says pass', verdict == b'pass' and fields(first, b'ARC-Seal') == 1, (verdict, why, first))
            checks.ok('what was found is in it', b'ARC-Authentication-Results: i=1; mx.rcpt.test;' in first and b'dkim=none' in first, first)

            send(server, first, 'again@rcpt.test')
            second = arrived(hop, 2)
            verdict, results, why = dkimpy.dkim.arc_verify(second, dnsfunc=bench.record)
            checks.ok('a second one on top of it', verdict == b'pass' and fields(second, b'ARC-Seal') == 2 and b'cv=pass' in second, (verdict, why, second))

            send(server, first.replace(b'Hello.', b'Changed.'), 'again@rcpt.test')
            third = arrived(hop, 3)
            verdict, results, why = dkimpy.dkim.arc_verify(third, dnsfunc=bench.record)
            checks.ok('a broken chain is sealed as failed', verdict != b'pass' and fields(third, b'ARC-Seal') == 2 and b'cv=fail' in third, (verdict, third))

            send(server, first.replace(b's=rsa2', b's=none'), 'again@rcpt.test')
            fourth = arrived(hop, 4)
            checks.ok('so is one whose key does not exist', b'cv=fail' in fourth, fourth)

            send(server, MESSAGE, 'alice@rcpt.test')
            mail = server.wait_mails('alice', 1)[0]
            checks.ok('what stays here is not sealed', b'ARC-Seal' not in mail, mail)
        wrong = Server(text=text.replace('arc = record', 'arc = off'), start=False)
        code, _, errors = wrong.run('config', 'check')
        checks.ok('seal without arc is an error of the configuration', code == 1 and 'seal needs arc' in errors, errors)
        shutil.rmtree(wrong.folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
