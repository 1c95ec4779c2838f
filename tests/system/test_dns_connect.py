#!/usr/bin/env python3
"""`dns check --connect`: what a mail host shows is held against TLSA and MTA-STS, a closed port 25 is told apart from a host that fails, and the
ports where users hand in mail are seen with a mail program's eyes. Real servers of ours behind certificates of a test's authority; names from
a scripted server."""
import json
import os
import socket
import subprocess
import tempfile
import threading

from lib import HASHES, HOLDFAST, Checks, Server
from lib_dns import ScriptedDns
from lib_nameservers import free_port
from lib_signed import Authority, PolicyHost, tlsa_of
from test_dns_check import SOUND, D, Tlsa, about, found, pack_tlsa

MX = 'mx.shop.example'
USER = next(iter(HASHES))


class World:
    def __init__(self, folder):
        self.folder, self.authority = folder, Authority(folder)
        self.right = self.authority.issue('right', [MX, 'mta-sts.shop.example'])
        self.wrong = self.authority.issue('wrong', ['other.example'])
        self.https, self.policies = free_port(), {}
        self.policy_host = PolicyHost('127.0.0.1', self.https, *self.right, self.policies)

    def policy(self, mode):
        self.policies['mta-sts.shop.example'] = f'version: STSv1\nmode: {mode}\nmx: {MX}\nmax_age: 604800\n'
        return {('_mta-sts.shop.example', 'TXT'): ('v=STSv1; id=1',), ('mta-sts.shop.example', 'A'): '127.0.0.1', ('mta-sts.shop.example', None): 'EMPTY'}

    def check(self, more, *words):
        names = ScriptedDns({**SOUND, (MX, 'A'): '127.0.0.1', **more})
        try:
            done = subprocess.run([HOLDFAST, 'dns', 'check', D, '--resolver', f'127.0.0.1@{names.port}', '--connect', '--authorities', self.authority.file,
                                   '--https-port', str(self.https), '--json', *words], capture_output=True, timeout=120)
        finally:
            names.close()
        assert done.returncode in (0, 1), (done.returncode, done.stderr)
        return json.loads(done.stdout)

    def server(self, certificate, listeners):
        tls = f'tls {{ certificate = "{certificate[0]}"  key = "{certificate[1]}" }}\n' if certificate else ''
        users = os.path.join(self.folder, 'users')
        with open(users, 'w') as file:
            file.write(f'{USER}:{HASHES[USER]}\n')
        return Server(text=f'hostname = "{MX}"\nspool = "{{folder}}/spool"\n{listeners}{tls}'
                           f'domain "{D}" {{ users = "file:{users}"  deliver = "maildir:{{folder}}/mail/{{user}}" }}\nlog {{ format = json  level = info }}\n')


def severities(answer):
    return found(answer, 'error', 'warning', 'info')


def promises(checks, world):
    listener = 'listen smtp { address = "127.0.0.1:0" }\n'
    tlsa = {('_25._tcp.mx.shop.example', 'TLSA'): Tlsa(tlsa_of(world.wrong[0]).replace(' ', '').replace('311', '030101', 1))}
    with world.server(world.right, listener) as server:
        port = str(server.address('smtp')[1])
        answer = world.check(world.policy('enforce'), '--port', port)
        fine = about(answer, 'smtp.starttls')
        checks.ok('connect: the certificate proves the name', fine and 'proves the name' in fine[0]['text'] and not about(answer, 'mta_sts.certificate'), answer['findings'])
    with world.server(world.wrong, listener) as server:
        port = str(server.address('smtp')[1])
        answer = world.check({}, '--port', port)
        fine = about(answer, 'smtp.starttls')
        checks.ok('connect: without a promise the name is no fault', fine and 'does not prove the name' in fine[0]['text'], answer['findings'])
        for mode, finding, severity in (('enforce', 'mta_sts.certificate', 'error'), ('testing', 'mta_sts.certificate_testing', 'warning')):
            answer = world.check(world.policy(mode), '--port', port)
            told = about(answer, finding)
            checks.ok(f'connect: mode {mode} and another name', told and told[0]['severity'] == severity and told[0]['name'] == MX, answer['findings'])
        answer = world.check({**world.policy('enforce'), **tlsa}, '--port', port)
        checks.ok('connect: TLSA fits, MTA-STS does not', about(answer, 'mta_sts.certificate') and
                  'matches TLSA' in about(answer, 'smtp.starttls')[0]['text'] and not about(answer, 'dane.mismatch'), answer['findings'])
        checks.ok('connect: nothing was handed in', not server.events('message.accepted'))


def closed(checks, world):
    """A port that swallows connections, as a filter on the way does, on a host whose other port takes them: a listener whose backlog is full."""
    address = '127.0.0.87'
    with socket.socket() as full, socket.socket() as other:
        full.bind((address, 0))
        full.listen(0)
        crowd = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(full.getsockname())
            crowd.append(one)
        port = str(full.getsockname()[1])
        if os.environ.get('HOLDFAST_FULL'):
            answer = world.check({(MX, 'A'): address}, '--port', port)
            told = about(answer, 'smtp.unreachable')
            checks.ok('connect: nothing of the host answers', told and 'no other port of it answers' in told[0]['text'], answer['findings'])
        try:
            other.bind((address, 587))
        except PermissionError:
            checks.skip('connect: port 25 is closed on the way', 'port 587 needs root')
            return
        other.listen(5)
        answer = world.check({(MX, 'A'): address}, '--port', port)
        told = about(answer, 'smtp.port_25_blocked')
        checks.ok('connect: port 25 is closed on the way', told and 'port 587 of mx.shop.example takes connections' in told[0]['text'] and
                  'says nothing against the host' in told[0]['text'] and not about(answer, 'smtp.unreachable'), answer['findings'])
        for one in crowd:
            one.close()


class Talkative:
    """Says the same to everybody: offers AUTH in clear, and no TLS."""

    def __init__(self, port):
        self.socket = socket.create_server(('127.0.0.1', port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            with client, client.makefile('rwb', 0) as talk:
                try:
                    talk.write(b'220 here\r\n')
                    for line in talk:
                        talk.write(b'250-here\r\n250 AUTH PLAIN LOGIN\r\n' if line.upper().startswith(b'EHLO') else b'250 ok\r\n')
                except OSError:
                    pass

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def submission(checks, world):
    port, submit, submits = free_port(), free_port(), free_port()
    listeners = (f'listen smtp {{ address = "127.0.0.1:{port}" }}\nlisten submission {{ address = "127.0.0.1:{submit}"  kind = submission }}\n'
                 f'listen submissions {{ address = "127.0.0.1:{submits}"  kind = submission  tls = implicit }}\n')
    with world.server(world.right, listeners) as server:
        answer = world.check({}, '--port', str(port), '-c', server.config)
        works = about(answer, 'submission.works')
        checks.ok('submission: both ports work', sorted(f'port {one} of' in row['text'] for row in works for one in (submit, submits)) == [False, False, True, True],
                  answer['findings'])
        checks.ok('submission: and take nothing from strangers', about(answer, 'smtp.no_open_relay') and not about(answer, 'smtp.relays_from_here'), answer['findings'])
        server.stop()
        answer = world.check({}, '--port', str(port), '-c', server.config)
        checks.ok('submission: nobody there', len(about(answer, 'submission.unreachable')) == 2, answer['findings'])
        talkative = Talkative(submit)
        answer = world.check({}, '--port', str(port), '-c', server.config)
        talkative.close()
        checks.ok('submission: AUTH in clear, and no TLS', about(answer, 'submission.auth_in_clear') and about(answer, 'submission.no_tls'), answer['findings'])
    with world.server(world.wrong, listeners) as server:
        answer = world.check({}, '--port', str(port), '-c', server.config)
        checks.ok('submission: a certificate of another name', len(about(answer, 'submission.certificate')) == 2, answer['findings'])


def main():
    checks = Checks()
    pack_tlsa()
    with tempfile.TemporaryDirectory(prefix='holdfast-connect-') as folder:
        os.chmod(folder, 0o755)
        world = World(folder)
        with world.policy_host:
            for part in (promises, submission, closed):
                part(checks, world)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
