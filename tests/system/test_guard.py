#!/usr/bin/env python3
"""What somebody who owns the worker can reach: a program that gives up what the worker gives up tries from inside; and the
server's own processes are asked what they have given up. With --table it prints the table of docs/security.md."""
import ctypes
import errno
import os
import pwd
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile

from lib import Checks, Client, Server, wait_until

BUILD = os.environ.get('HOLDFAST_BUILD', os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'build'))
PROGRAM = os.path.join(BUILD, 'tests', 'unit', 'locked_in')
PIDFD_GETFD, BROKER = 438, 4        # of x86-64 and of all others; processes.h
# What is left: everything else has to be refused. Landlock's part depends on the kernel's ABI.
WORKER_CAN = {'make a file in the spool', 'start a thread', 'connect to port 25'}
KEEPER_CAN = set()
# Who starts programs of the operator's can what they can; what they cannot is what no delivery needs. 'join a group': before it has become the command's user.
STARTER_CAN = {'read the configuration', 'list /', 'make a file in /tmp', 'move a file from folder to folder', 'start a program', 'start a process', 'raise a limit', 'dump core again',
               'start a thread', 'map memory to run', 'make memory run', 'take 64 GiB', 'connect to port 25', 'connect to port 22', 'connect to port 6379', 'serve port 2526'}
RUNNER_CAN = STARTER_CAN | {'make a file in the spool', 'become the user of a command', 'join a group'}
COMMAND_CAN = STARTER_CAN - {'take 64 GiB'} | {'become the user of a command'}         # it is he
HELD_CAN = COMMAND_CAN - {'make a file in /tmp', 'move a file from folder to folder', 'connect to port 25', 'connect to port 22', 'connect to port 6379', 'serve port 2526'}
FROM_ABI = {'connect to port 22': 4, 'connect to port 6379': 4, 'serve port 2526': 4, 'reach an abstract socket': 6}
RUNNER_FROM_ABI = {'signal the parent': 6, "signal the parent's thread": 6, 'reach an abstract socket': 6}
ENDED = {'EPERM', 'EACCES', 'ENOSYS', 'ENOMEM', 'EAGAIN', 'EXDEV'}     # EXDEV: Landlock's answer to a link that would widen what may be done
# What somebody with every right is told by the kernel itself, since the try is not a whole one: no module, no programme, no terminal.
FREE_TELLS = {'load a module': {'EBADF', 'EINVAL', 'ENOEXEC'}, 'bpf': {'EINVAL', 'EFAULT', 'E2BIG'}, 'perf events': {'EINVAL', 'ENOENT', 'E2BIG', 'EOPNOTSUPP'},
              'io_uring': {'EFAULT', 'EINVAL'}, 'put a letter into a terminal': {'ENOTTY', 'EIO'}, 'the keyring': {'ENOKEY'}}
# What a container or a machine without the feature may refuse even so.
MAY_BE_ABSENT = {'load a module', 'mount', 'a new user namespace', 'bpf', 'perf events', 'io_uring', 'userfaultfd', 'the keyring', "use the kernel's ciphers",
                 'put a letter into a terminal', 'ptrace the parent', 'take 64 GiB', "open the parent's memory", "read the parent's memory"}


def rows_of(text):
    head, *lines = text.strip().split('\n')
    return head, {line[15:]: line[:15].strip() for line in lines}


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
            file.write(f'hostname = "mx.test"\nspool = "{spool}"\nuser = "{user}"\nlisten smtp {{ address = "127.0.0.1:0" }}\n'
                       + ('pipe "x" { command = {"/bin/true"}  user = "daemon" }\n' if user else ''))
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
        self.head, self.rows = rows_of(done.stdout)
        shutil.rmtree(self.folder)

    def abi(self):
        return int(re.search(r'landlock (\d+)', self.head).group(1))


def judge(checks, name, rows, can, abi, from_abi=FROM_ABI):
    for what, result in rows.items():
        if what in can:
            checks.ok(f'{name} can {what}', result == 'ok', result)
        elif from_abi.get(what, 1) > abi:
            checks.skip(f'{name} cannot {what}', f'this kernel has Landlock {abi}')
        else:
            checks.ok(f'{name} cannot {what}', result in ENDED, result)


def can_fail(checks, attempt):
    """Without a lock each try succeeds: so a "cannot" says something about the locks, and would fail without them."""
    for what, result in attempt.rows.items():
        if result != 'ok' and result not in FREE_TELLS.get(what, ()) and what in MAY_BE_ABSENT:
            print(f'# nobody can {what} on this machine: {result}')
        else:
            checks.ok(f'who gave up nothing can {what}', result == 'ok' or result in FREE_TELLS.get(what, ()), result)


def table(columns):
    print('| tried | as the worker | as the keeper | as the runner | as a command | `writes`, `network = no` |\n' + '|---' * (len(columns) + 1) + '|')
    for what in columns[0]:
        print(f'| {what} | {" | ".join("**can**" if rows[what] in ("ok", "-") else rows[what] for rows in columns)} |')


PIPES = '''pipe "free" { command = {"{folder}/try.sh", "free"}  user = "daemon" }
pipe "held" { command = {"{folder}/try.sh", "held"}  user = "daemon"  writes = {"{folder}/out"}  network = no }
pipe "slow" { command = {"/bin/sleep", "600"}  user = "daemon" }
operator { command = "{folder}/try.sh operator" }
incidents { notice = 100ms }
domain "free.test" { deliver = "pipe:free" }
domain "held.test" { deliver = "pipe:held" }
domain "slow.test" { deliver = "pipe:slow" }
pipe "gone" { command = {"/no-such-program"}  user = "daemon" }
domain "gone.test" { deliver = "pipe:gone" }
'''


class Commands:
    """A running server whose commands try what they can, from inside; and who watches over one that runs."""

    def __init__(self, checks, abi):
        self.rows = {}
        with Server(extra='user = "nobody"\n' + PIPES, start=False) as server:
            os.chmod(server.folder, 0o755)
            for name in ('key.pem', 'users'):
                os.chmod(os.path.join(server.folder, name), 0o600)
            os.mkdir(f'{server.folder}/out')
            os.chmod(f'{server.folder}/out', 0o777)
            shutil.copy(PROGRAM, f'{server.folder}/locked_in')
            with open(f'{server.folder}/try.sh', 'w') as file:
                file.write(f'#!/bin/sh\n{server.folder}/locked_in {server.config} {server.folder}/key.pem inside $(cat {server.folder}/pid) >{server.folder}/out/$1.part 2>&1\n'
                           f'kill -0 $PPID; echo $? >{server.folder}/out/$1.kill\n'
                           f'cat /proc/self/status >{server.folder}/out/$1.status\nmv {server.folder}/out/$1.part {server.folder}/out/$1\n')
            os.chmod(f'{server.folder}/try.sh', 0o755)
            server.start()
            with open(f'{server.folder}/pid', 'w') as file:
                file.write(str(server.process.pid))
            with socket.socket(socket.AF_UNIX) as outside:
                outside.bind('\0holdfast-outside')
                outside.listen()
                for name in ('free', 'held', 'slow', 'gone'):
                    self.send(server, name)
                for name in ('free', 'held', 'operator'):
                    path = f'{server.folder}/out/{name}'
                    wait_until(path, lambda: os.path.exists(path))
                    self.rows[name] = rows_of(open(path).read())[1]
                    with open(f'{path}.status') as file:
                        text = file.read()
                    checks.ok(f'{name}: no new privileges, a filter, no capability', re.search(r'^NoNewPrivs:\s+1$', text, re.M) and re.search(r'^Seccomp:\s+2$', text, re.M)
                              and not re.search(r'^Cap(Prm|Eff|Bnd):\s+0*[1-9a-f]', text.replace('CapBnd', '' if name == 'operator' else 'CapBnd').replace('00000000000000e0', '0'), re.M), text)
            if abi >= 6:
                checks.ok('a command cannot signal who watches over it', open(f'{server.folder}/out/free.kill').read() == '1\n')
            self.watched(checks, server)

    @staticmethod
    def send(server, name):
        with Client(server.address('smtp')) as client:
            for line in ('EHLO c.example', 'MAIL FROM:<a@b.example>', f'RCPT TO:<x@{name}.test>', 'DATA', b'Subject: x\r\n\r\nx\r\n.'):
                reply = client.command(line)
                assert reply.code in (250, 354), reply

    @staticmethod
    def watched(checks, server):
        daemon, nobody = pwd.getpwnam('daemon').pw_uid, pwd.getpwnam('nobody').pw_uid

        def find(pid, name):
            return next((child for child in children(pid) if open(f'/proc/{child}/comm').read().strip() == name), None)
        others = [pid for pid in children(server.process.pid) if pid != server.worker_pid]
        runner = next(pid for pid in others if of_status(pid, 'CapEff') == ['00000000000000e0'])
        checks.ok('the runner is the user of the server, with three powers', set(of_status(runner, 'Uid')) == {str(nobody)} and of_status(runner, 'CapPrm') == ['00000000000000e0']
                  and of_status(runner, 'CapBnd') == ['00000000000000e0'])
        checks.ok('the runner has no new privileges and a filter', of_status(runner, 'NoNewPrivs') == ['1'] and of_status(runner, 'Seccomp') == ['2'])
        closed_memory(checks, 'runner', runner, nobody)
        watcher = wait_until('a watcher', lambda: next((pid for pid in children(runner) if find(pid, 'sleep')), None))
        checks.ok('who watches over a command is its user, without powers', set(of_status(watcher, 'Uid')) == {str(daemon)} and of_status(watcher, 'CapPrm') == ['0000000000000000'])
        wait_until('its own filter, too', lambda: int(of_status(watcher, 'Seccomp_filters')[0]) == int(of_status(runner, 'Seccomp_filters')[0]) + 1)
        checks.ok('and it starts and opens nothing any more', True)
        closed_memory(checks, 'watcher', watcher, daemon)
        command = find(watcher, 'sleep')
        checks.ok('the command has a session of its own', os.getsid(command) == command)
        os.kill(watcher, 9)
        wait_until('the command to end with its watcher', lambda: not os.path.exists(f'/proc/{command}'))


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


# As the worker's own user, from outside: its memory, its environment, and to stop it.
LOOK = """
import ctypes, os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
got = []
for name in ('mem', 'environ', 'auxv', 'maps'):
    try:
        with open(f'/proc/{sys.argv[1]}/{name}', 'rb') as file:
            file.read(1) if name != 'mem' else None
        got.append(name)
    except OSError:
        pass
if ctypes.CDLL(None, use_errno=True).ptrace(0x4206, int(sys.argv[1]), None, None) == 0:     # PTRACE_SEIZE
    got.append('ptrace')
print(' '.join(got))
"""


def closed_memory(checks, name, pid, uid):
    """Secrets leave a process by a core file or a debugger, too."""
    with open(f'/proc/{pid}/limits') as file:
        checks.ok(f'the {name} leaves no core file', re.search(r'^Max core file size\s+0\s+0\s', file.read(), re.M))
    done = subprocess.run([sys.executable, '-c', LOOK, str(pid), str(uid)], capture_output=True, text=True)
    checks.ok(f"its own user looks into the {name}'s memory from nowhere", done.returncode == 0 and done.stdout.strip() == '', done.stdout + done.stderr)
    # The same look at a process that is not closed finds all of it, or the check would say nothing.
    plain = subprocess.Popen([sys.executable, '-c', f'import os; os.setgid({uid}); os.setuid({uid}); os.execv("/bin/sleep", ["sleep", "60"])'])
    try:
        wait_until('a plain process', lambda: set(of_status(plain.pid, 'Uid')) == {str(uid)} and 'sleep' in open(f'/proc/{plain.pid}/comm').read())
        done = subprocess.run([sys.executable, '-c', LOOK, str(plain.pid), str(uid)], capture_output=True, text=True)
        checks.ok('and would see a process that is not closed', 'environ' in done.stdout, done.stdout + done.stderr)
    finally:
        plain.kill()
        plain.wait()


def ask_parent(broker, path):
    """As the worker would (channel.c): a number and a path go, the number and a descriptor or an error come."""
    broker.send(struct.pack('I', 7) + path.encode())
    data, ancillary, _, _ = broker.recvmsg(16, socket.CMSG_SPACE(4))
    if ancillary:
        descriptor, = struct.unpack('i', ancillary[0][2][:4])
        os.close(descriptor)
        return 'ok'
    return errno.errorcode.get(struct.unpack('Ii', data)[1], '?')


def parent_gives(checks, server):
    """Who owns the worker owns its line to the parent: it is taken out of the worker, and asked for what it must not give."""
    pidfd = os.pidfd_open(server.worker_pid)
    stolen = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, BROKER, 0)
    os.close(pidfd)
    if stolen < 0:
        checks.skip("the worker's line to the parent", os.strerror(ctypes.get_errno()))
        return
    with socket.socket(fileno=stolen) as broker:
        users = os.path.join(server.folder, 'users')
        checks.ok('the parent opens the file of users for the worker', ask_parent(broker, users) == 'ok')
        for path in ('/etc/shadow', os.path.join(server.folder, 'key.pem'), server.config, users + '/../key.pem', f'{server.folder}/./users',
                     f'{server.folder}//users', '/proc/self/mem', '/', '.', users + '\0/etc/shadow'):
            answer = ask_parent(broker, path)
            fine = answer != 'ok' or path.split('\0')[0] == users        # a NUL ends a path
            checks.ok(f'and not {path.replace(server.folder, "...")!r}', fine, answer)


def no_user(checks):
    with Server() as server:
        told = any('started by root without `user`: the worker stays root' in line for line in server.lines)
        checks.ok('root without `user` stays root, and says so' if os.geteuid() == 0 else 'who is not root has nothing to give up', told == (os.geteuid() == 0))
        checks.ok('and is locked in all the same', of_status(server.worker_pid, 'NoNewPrivs') == ['1'] and of_status(server.worker_pid, 'Seccomp') == ['2'])


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
            closed_memory(checks, name, pid, uid)
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
        parent_gives(checks, server)
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
    abi = worker.abi()
    if os.geteuid() == 0:
        runner, commands = Attempt(user, ('runner',)), Commands(checks, abi)
        judge(checks, 'runner', runner.rows, RUNNER_CAN, abi, RUNNER_FROM_ABI)
        judge(checks, 'command', commands.rows['free'], COMMAND_CAN, abi, RUNNER_FROM_ABI)
        judge(checks, 'command with `writes` and no network', commands.rows['held'], HELD_CAN, abi, RUNNER_FROM_ABI)
        judge(checks, "operator's command", commands.rows['operator'], STARTER_CAN | {'make a file in the spool'}, abi, RUNNER_FROM_ABI)
    if sys.argv[1:] == ['--table']:
        table((worker.rows, keeper.rows, runner.rows, commands.rows['free'], commands.rows['held']))
        return
    judge(checks, 'worker', worker.rows, WORKER_CAN, abi)
    judge(checks, 'worker who owns the key', owner.rows, WORKER_CAN, abi)
    judge(checks, 'keeper', keeper.rows, KEEPER_CAN, 7)
    if os.geteuid() == 0:
        can_fail(checks, Attempt(user, ('free',)))
    else:
        checks.skip('who gave up nothing', 'not started by root')
    running_server(checks)
    no_user(checks)
    raise SystemExit(checks.done())


if __name__ == '__main__':
    main()
