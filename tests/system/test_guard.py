#!/usr/bin/env python3
"""What somebody who owns the worker can reach: a program that gives up what the worker gives up tries from inside; and the
server's own processes are asked what they have given up. With --table it prints the table of docs/security.md."""
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile

from lib import Checks, Client, Server, wait_until

BUILD = os.environ.get('HOLDFAST_BUILD', os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'build'))
PROGRAM = os.path.join(BUILD, 'tests', 'unit', 'locked_in')
# What is left: everything else has to be refused. Landlock's part depends on the kernel's ABI.
WORKER_CAN = {'make a file in the spool', 'start a thread', 'connect to port 25'}
KEEPER_CAN = set()
FROM_ABI = {'connect to port 22': 4, 'connect to port 6379': 4, 'serve port 2526': 4, 'reach an abstract socket': 6}
ENDED = {'EPERM', 'EACCES', 'ENOSYS', 'ENOMEM', 'EAGAIN'}


class Attempt:
    """A folder with a spool and a key, and what locked_in found there."""

    def __init__(self, user, role=(), own_key=False):
        self.folder = tempfile.mkdtemp(prefix='holdfast-guard-')
        os.chmod(self.folder, 0o755)
        spool, self.key, config = (os.path.join(self.folder, name) for name in ('spool', 'key.pem', 'holdfast.conf'))
        os.mkdir(spool, 0o700)
        with open(self.key, 'w') as file:
            file.write('secret\n')
        os.chmod(self.key, 0o600)
        with open(config, 'w') as file:
            file.write(f'hostname = "mx.test"\nspool = "{spool}"\nuser = "{user}"\nlisten smtp {{ address = "127.0.0.1:0" }}\n')
        if user:
            facts = pwd.getpwnam(user)
            os.chown(spool, facts.pw_uid, facts.pw_gid)
            if own_key:
                os.chown(self.key, facts.pw_uid, facts.pw_gid)
        program = os.path.join(self.folder, 'locked_in')  # where every user may run it
        shutil.copy(PROGRAM, program)
        with socket.socket(socket.AF_UNIX) as outside:
            outside.bind('\0holdfast-outside')
            outside.listen()
            done = subprocess.run([program, config, self.key, *role], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        self.head, *lines = done.stdout.strip().split('\n')
        self.rows = {line[15:]: line[:15].strip() for line in lines}
        shutil.rmtree(self.folder)

    def abi(self):
        return int(re.search(r'landlock (\d+)', self.head).group(1))


def judge(checks, name, attempt, can, abi):
    for what, result in attempt.rows.items():
        if what in can:
            checks.ok(f'{name} can {what}', result == 'ok', result)
        elif FROM_ABI.get(what, 1) > abi:
            checks.skip(f'{name} cannot {what}', f'this kernel has Landlock {abi}')
        else:
            checks.ok(f'{name} cannot {what}', result in ENDED, result)


def table(rows):
    print('| tried | as the worker | as the keeper |\n|---|---|---|')
    for what in rows[0].rows:
        print(f'| {what} | {" | ".join("**can**" if row.rows[what] == "ok" else row.rows[what] for row in rows)} |')


def of_status(pid, name):
    with open(f'/proc/{pid}/status') as file:
        return re.search(rf'^{name}:\s+(.*)$', file.read(), re.M).group(1).split()


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children') as file:
        return [int(word) for word in file.read().split()]


def links(checks, server, uid):
    """Who can write in a mailbox or plant a link cannot lead the server out of its folders."""
    outside, victim = os.path.join(server.folder, 'outside'), os.path.join(server.folder, 'victim')
    os.mkdir(outside)
    os.chown(outside, uid, -1)
    os.symlink(outside, os.path.join(server.folder, 'mail', 'rcpt.test', 'carol'))
    with Client(server.address('smtp')) as client:
        client.command('EHLO c.example')
        client.command('MAIL FROM:<a@b.example>')
        client.command('RCPT TO:<fresh@rcpt.test>')
        with open(os.path.join(server.folder, 'users'), 'a') as file:
            file.write('carol\n')
        wait_until('carol', lambda: client.command('RCPT TO:<carol@rcpt.test>').code == 250)
        client.command('DATA')
        client.command(b'Subject: x\r\n\r\nx\r\n.')
    deferred = server.wait_events('delivery.deferred', 1, to='carol@rcpt.test')
    checks.ok('a mailbox that is a link to elsewhere gets nothing, and the mail waits', not os.listdir(outside), deferred[0])
    spool = os.path.join(server.folder, 'spool')
    checks.ok('the spool is for its user alone', stat.S_IMODE(os.stat(spool).st_mode) == 0o700)
    loose = [name for name in os.listdir(spool) if os.path.isfile(f'{spool}/{name}') and os.stat(f'{spool}/{name}').st_mode & 0o077 and not name.endswith(('.db', '-wal', '-shm'))]
    checks.ok('and so are the files of its log', not loose, loose)
    server.stop()
    with open(victim, 'w') as file:
        file.write('precious\n')
    os.chown(victim, uid, -1)
    os.symlink(victim, os.path.join(spool, 'control'))
    server.start()
    with open(victim) as file:
        checks.ok('a link in place of the control socket is taken away, what it points to is not', file.read() == 'precious\n' and not os.path.islink(os.path.join(spool, 'control')))


def running_server(checks):
    """As root with a user of its own: keys for root only, a users file in a folder that the locks do not open."""
    if os.geteuid() != 0:
        checks.skip('the server as another user', 'not started by root')
        return
    with Server(extra='user = "nobody"\n', start=False) as server:
        os.chmod(server.folder, 0o755)
        os.chmod(os.path.join(server.folder, 'key.pem'), 0o600)
        os.chmod(os.path.join(server.folder, 'users'), 0o600)  # root's: the parent opens it
        shutil.rmtree(os.path.join(server.folder, 'mail'))
        server.start()
        worker, uid = server.worker_pid, pwd.getpwnam('nobody').pw_uid
        keeper = next(pid for pid in children(server.process.pid) if pid != worker)
        for name, pid in (('worker', worker), ('keeper', keeper)):
            checks.ok(f'the {name} runs as its user', set(of_status(pid, 'Uid')) == {str(uid)}, of_status(pid, 'Uid'))
            checks.ok(f'the {name} has no capabilities', all(int(of_status(pid, f'Cap{kind}')[0], 16) == 0 for kind in ('Prm', 'Eff', 'Inh', 'Amb')))
            checks.ok(f'the {name} has no new privileges and a filter', of_status(pid, 'NoNewPrivs') == ['1'] and of_status(pid, 'Seccomp') == ['2'])
        held = [os.readlink(f'/proc/{worker}/fd/{name}') for name in os.listdir(f'/proc/{worker}/fd')]
        checks.ok('the worker holds no file but of its spool', not [path for path in held if path.startswith('/') and not path.startswith((server.folder + '/spool', '/dev/null'))
                                                                      and 'memfd' not in path], held)
        with Client(server.address('smtps'), tls=True) as client:
            client.command('EHLO c.example')
            for line, code in (('MAIL FROM:<a@b.example>', 250), ('RCPT TO:<nobody-there@rcpt.test>', 550), ('RCPT TO:<alice@rcpt.test>', 250), ('DATA', 354)):
                reply = client.command(line)
                checks.ok(f'{line} with keys and users of root', reply.code == code, reply)
            checks.ok('a message is taken', client.command(b'Subject: x\r\n\r\nx\r\n.').code == 250)
        mail = server.wait_mails('alice', 1)
        checks.ok('and delivered by the user', len(mail) == 1 and os.stat(f'{server.folder}/mail/rcpt.test/alice').st_uid == uid)
        replaced = os.path.join(server.folder, 'users.new')
        with open(replaced, 'w') as file:
            file.write('fresh\n')
        os.chmod(replaced, 0o600)
        os.rename(replaced, os.path.join(server.folder, 'users'))

        def fresh():
            with Client(server.address('smtp')) as client:
                client.command('EHLO c.example')
                client.command('MAIL FROM:<a@b.example>')
                return client.command('RCPT TO:<fresh@rcpt.test>').code == 250
        checks.ok('a users file that was replaced is read', wait_until('the new user', fresh))
        links(checks, server, uid)
        control = os.path.join(server.folder, 'spool', 'control')
        code = subprocess.run([sys.executable, '-c', 'import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); '
                               's.sendall(b\'{"do":"status"}\\n\'); sys.exit(0 if s.recv(10) else 9)', control], stderr=subprocess.DEVNULL).returncode
        checks.ok('the control socket answers root', code == 0, code)
        os.chmod(os.path.join(server.folder, 'spool'), stat.S_IRWXU | stat.S_IXOTH)
        os.chmod(control, 0o777)
        other = pwd.getpwnam('daemon').pw_uid
        code = subprocess.run([sys.executable, '-c', 'import os,socket,sys; os.setuid(int(sys.argv[2])); s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n'
                               'try: s.sendall(b\'{"do":"status"}\\n\'); got=s.recv(10)\nexcept OSError: got=b""\nsys.exit(0 if got else 9)', control, str(other)]).returncode
        checks.ok('and nobody else, whatever the mode of its file', code == 9, code)
        checks.ok('status says what is locked', 'Landlock' in server.run('status')[1] and 'seccomp' in server.run('status')[1])


def main():
    checks = Checks()
    if not os.path.exists(PROGRAM):
        checks.skip('locked_in', f'{PROGRAM} is absent')
        raise SystemExit(checks.done())
    user = 'nobody' if os.geteuid() == 0 else ''
    # The key belongs to the worker's own user in one of them: then only the locks stand before it.
    worker, owner, keeper = Attempt(user), Attempt(user, own_key=True), Attempt(user, ('keeper',))
    if sys.argv[1:] == ['--table']:
        table((worker, keeper))
        return
    judge(checks, 'worker', worker, WORKER_CAN, worker.abi())
    judge(checks, 'worker who owns the key', owner, WORKER_CAN, worker.abi())
    judge(checks, 'keeper', keeper, KEEPER_CAN, 7)
    running_server(checks)
    raise SystemExit(checks.done())


if __name__ == '__main__':
    main()
