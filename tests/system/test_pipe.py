#!/usr/bin/env python3
"""Mail into commands: as whom and with what they run, what their ends mean, what is left of them, and that nothing which
a stranger writes becomes more than one argument. Real commands, under a user of their own when this is run by root."""
import email
import glob
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import time

from lib import Checks, Client, Server, wait_until
from test_delivery import send

checks = Checks()
ROOT = os.geteuid() == 0
RUNS_AS = 'daemon' if ROOT else pwd.getpwuid(os.geteuid()).pw_name
LDA = '/usr/lib/dovecot/dovecot-lda'
HANG, STRAY = f'9{os.getpid():07d}4', f'9{os.getpid():07d}3'      # seconds that nobody else on this machine sleeps

SCRIPTS = {
    # What it was given, whole: written aside, then named, so that a reader sees all or nothing.
    'record': '''
work=$(mktemp -d FOLDER/out/tmp.XXXXXX)
for argument in "$@"; do printf '%s\\0' "$argument"; done >$work/arguments
env -0 >$work/environment
cat >$work/message
{ id -u; id -G; pwd; umask; ps -o sid= -p $$ | tr -d ' '; echo $$; ls -l /proc/self/fd | grep -c '[0-9] ->';
  grep -c 'NoNewPrivs:.1' /proc/self/status; ulimit -c; } >$work/facts
mv $work FOLDER/out/run.${work##*.}
''',
    'exit': 'echo "I leave with ${1#x}"; echo "and a second line" >&2; exit ${1#x}\n',
    'crash': 'kill -SEGV $$\n',
    'hang': f"trap '' TERM; sleep {HANG} & exec sleep {HANG}\n",
    'stray': f'setsid sh -c "sleep {STRAY} & sleep {STRAY}" >/dev/null 2>&1 & sleep {STRAY} & cat >/dev/null; exit 0\n',
    'flood': 'yes "a line without end" | head -c 30000000; exit 75\n',
    'early': 'exit 0\n',  # reads nothing
    'alone': 'mkdir FOLDER/out/lock || { touch FOLDER/out/overlap; exit 0; }; sleep 0.2; rmdir FOLDER/out/lock\n',
    'slow': 'touch FOLDER/out/begun; while [ ! -e FOLDER/out/go ]; do sleep 0.05; done; touch FOLDER/out/ended\n',
}


def pipe(name, *arguments, more=''):
    words = ', '.join(f'"{word}"' for word in (f'{{folder}}/{name}.sh', *arguments))
    user = f'user = "{RUNS_AS}"' if ROOT else ''
    return f'pipe "{name}" {{ command = {{{words}}}  {user}  {more} }}\n'


PIPES = (pipe('record', '-f', '{sender}', '{original}', 'x{user}', '{tag}|{domain}', '{client}', '{id}', '{recipient}', more='directory = "/usr"')
         + pipe('exit', '{user}') + pipe('crash') + pipe('hang', more='timeout = 500ms') + pipe('stray') + pipe('flood')
         + pipe('nowhere', more='writes = {"{folder}/none"}') + pipe('early') + pipe('alone', more='concurrency = 1') + pipe('slow') + pipe('gone'))
NAMES = re.findall(r'pipe "(\w+)"', PIPES)
TEXT = ('hostname = "mx.home.example"\nspool = "{folder}/spool"\n' + ('user = "nobody"\n' if ROOT else '')
        + 'listen smtp { address = "127.0.0.1:0" }\nrelay { from = {"127.0.0.0/8"} }\n'
        + 'retry { schedule = {300ms}  jitter = 0 }\n' + PIPES
        + ''.join(f'domain "{name}.example" {{ deliver = "pipe:{name}" }}\n' for name in NAMES)
        + 'domain "home.example" { users = "file:{folder}/users"  aliases = "file:{folder}/aliases"  alias_pipes = "record"\n'
        + '    deliver = "maildir:{folder}/mail/{domain}/{user}" }\nlog { format = json  level = info }\n')


class PipeServer(Server):
    def __init__(self, **more):
        super().__init__(text=more.pop('text', TEXT), start=False, **more)
        os.chmod(self.folder, 0o755)
        os.makedirs(f'{self.folder}/out', exist_ok=True)
        os.chmod(f'{self.folder}/out', 0o777)
        os.chmod(f'{self.folder}/mail', 0o777)
        for name, script in SCRIPTS.items():
            path = f'{self.folder}/{name}.sh'
            with open(path, 'w') as file:
                file.write('#!/bin/sh\n' + script.replace('FOLDER', self.folder))
            os.chmod(path, 0o755)
        with open(f'{self.folder}/aliases', 'w') as file:
            file.write('kept: alice, "|record"\nshell: "|/bin/sh -c id"\nother: "|exit"\nfile: /tmp/somewhere\n')
        self.start()

    def runs(self, count):
        return wait_until(f'{count} runs', lambda: len(found := sorted(glob.glob(f'{self.folder}/out/run.*'), key=os.path.getmtime)) >= count and found)

    def read(self, run, name):
        with open(f'{run}/{name}', 'rb') as file:
            return file.read()

    def runner_pid(self):
        """The parent's child that is neither worker nor keeper: it has the socket of the commands open."""
        with open(f'/proc/{self.process.pid}/task/{self.process.pid}/children') as file:
            children = [int(pid) for pid in file.read().split()]
        own = [pid for pid in children if pid != self.worker_pid]
        assert len(own) == 1, own
        return own[0]


def deferred(server, message, cause, words):
    event = server.wait_events('delivery.deferred', 1, message=message)[0]
    assert event['cause'] == cause and event['side'] == 'ours' and re.search(words, event['text']), event
    return event


def left(mark):
    """Processes that have this word among their arguments."""
    found = []
    for path in glob.glob('/proc/[0-9]*/cmdline'):
        try:
            with open(path) as file:
                if mark in file.read().split('\0'):
                    found.append(path)
        except OSError:
            continue
    return found


def test_success(server):
    message = send(server, 'bob+lists@record.example', sender='alice@home.example', body='Subject: one\r\n\r\n.dot\r\nbare\r\n', rcpt=' ORCPT=rfc822;Bob@old.example')
    done = server.wait_events('delivery.done', 1, message=message)[0]
    assert done['mx'] == 'pipe:record' and done['text'] == 'exit code 0', done
    run = server.runs(1)[0]
    arguments = server.read(run, 'arguments').decode().split('\0')[:-1]
    assert arguments == ['-f', 'alice@home.example', 'Bob@old.example', 'xbob', 'lists|record.example', '127.0.0.1', message, 'bob+lists@record.example'], arguments
    mail = server.read(run, 'message')
    assert mail.startswith(b'Return-Path: <alice@home.example>\nDelivered-To: bob+lists@record.example\nReceived: '), mail[:200]
    assert mail.endswith(b'\nSubject: one\n\n.dot\nbare\n') and b'\r' not in mail, mail
    environment = dict(item.split('=', 1) for item in server.read(run, 'environment').decode().split('\0') if '=' in item)
    for name, value in {'SENDER': 'alice@home.example', 'RECIPIENT': 'bob+lists@record.example', 'ORIGINAL_RECIPIENT': 'Bob@old.example',
                        'LOCAL': 'bob', 'EXTENSION': 'lists', 'DOMAIN': 'record.example', 'CLIENT_ADDRESS': '127.0.0.1',
                        'HOLDFAST_MESSAGE': message, 'LOGNAME': RUNS_AS}.items():
        assert environment.get(name) == value, (name, environment)
    unknown = set(environment) - {'SENDER', 'RECIPIENT', 'ORIGINAL_RECIPIENT', 'LOCAL', 'EXTENSION', 'DOMAIN', 'CLIENT_ADDRESS', 'HOLDFAST_MESSAGE',
                                  'LOGNAME', 'USER', 'HOME', 'SHELL', 'PATH', 'PWD', 'OLDPWD', '_', 'SHLVL'}
    assert not unknown, unknown
    uid, groups, where, umask, session, pid, descriptors, locked, core = server.read(run, 'facts').decode().split('\n')[:9]
    facts = pwd.getpwnam(RUNS_AS)
    assert int(uid) == facts.pw_uid != (0 if ROOT else -1) and (not ROOT or '0' not in groups.split()), (uid, groups)
    assert where == '/usr' and umask == '0077' and session == pid and locked == '1' and core == '0', (where, umask, session, pid, locked, core)
    assert int(descriptors) <= 4, descriptors  # 0, 1, 2 and the folder that ls reads


def test_exits(server):
    final = {65: '5.6.0', 67: '5.1.1', 68: '5.1.2', 77: '5.7.0'}
    for code in (1, 64, 65, 66, 67, 68, 69, 70, 73, 75, 77, 78, 126, 255):
        message = send(server, f'x{code}@exit.example', sender='alice@home.example')
        words = rf'^exit code {code}( \(EX_[A-Z]+\))?: I leave with {code}\nand a second line$'
        if code not in final:
            deferred(server, message, 'pipe.deferred', words)
            server.run('drop', message)
            continue
        event = server.wait_events('delivery.failed', 1, message=message)[0]
        assert event['cause'] == 'pipe.refused' and re.search(words, event['text']) and event['enhanced'] == final[code], event
    bounces = server.wait_mails('alice', len(final), domain='home.example')
    mine = [bounce for bounce in bounces if b'x67@exit.example' in bounce]
    report = email.message_from_bytes(mine[0]).get_payload()[1].as_string()
    assert 'Status: 5.1.1' in report and 'exit code 67 (EX_NOUSER): I leave with 67' in re.sub(r'\n[ \t]+', ' ', report), report


def test_story(server):
    message = send(server, 'x75@exit.example')
    deferred(server, message, 'pipe.deferred', 'EX_TEMPFAIL')
    code, text, _ = server.run('why', message)
    assert code in (0, 1) and 'pipe.deferred' in text and 'exit code 75 (EX_TEMPFAIL): I leave with 75' in text, text
    server.run('drop', message)


def test_ends(server):
    deferred(server, send(server, 'a@crash.example'), 'pipe.crashed', r'^ended by signal 11')
    deferred(server, send(server, 'a@hang.example'), 'pipe.timeout', r'^ended after 500 ms')
    for name in ('crash', 'hang'):
        server.run('suspend', '--dest', f'pipe:{name}')
    wait_until('nothing to be left of who hung', lambda: not left(HANG))
    message = send(server, 'a@stray.example')
    server.wait_events('delivery.done', 1, message=message)
    assert not left(STRAY), left(STRAY)
    event = deferred(server, send(server, 'a@flood.example'), 'pipe.deferred', 'EX_TEMPFAIL')
    assert 700 < len(event['text']) < 2048, len(event['text'])
    server.run('suspend', '--dest', 'pipe:flood')
    server.wait_events('delivery.done', 1, message=send(server, 'a@early.example', body='Subject: x\r\n\r\n' + 'line\r\n' * 100000))
    deferred(server, send(server, 'a@gone.example'), 'pipe.misconfigured', 'gone.sh: starting the program: No such file')
    server.run('suspend', '--dest', 'pipe:gone')
    deferred(server, send(server, 'a@nowhere.example'), 'pipe.misconfigured', 'nowhere.sh: writes, network: No such file')
    server.run('suspend', '--dest', 'pipe:nowhere')


def test_hostile(server):
    before = len(server.runs(1))
    evil = '-oQ/tmp x;id|$(id)`id`&\\"\\\\\'*?~'
    message = send(server, f'"{evil}"@record.example', sender='-x@evil.example')
    server.wait_events('delivery.done', 1, message=message)
    run = server.runs(before + 1)[-1]
    arguments = server.read(run, 'arguments').decode().split('\0')[:-1]
    plain = evil.replace('\\"', '"').replace('\\\\', '\\')
    assert len(arguments) == 8 and arguments[3] == 'x' + plain, arguments
    assert arguments[1] == '"-x"@evil.example' and arguments[7] == f'"{evil}"@record.example', arguments
    for address in ('-oQ@record.example', '-d@exit.example'):
        event = server.wait_events('delivery.failed', 1, message=send(server, address, sender='alice@home.example'))[0]
        assert event['cause'] == 'pipe.unfit' and 'hyphen' in event['text'], event
    assert len(server.runs(1)) == before + 1


def test_aliases(server):
    before = len(server.runs(1))
    message = send(server, 'kept@home.example')
    server.wait_events('delivery.done', 2, message=message)
    run = server.runs(before + 1)[-1]
    assert server.read(run, 'arguments').decode().split('\0')[3] == 'xkept' and server.mails('alice', 'home.example')
    with Client(server.address('smtp')) as client:
        client.command('EHLO c.example')
        client.command('MAIL FROM:<a@client.example>')
        for name in ('shell', 'other', 'file'):
            reply = client.command(f'RCPT TO:<{name}@home.example>')
            assert reply.code == 451 and 'directory.misconfigured' in reply.lines[-1], reply
    wait_until('the reason in the journal', lambda: any('alias_pipes' in line for line in server.lines))


def test_alone(server):
    for message in [send(server, 'a@alone.example') for _ in range(4)]:
        server.wait_events('delivery.done', 1, message=message)
    assert not os.path.exists(f'{server.folder}/out/overlap')


def test_many(server):
    """More runs than may be at once: each that has ended makes room."""
    for message in [send(server, 'a@early.example') for _ in range(60)]:
        server.wait_events('delivery.done', 1, message=message)


def test_runner_lost(server):
    message = send(server, 'a@slow.example')
    wait_until('the command to begin', lambda: os.path.exists(f'{server.folder}/out/begun'))
    os.kill(server.runner_pid(), signal.SIGKILL)
    deferred(server, message, 'pipe.interrupted', 'runner')
    open(f'{server.folder}/out/go', 'w').close()
    server.wait_events('delivery.done', 1, message=message)  # by the new one, which the parent has started


def test_reload(server):
    with open(server.config) as file:
        text = file.read()
    with open(server.config, 'w') as file:
        file.write(text + pipe('record', 'new').replace('pipe "record"', 'pipe "second"').replace('{folder}', server.folder)
                   + 'domain "second.example" { deliver = "pipe:second" }\n')
    code, out, error = server.run('reload')
    assert code == 0, (code, out, error)
    before = len(server.runs(1))
    for address in ('a@second.example', 'b@record.example'):
        server.wait_events('delivery.done', 1, message=send(server, address))
    found = {server.read(run, 'arguments').split(b'\0')[0] for run in server.runs(before + 2)[-2:]}
    assert found == {b'new', b'-f'}, found
    with open(server.config, 'w') as file:
        file.write(text.replace('pipe "early" {', 'pipe "early" { memory = 64M ').replace('"/usr"', '"/usr"  user = "no-such-user"' if not ROOT else '"/usr"')
                   .replace(f'user = "{RUNS_AS}"', 'user = "no-such-user"'))
    code, out, error = server.run('reload')
    assert code != 0 and 'no-such-user' in out + error, (code, out, error)
    server.wait_events('delivery.done', 1, message=send(server, 'c@record.example'))
    worker = server.worker_pid
    with open(server.config, 'w') as file:
        file.write(text + 'limits { memory = 7G }\n')    # for a new worker, with which the former runners' users are gone
    server.run('reload')
    wait_until('another worker', lambda: server.worker_pid != worker and server.worker_pid != server.process.pid)
    server.wait_events('delivery.done', 1, message=send(server, 'd@record.example'))
    wait_until('the sockets of the former runners to go', lambda: len(glob.glob(f'{server.folder}/spool/commands.*')) == 1)


def test_large(server):
    before = len(server.runs(1))
    body = 'Subject: large\r\n\r\n' + ''.join(f'line {number}\r\n' for number in range(400000))
    server.wait_events('delivery.done', 1, message=send(server, 'big@record.example', body=body))
    mail = server.read(server.runs(before + 1)[-1], 'message')
    assert mail.endswith(body.replace('\r\n', '\n').encode()), len(mail)


def refused_at_start():
    def words(user):
        server = Server(text=TEXT.replace(f'user = "{RUNS_AS}"', user) if ROOT else TEXT.replace('pipe "exit" {', f'pipe "exit" {{ {user} '), start=False)
        try:
            done = subprocess.run([os.environ.get('HOLDFAST', 'build/holdfast'), 'serve', '-c', server.config], capture_output=True, text=True, timeout=30)
            return done.returncode, done.stderr
        finally:
            subprocess.run(['rm', '-rf', server.folder], check=True)
    code, text = words('user = "no-such-user"')
    assert code != 0 and 'no-such-user' in text, (code, text)
    code, text = words('user = "root"')
    assert code != 0 and 'no command runs as root' in text, (code, text)
    code, text = words('user = "nobody"  group = "root"' if ROOT else 'user = "daemon"')
    assert code != 0 and ('root' in text), (code, text)
    if ROOT:
        code, text = words('')
        assert code != 0 and 'user is missing' in text, (code, text)


def test_dovecot():
    if not os.path.exists(LDA):
        checks.skip('Dovecot\'s LDA takes mail', 'dovecot-lda is not installed')
        return
    user = f'user = "{RUNS_AS}"' if ROOT else ''
    text = TEXT + (f'pipe "lda" {{ command = {{"{LDA}", "-c", "{{folder}}/dovecot.conf", "-f", "{{sender}}", "-a", "{{original}}"}}  {user} }}\n'
                   'domain "lda.example" { deliver = "pipe:lda" }\n')
    with PipeServer(text=text) as server:
        with open(f'{server.folder}/dovecot.conf', 'w') as file:
            file.write(f'base_dir = {server.folder}/out/dovecot\nssl = no\nlog_path = /dev/stderr\nprotocols =\nmail_location = maildir:{server.folder}/out/lda\n'
                       'hostname = mx.home.example\npostmaster_address = postmaster@home.example\nstats_writer_socket_path =\n')
        message = send(server, 'bob@lda.example', sender='alice@home.example')
        try:
            server.wait_events('delivery.done', 1, message=message)
        except AssertionError as fault:
            raise AssertionError([event['text'] for event in server.events('delivery.deferred')][:1]) from fault
        mails = glob.glob(f'{server.folder}/out/lda/new/*')
        assert len(mails) == 1 and b'Subject: hello' in open(mails[0], 'rb').read(), mails
        checks.ok('Dovecot\'s LDA takes mail', True)


def main():
    with PipeServer() as server:
        for test in (test_success, test_exits, test_story, test_ends, test_hostile, test_aliases, test_alone, test_many, test_large, test_runner_lost, test_reload):
            checks.run(test.__name__[5:].replace('_', ' '), lambda: test(server))
    checks.run('what may not run is refused at start', refused_at_start)
    checks.run('dovecot', test_dovecot)
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
