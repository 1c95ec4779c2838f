#!/usr/bin/env python3
"""Installing: what `./run install` lays down, that the configuration it writes is fine and serves, and what a service manager
is told (the datagrams of sd_notify)."""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from lib import HOLDFAST, PATIENCE_S, ROOT, Checks, Client, Server

checks = Checks()
BUILD = os.environ.get('HOLDFAST_BUILD', os.path.dirname(os.path.abspath(HOLDFAST)))


def install(root):
    return subprocess.run(['sh', 'scripts/install.sh', BUILD, '--prefix', '/usr/local'], cwd=ROOT, env={**os.environ, 'DESTDIR': root},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)


def check_files(root):
    done = install(root)
    checks.ok('installs below DESTDIR', done.returncode == 0, done.stdout)
    expected = ('usr/local/bin/holdfast', 'usr/local/share/man/man8/holdfast.8', 'usr/local/share/man/man5/holdfast.conf.5',
                'usr/local/lib/systemd/system/holdfast.service', 'etc/holdfast/holdfast.conf', 'etc/holdfast/users', 'etc/holdfast/aliases')
    missing = [name for name in expected if not os.path.isfile(os.path.join(root, name))]
    checks.ok('everything is there', not missing, missing)
    config = os.path.join(root, 'etc/holdfast/holdfast.conf')
    with open(config, 'a') as file:
        file.write('# ours\n')
    again = install(root)
    with open(config) as file:
        checks.ok('a configuration that is there is kept', again.returncode == 0 and file.read().endswith('# ours\n'), again.stdout)


def check_manual(root):
    """Every command and every setting has its entry, and roff has nothing to complain about."""
    with open(os.path.join(ROOT, 'src/app/commands.def')) as file:
        words = re.findall(r'^COMMAND\("(\w[\w-]*)"', file.read(), re.M)
    with open(os.path.join(root, 'usr/local/share/man/man8/holdfast.8')) as file:
        page = file.read().replace('\\-', '-')
    checks.ok('holdfast(8) has every command', words and all(f'\n.B {word} ' in page for word in words), [word for word in words if f'\n.B {word} ' not in page])
    if not shutil.which('groff'):
        checks.skip('the pages are well-formed', 'no groff')
        return
    for name in ('man8/holdfast.8', 'man5/holdfast.conf.5'):
        done = subprocess.run(['groff', '-man', '-Tutf8', '-ww', os.path.join(root, 'usr/local/share/man', name)], capture_output=True, text=True, timeout=60)
        checks.ok(f'{name} is well-formed', done.returncode == 0 and not done.stderr, done.stderr[:300])


def check_unit(root):
    unit = os.path.join(root, 'usr/local/lib/systemd/system/holdfast.service')
    if not shutil.which('systemd-analyze'):
        checks.skip('systemd takes the unit', 'no systemd-analyze')
        return
    with open(unit) as file:
        text = file.read()
    copy = os.path.join(root, 'holdfast.service')
    with open(copy, 'w') as file:
        file.write(text.replace('/usr/local/bin/holdfast', os.path.join(root, 'usr/local/bin/holdfast')))
    done = subprocess.run(['systemd-analyze', 'verify', '--man=no', copy], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if 'holdfast' in line]
    checks.ok('systemd takes the unit', not ours, ours)


def check_configuration(root):
    """As written, but for what belongs to the machine: port, places, user."""
    config = os.path.join(root, 'etc/holdfast/holdfast.conf')
    binary = os.path.join(root, 'usr/local/bin/holdfast')
    done = subprocess.run([binary, 'config', 'check', '-c', config], capture_output=True, text=True, timeout=60)
    checks.ok('the configuration as installed is fine', done.returncode == 0, done.stderr)
    with open(config) as file:
        text = file.read()
    name = re.search(r'domain "(.*?)"', text).group(1)
    for old, new in (('"0.0.0.0:25"', '"127.0.0.1:0"'), ('"127.0.0.1:8025"', '"127.0.0.1:0"'), ('/var/spool/', f'{root}/'), ('/var/mail/', f'{root}/mail/'),
                     ('user     = "holdfast"\n', ''), ('/etc/holdfast/', f'{root}/etc/holdfast/')):
        assert old in text, f'{old} is not in the configuration'
        text = text.replace(old, new)
    with Server(text=text) as server:
        with Client(server.address('smtp')) as client:
            client.command('EHLO c.example')
            client.command('MAIL FROM:<a@b.example>')
            reply = client.command(f'RCPT TO:<abuse@{name}>')
            checks.ok('and serves: the alias abuse leads to postmaster', reply.code == 250, reply)


class Manager:
    """The socket of a service manager."""

    def __init__(self, folder):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.path = os.path.join(folder, 'notify')
        self.socket.bind(self.path)
        self.socket.settimeout(PATIENCE_S)

    def hear(self):
        return dict(line.split('=', 1) for line in self.socket.recv(4096).decode().splitlines())


def check_notify(folder):
    manager = Manager(folder)
    os.environ['NOTIFY_SOCKET'] = manager.path
    try:
        server = Server()
    finally:
        del os.environ['NOTIFY_SOCKET']
    with server:
        said = manager.hear()
        checks.ok('READY=1 when it serves', said.get('READY') == '1', said)
        with Client(server.address('smtp')) as client:
            checks.ok('and it does', client.banner.code == 220, client.banner)
        server.process.send_signal(signal.SIGHUP)
        said = manager.hear()
        checks.ok('a reload begins', said.get('RELOADING') == '1' and said.get('MONOTONIC_USEC', '').isdigit(), said)
        said = manager.hear()
        checks.ok('and ends', said.get('READY') == '1', said)
        with open(server.config, 'a') as file:
            file.write('nonsense = 1\n')
        server.process.send_signal(signal.SIGHUP)
        said = [manager.hear(), manager.hear()]
        checks.ok('one that is refused ends, too', 'RELOADING' in said[0] and said[1].get('READY') == '1', said)
        server.process.send_signal(signal.SIGTERM)
        said = manager.hear()
        checks.ok('STOPPING=1 at the end', said.get('STOPPING') == '1', said)


def main():
    folder = tempfile.mkdtemp(prefix='holdfast-install-')
    try:
        root = os.path.join(folder, 'root')
        check_files(root)
        check_manual(root)
        check_unit(root)
        check_configuration(root)
        check_notify(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
