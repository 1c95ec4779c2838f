#!/usr/bin/env python3
"""The spool's faults on a real ext4 of its own (a loop-mounted image): full in bytes, full in inodes, read-only, every
write an I/O error; and one failed sync by strace. Reply, journal and metric say the cause; what was acknowledged before is
delivered; nothing is refused. Needs root for the mount; SKIP without."""
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile

from lib import Checks, Client, own_mounts, wait_until
from lib_faults import FaultServer, Mail, expect, expect_accepted, expect_healed, free_port
from lib_hop import NextHop

checks = Checks()
SHUTDOWN = 0x8004587D      # _IOR('X', 125, u32): ext4 and xfs stop the file system at once
NO_LOG_FLUSH = 2


class Disk:
    """An ext4 in a file, mounted in a folder of its own."""

    def __init__(self, megabytes=600, inodes=4096):
        self.folder = tempfile.mkdtemp(prefix='holdfast-disk-')
        self.image, self.at = os.path.join(self.folder, 'image'), os.path.join(self.folder, 'mounted')
        os.mkdir(self.at)
        with open(self.image, 'wb') as file:
            file.truncate(megabytes << 20)
        subprocess.run(['mkfs.ext4', '-q', '-F', '-m', '0', '-N', str(inodes), self.image], check=True)
        self.mount()

    def mount(self):
        subprocess.run(['mount', '-o', 'loop', self.image, self.at], check=True)

    def unmount(self):
        """Who had a file of it open may have ended only just now."""
        wait_until('the disk to be free', lambda: subprocess.run(['umount', self.at], stderr=subprocess.DEVNULL).returncode == 0)

    def abort(self):
        """As the kernel does when it finds an error: the file system becomes read-only under its users."""
        subprocess.run(['mount', '-o', 'remount,abort', self.at], check=True, stderr=subprocess.DEVNULL)

    def shut_down(self):
        """Every further access fails with EIO, and what was not synced is lost."""
        descriptor = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack('I', NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def close(self):
        subprocess.run(['umount', '-l', self.at], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.close()


def takes(hop):
    hop.say('220 hop')
    hop.serve()


def spool_on(disk, extra='', **more):
    """A server whose spool is on that disk and whose mailboxes are not."""
    server = FaultServer(extra, start=False, **more)
    with open(server.config) as file:
        text = file.read()
    with open(server.config, 'w') as file:
        file.write(text.replace(f'spool = "{server.folder}/spool"', f'spool = "{disk.at}/spool"'))
    server.start()
    return server


def refused_until(server, mail, cause):
    """The state of the disk is sampled, not asked for each message: wait until the cause is said."""
    def said():
        reply, _ = mail.play(server)
        assert reply.code < 500, f'refused for a fault of ours: {reply.lines}'
        return f'({cause})' in reply.lines[-1]
    wait_until(f'a reply with {cause}', said)


def full_in_bytes():
    port = free_port()
    relay = (f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{port}" }}\n'
             'retry { schedule = {300ms}  warn_after = 1h  expire_after = 5d  jitter = 0 }')
    with Disk() as disk, spool_on(disk, relay) as server:
        reply, _ = Mail(to='queued@far.example').play(server)
        assert reply.code == 250, reply
        filler = os.path.join(disk.at, 'filler')
        space = os.statvfs(disk.at)
        with open(filler, 'wb') as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (2 << 20))
        refused_until(server, Mail(), 'spool.full')
        expect(server, Mail(), '452 4.3.1', 'spool.full', 'mail')
        with NextHop(takes, port) as hop:
            wait_until('what is queued to be delivered on a full disk', lambda: hop.messages)
        server.wait_events('message.ended', 1)
        os.unlink(filler)
        expect_healed(server, Mail())
        expect_accepted(server, Mail())


def full_in_inodes():
    with Disk(inodes=128) as disk, spool_on(disk) as server:
        expect_accepted(server, Mail())
        folder = os.path.join(disk.at, 'many')
        os.mkdir(folder)
        made = 0
        try:
            while True:
                os.close(os.open(os.path.join(folder, str(made)), os.O_CREAT | os.O_WRONLY))
                made += 1
        except OSError:
            pass
        refused_until(server, Mail(), 'spool.full')
        expect(server, Mail(), '452 4.3.1', 'spool.full', 'mail')
        shutil.rmtree(folder)
        expect_healed(server, Mail())
        expect_accepted(server, Mail())


def broken_disk(break_it, name):
    """Whatever was acknowledged is delivered after a repair and a restart; meanwhile every answer is 4yz."""
    port = free_port()
    relay = (f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{port}" }}\n'
             'retry { schedule = {300ms}  warn_after = 1h  expire_after = 5d  jitter = 0 }')
    with Disk() as disk:
        server = spool_on(disk, relay)
        try:
            for number in range(20):
                reply, _ = Mail(to=f'n{number}@far.example').play(server)
                assert reply.code == 250, reply
            break_it(disk)
            codes = set()
            for _ in range(20):
                reply, where = Mail(to='after@far.example').play(server)
                line = reply.lines[-1]
                assert 400 <= reply.code < 500 and ('spool.failed' in line or 'spool.down' in line), f'{line} at {where}'
                codes.add(line.split()[0])
            assert server.alive(), 'the server ended'
            assert server.metric('holdfast_deferrals_total', side='ours') >= 20
            print(f'# {name}: answered {sorted(codes)}')
            server.kill()
            disk.unmount()
            disk.mount()
            server.start()
            with NextHop(takes, port) as hop:
                wait_until('everything acknowledged', lambda: len({to for _, tos, _ in hop.messages for to in tos}) >= 20)
                reached = {to for _, tos, _ in hop.messages for to in tos}
            assert reached == {f'n{number}@far.example' for number in range(20)}, reached
            expect_accepted(server, Mail())
            server.stop()
        finally:
            server.kill()
            shutil.rmtree(server.folder, ignore_errors=True)


def history_dies():
    """`history` on a disk of its own that dies: mail goes on, the server stops in time, and the next start says what it is."""
    with Disk(megabytes=64) as disk:
        with FaultServer(f'history = "{disk.at}/history"\n') as server:
            expect_accepted(server, Mail())
            disk.shut_down()
            for _ in range(5):
                expect_accepted(server, Mail())
            expect(server, Mail(to='nobody@home.example'), '550 5.1.1', 'recipient.unknown', 'rcpt')
            assert server.run('status')[0] == 0
            server.stop()
            try:
                server.start()
            except AssertionError as fault:
                assert f'{disk.at}/history' in str(fault), fault
            else:
                raise AssertionError('it started without a history')
            disk.unmount()
            disk.mount()
            server.start()
            expect_accepted(server, Mail())


def one_failed_sync():
    """EIO from one fdatasync: the message of that batch is deferred, the next one is taken on a fresh segment."""
    with FaultServer() as server:
        expect_accepted(server, Mail())
        server.wait_events('message.ended', 1)  # or the record of this delivery would get the failed sync
        trace = subprocess.Popen(['strace', '-f', '-qq', '-e', 'trace=fdatasync', '-e', 'inject=fdatasync:error=EIO:when=1',
                                  '-o', os.path.join(server.folder, 'trace'), '-p', str(server.worker_pid)],
                                 stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until('strace to be attached', lambda: attached(server.worker_pid))
            expect(server, Mail(), '451 4.3.0', 'spool.failed', 'dot')
        finally:
            trace.terminate()
            trace.wait()
        expect_healed(server, Mail())
        expect_accepted(server, Mail())
        server.stop()
        server.start()
        with Client(server.address()) as client:
            assert client.command('NOOP').code == 250


def attached(pid):
    for task in os.listdir(f'/proc/{pid}/task'):
        with open(f'/proc/{pid}/task/{task}/status') as file:
            if 'TracerPid:\t0\n' in file.read():
                return False
    return True


def can_mount():
    if os.geteuid() != 0 or not shutil.which('mkfs.ext4'):
        return False
    try:
        with Disk(megabytes=8, inodes=64):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


def main():
    if can_mount():
        own_mounts()
        checks.run('full in bytes: 452 spool.full at MAIL, the queue is still delivered, heals', full_in_bytes)
        checks.run('full in inodes: 452 spool.full at MAIL, heals', full_in_inodes)
        checks.run('read-only under the server: 4yz, nothing acknowledged is lost', lambda: broken_disk(Disk.abort, 'read-only'))
        checks.run('I/O errors: 4yz, nothing acknowledged is lost', lambda: broken_disk(Disk.shut_down, 'EIO'))
        checks.run('the history\'s own disk dies: mail goes on', history_dies)
    else:
        checks.skip('faults of a disk', 'no loop mount here (needs root and mkfs.ext4)')
    if shutil.which('strace'):
        checks.run('one failed sync: 451 spool.failed, then a fresh segment', one_failed_sync)
    else:
        checks.skip('one failed sync', 'strace is not installed')
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
