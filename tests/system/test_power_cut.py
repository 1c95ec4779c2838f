#!/usr/bin/env python3
"""Power cuts on real file systems. The spool works on an ext4 or xfs whose device (logdisk.c: a FUSE file under a loop device)
logs every write and every flush, and, in the same order, what the program said. From that log come the disks that a power cut could
have left: all that was flushed, and a random part of what was written since, in sectors. Each is mounted (the file
system recovers), the spool is opened, and what was acknowledged before the cut has to be there, whole and once. Some of these disks are
logged themselves while file system and spool recover, and cut again.

The same for the whole server with its mailboxes on that disk: each message that was answered 250 before the cut has to be in its
mailbox once after the next start, whole, and no other one more than once.

    test_power_cut.py [--draws N] [--seconds N] [--only ext4|xfs] [--of spool|server] [--seed N] [--keep FOLDER] [--write]

--keep: disks on which something was missing stay there, as the cut left them. A plain run tries a slice of the boundaries; with --draws (or HOLDFAST_FULL=1) every one. Needs root, FUSE and loop devices."""
import argparse
import datetime
import glob
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import ROOT, Client, own_mounts, wait_until  # noqa: E402
from lib_faults import FaultServer, queued  # noqa: E402
from spool_crash import DRIVER, Said, compare  # noqa: E402

LOGDISK = os.path.join(os.path.dirname(DRIVER), 'logdisk')
WRITE, SYNC, MARK = 1, 2, 3
SECTOR = 4096
SLICE_S = 18            # of each file system and each of both, in a plain run
MESSAGES = 60
CUTS_AGAIN = 3          # of each recovery that is logged
PATIENCE_S = 120        # for the mail of a server that has recovered: what is not there by then is not on its way
LETTERS, USERS = 24, ('alice', 'bob')
LETTER = 'Subject: power\r\n\r\nThis is number {number}\r\n' + 'x' * 70 + '\r\nend\r\n'
SYSTEMS = {'ext4': (96 << 20, ['mkfs.ext4', '-q', '-F', '-m', '0']), 'xfs': (320 << 20, ['mkfs.xfs', '-q', '-f'])}
MEMORY = '/dev/shm' if os.path.isdir('/dev/shm') else None


def call(*words):
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout.strip()


def spool_works(mounted, mark):
    subprocess.run([DRIVER, 'work', os.path.join(mounted, 'spool'), str(MESSAGES)], stdout=mark, stderr=subprocess.DEVNULL, check=True, timeout=120)


def spool_recovers(mounted, mark):
    subprocess.run([DRIVER, 'check', os.path.join(mounted, 'spool')], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)


class Work:
    """Somebody at work on a logged disk; afterwards only the log is left: self.entries. image: the disk is not made anew."""

    def __init__(self, folder, system, size, work, image=None):
        self.size, log = size, os.path.join(folder, f'{system}.log')
        doors, mounted = os.path.join(folder, 'doors'), os.path.join(folder, 'at')
        os.makedirs(doors, exist_ok=True)
        os.makedirs(mounted, exist_ok=True)
        daemon = subprocess.Popen([LOGDISK, str(size), log, doors, *([image] if image else [])])
        loop = None
        try:
            wait_until('the logged disk', lambda: os.path.exists(os.path.join(doors, 'disk')))
            loop = call('losetup', '-f', '--show', os.path.join(doors, 'disk'))
            if not image:
                call(*SYSTEMS[system][1], loop)
            call('mount', loop, mounted)
            try:
                with open(os.path.join(doors, 'mark'), 'ab', buffering=0) as mark:
                    work(mounted, mark)
            finally:
                call('umount', mounted)
        finally:
            if loop:
                call('losetup', '-d', loop)
            call('umount', doors)
            daemon.wait(30)
        with open(log, 'rb') as file:
            self.entries = list(self._parse(file.read()))
        os.remove(log)

    @staticmethod
    def _parse(data):
        at = 0
        while at + 16 <= len(data):
            kind, length, offset = data[at], *struct.unpack_from('<IQ', data, at + 4)
            yield kind, offset, data[at + 16:at + 16 + length]
            at += 16 + length

    def windows(self):
        """[(first, end)]: the entries behind one sync up to and without the next."""
        syncs = [number for number, (kind, _, _) in enumerate(self.entries) if kind == SYNC]
        return list(zip([0, *(number + 1 for number in syncs)], [*syncs, len(self.entries)]))

    def said(self, end):
        text = b''.join(data for kind, _, data in self.entries[:end] if kind == MARK).decode()
        return [line.split() for line in text.split('\n')[:-1] if line]


def put(image, offset, data):
    image.seek(offset)
    image.write(data)


def tear(image, work, first, end, chance, share):
    """Of what was written in the window, a part: whole writes, or sectors of them. `share` None: all of it."""
    for kind, offset, data in work.entries[first:end]:
        if kind == WRITE and share is None:
            put(image, offset, data)
        if kind != WRITE or share is None or chance.random() >= share:
            continue
        if chance.random() < 0.7:
            put(image, offset, data)
            continue
        for at in range(0, len(data), SECTOR):
            if chance.random() < 0.5:
                put(image, offset + at, data[at:at + SECTOR])


def mounted_at(folder, image, look):
    """What `look(mounted)` finds on what a cut left. Problems as text."""
    mounted = os.path.join(folder, 'cut')
    os.makedirs(mounted, exist_ok=True)
    made = subprocess.run(['mount', '-o', 'loop', image, mounted], capture_output=True, text=True)
    if made.returncode != 0:
        return [f'the file system cannot be mounted: {made.stderr.strip()}']
    try:
        return look(mounted)
    finally:
        wait_until('the disk to be free', lambda: subprocess.run(['umount', mounted], stderr=subprocess.DEVNULL).returncode == 0)


class Spool:
    """The spool alone."""

    name, size = '{}', lambda self, system: SYSTEMS[system][0]
    works = staticmethod(spool_works)

    def promised(self, work, until):
        said = Said(work.said(until))
        return said, len(said.acked)

    def look(self, folder, image, said):
        def inside(mounted):
            if not os.path.isdir(os.path.join(mounted, 'spool')) and not said.acked:
                return []
            found = []
            for _ in range(2):      # the second opening has to read what the first one did
                done = subprocess.run([DRIVER, 'check', os.path.join(mounted, 'spool')], capture_output=True, text=True, timeout=60)
                found.append([line.split() for line in done.stdout.split('\n') if line])
            problems = compare(said, found[0])
            if sorted(found[0]) != sorted(found[1]):
                problems.append('opened twice, read differently')
            return problems
        return mounted_at(folder, image, inside)

    def again(self, folder, system, image, said, chance, result):
        """The recovery is logged and cut in turn; what was promised has to survive that as well."""
        work = Work(folder, system, self.size(system), spool_recovers, image)
        windows = work.windows()
        for first, last in chance.sample(windows, min(CUTS_AGAIN, len(windows))):
            second, until = image + '.again', chance.randint(first, last)
            call('cp', '--sparse=always', image, second)
            with open(second, 'r+b') as torn:
                tear(torn, work, 0, first, chance, None)
                tear(torn, work, first, until, chance, chance.choice((0, 0.3, 0.7, 1)))
            result.again += 1
            yield from (f'cut again at entry {until} of {len(work.entries)} of the recovery: {problem}' for problem in self.look(folder, second, said))
            os.remove(second)


class House:
    """The whole server, its mailboxes on the same disk."""

    name = '{}, the server and its mailboxes'

    def size(self, system):
        return 420 << 20

    @staticmethod
    def server(mounted):
        return FaultServer(folder=os.path.join(mounted, 'house'), web=0, secure=False)

    @classmethod
    def works(cls, mounted, mark):
        os.makedirs(os.path.join(mounted, 'house'))
        with cls.server(mounted) as server:
            wait_until('both spares', lambda: os.path.exists(os.path.join(mounted, 'house/spool/log/spare-1')))
            mark.write(b'opened\n')
            with Client(server.address()) as client:
                client.command('EHLO client.example')
                for number in range(LETTERS):
                    client.command('MAIL FROM:<a@client.example>')
                    client.command(f'RCPT TO:<{USERS[number % len(USERS)]}@home.example>')
                    client.command('DATA')
                    if client.command(LETTER.format(number=number) + '.').code == 250:
                        mark.write(f'acked {number}\n'.encode())
            wait_until('all to be delivered', lambda: queued(os.path.join(server.folder, 'spool')) == 0)

    def promised(self, work, until):
        acked = {int(words[1]) for words in work.said(until) if words[0] == 'acked'}
        return acked, len(acked)

    @staticmethod
    def counts(server):
        """{number: how often it is there}; -1: those that are not whole."""
        seen = {}
        for mail in (mail.decode(errors='replace').replace('\r\n', '\n') for user in USERS for mail in server.mails(user, 'home.example')):
            found = re.search(r'number (\d+)\n', mail)
            number = int(found.group(1)) if found and LETTER.format(number=found.group(1)).replace('\r\n', '\n') in mail else -1
            seen[number] = seen.get(number, 0) + 1
        return seen

    def look(self, folder, image, acked):
        def inside(mounted):
            with self.server(mounted) as server:
                try:
                    wait_until('all of them', lambda: acked <= set(self.counts(server)), PATIENCE_S)
                except AssertionError:
                    pass        # it is said below what is lost
                wait_until('the queue to be empty', lambda: queued(os.path.join(server.folder, 'spool')) == 0, PATIENCE_S)
                seen = self.counts(server)
            problems = [f'{count} mails are not whole' for number, count in seen.items() if number < 0]
            problems += [f'{number} was acknowledged and is lost' for number in acked if number not in seen]
            problems += [f'{number} is there {count} times' for number, count in seen.items() if number >= 0 and count > 1]
            if problems:
                problems.append('the journal: ' + ' | '.join(server.lines))
            return problems
        return mounted_at(folder, image, inside)

    def again(self, folder, system, image, said, chance, result):
        return []


KINDS = {'spool': Spool(), 'server': House()}


class Result:
    def __init__(self, system):
        self.system, self.syncs, self.writes, self.boundaries, self.images, self.again, self.acked, self.problems = system, 0, 0, 0, 0, 0, 0, []


def cut(kind, folder, system, draws, seconds, chance, keep):
    work = Work(folder, system, kind.size(system), kind.works)
    windows = [window for window in work.windows() if any(entry == WRITE for entry, _, _ in work.entries[window[0]:window[1]])]
    opened = next((number for number, (entry, _, data) in enumerate(work.entries) if entry == MARK and b'opened' in data), 0)
    windows = [one for one in windows if one[1] > opened]      # before that nothing was promised
    chosen = chance.sample(windows, len(windows) if draws else min(30, len(windows)))
    result, end = Result(kind.name.format(system)), time.monotonic() + seconds
    result.syncs, result.writes = (sum(1 for entry, _, _ in work.entries if entry == one) for one in (SYNC, WRITE))
    made = os.path.join(folder, 'made')
    with open(made, 'wb') as file:
        file.truncate(work.size)
        start = min(first for first, _ in windows)
        tear(file, work, 0, start, chance, None)
    for first, last in chosen:
        if time.monotonic() > end:
            break
        result.boundaries += 1
        for draw in range(draws or 2):
            image = os.path.join(folder, f'image-{result.images}')
            call('cp', '--sparse=always', made, image)
            # None of it, at the window's very end; then parts of it, at any moment.
            until = last if draw == 0 else chance.randint(first, last)
            with open(image, 'r+b') as torn:
                tear(torn, work, start, first, chance, None)
                tear(torn, work, first, until, chance, 0 if draw == 0 else chance.choice((0.3, 0.7, 1)))
            if keep:
                call('cp', '--sparse=always', image, image + '.kept')
            said, count = kind.promised(work, until)
            result.images += 1
            result.acked += count
            recovered = list(kind.again(folder, system, image, said, chance, result)) if draw == 1 else []
            problems = recovered + kind.look(folder, image, said)
            result.problems += [f'{result.system}: cut at entry {until} of {len(work.entries)}, behind sync at {first}, draw {draw}: {problem}' for problem in problems]
            if problems and keep:
                shutil.move(image + '.kept', os.path.join(keep, f'{system}-{os.getpid()}-{until}-{draw}.image'))
            for path in glob.glob(image + '*'):
                os.remove(path)
    return result


def document(results):
    lines = ['| file system | writes logged | syncs logged | boundaries cut at | images | of recoveries that were cut | acknowledged messages looked for | problems |',
             '|---|---|---|---|---|---|---|---|']
    lines += [f'| {one.system} | {one.writes} | {one.syncs} | {one.boundaries} | {one.images} | {one.again} | {one.acked:,} | {len(one.problems)} |' for one in results]
    path = os.path.join(ROOT, 'docs', 'durability.md')
    text = open(path, encoding='utf-8').read()
    begin, end = '<!-- power -->\n', '<!-- end power -->'
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text.split(begin)[0] + begin + '\n'.join(lines) + '\n' + end + text.split(end)[1])


def cannot():
    if os.geteuid() != 0:
        return 'not root'
    if not os.path.exists(LOGDISK) or not os.path.exists(DRIVER):
        return 'logdisk is not built (libfuse3-dev)'
    if not os.path.exists('/dev/fuse'):
        return 'no FUSE here'
    return '' if os.path.exists('/dev/loop-control') else 'no loop devices here'


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--draws', type=int, default=4 if os.environ.get('HOLDFAST_FULL') else 0)
    parser.add_argument('--seconds', type=float, help='of each file system')
    parser.add_argument('--only', choices=list(SYSTEMS))
    parser.add_argument('--of', choices=list(KINDS))
    parser.add_argument('--keep', help='a folder')
    parser.add_argument('--seed', type=int, default=datetime.date.today().toordinal())
    parser.add_argument('--write', action='store_true', help='the table into docs/durability.md')
    options = parser.parse_args()
    why = cannot()
    if why:
        print(f'SKIP {why}\n0 passed, 0 failed, 1 skipped')
        return 0
    own_mounts()
    chance, results = random.Random(options.seed), []
    passed = failed = skipped = 0
    for system in [options.only] if options.only else SYSTEMS:
        if not shutil.which(SYSTEMS[system][1][0]):
            print(f'SKIP {SYSTEMS[system][1][0]} is not installed')
            skipped += 1
            continue
        for kind in [kind for of, kind in KINDS.items() if options.of in (None, of)]:
            folder = tempfile.mkdtemp(prefix='holdfast-power-', dir=MEMORY)
            try:
                one = cut(kind, folder, system, options.draws, options.seconds or (600 if options.draws else SLICE_S), chance, options.keep)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            results.append(one)
            fine = not one.problems and one.acked > 0
            passed, failed = passed + fine, failed + (not fine)
            print(f'{"ok" if fine else "not ok"} power cuts on {one.system}: {one.images} images at {one.boundaries} of {one.syncs} syncs, and {one.again} of recoveries '
                  f'that were cut, {one.acked} acknowledged messages looked for, {len(one.problems)} problems', flush=True)
            for problem in one.problems[:10]:
                print('    ' + problem)
    if options.write and not options.only and not options.of and not failed and results:
        document(results)
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    raise SystemExit(main())
