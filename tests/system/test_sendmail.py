#!/usr/bin/env python3
"""sendmail, mailq and newaliases: options, exit codes, with the server up and down, by other users, by files that are none."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import Checks, HOLDFAST, Server, wait_until

checks = Checks()
EX_OK, EX_USAGE, EX_DATAERR, EX_TEMPFAIL, EX_CONFIG = 0, 64, 65, 75, 78
ALIASES = 'postmaster: alice\nall: alice, bob\n'


class Commands:
    """Links named as the programs; they work on one server's configuration."""

    def __init__(self, folder, server):
        self.folder = os.path.join(folder, 'bin')
        os.makedirs(self.folder)
        for name in ('sendmail', 'mailq', 'newaliases'):
            os.symlink(os.path.abspath(HOLDFAST), os.path.join(self.folder, name))
        self.environment = dict(os.environ, HOLDFAST_CONFIG=server.config, LC_ALL='C')

    def run(self, name, *words, text=b'', **options):
        environment = dict(self.environment, **options.pop('environment', {}))
        return subprocess.run([os.path.join(self.folder, name), *words], input=text, capture_output=True, env=environment,
                              timeout=60, **options)


def drop_of(server):
    return os.path.join(server.folder, 'spool-drop')


def waiting(server):
    return [name for name in os.listdir(drop_of(server)) if name.startswith('mail-')]


def with_server(server, commands):
    done = commands.run('sendmail', '-i', 'bob@rcpt.test', text=b'Subject: one\n\nfirst\n.\nlast\n')
    checks.ok('sendmail gives 0', done.returncode == EX_OK, done.stderr)
    mail = server.wait_mails('bob', 1)[0]
    checks.ok('-i keeps a dot alone', b'\nfirst\n.\nlast\n' in mail, mail)
    checks.ok('missing fields are added', all(field in mail for field in (b'\nFrom: ', b'\nDate: ', b'\nMessage-ID: <')), mail)
    checks.ok('the file is gone', wait_until('the drop directory', lambda: not waiting(server)))
    uid = f'uid-{os.getuid()}'.encode()
    checks.ok('Received and the journal name the user', uid in mail and any(
        uid.decode() in str(event.get('helo')) for event in server.events('message.accepted')), mail)

    text = (b'From mailbox Mon Jan  1 00:00:00 2026\nFrom: cron\nTo: "Bob, B." <bob@rcpt.test>, team: carol (Carol C.), u@rcpt.test;\n'
            b'Bcc: r1@rcpt.test\nSubject: two\n\nbody\n.\nnot this\n')
    done = commands.run('sendmail', '-t', '-f', 'alice@rcpt.test', text=text)
    checks.ok('-t gives 0', done.returncode == EX_OK, done.stderr)
    for user in ('carol', 'u', 'r1'):
        mail = server.wait_mails(user, 1)[0]
        checks.ok(f'-t reaches {user}', b'Subject: two' in mail and b'not this' not in mail, mail)
    checks.ok('Bcc is left out, From gets a domain, the mailbox line is gone',
              b'Bcc' not in mail and b'From: cron@rcpt.test' in mail and b'From mailbox' not in mail, mail)
    checks.ok('the envelope has -f', b'Return-Path: <alice@rcpt.test>' in mail, mail)


def refused(server, commands):
    before = len(server.mails('alice'))
    done = commands.run('sendmail', '-f', 'alice@rcpt.test', 'nobody@rcpt.test', 'bob@rcpt.test', text=b'Subject: half\n\nx\n')
    checks.ok('an unknown recipient is the server\'s affair', done.returncode == EX_OK, done.stderr)
    bounce = server.wait_mails('alice', before + 1)[-1]
    checks.ok('the sender is told who was refused and why', b'nobody@rcpt.test' in bounce and b'5.1.1' in bounce and
              b'multipart/report' in bounce and b'Subject: half' in bounce, bounce)
    wait_until('the other recipient', lambda: any(b'Subject: half' in mail for mail in server.mails('bob')))
    checks.ok('the other one got it', True)


def usage(commands):
    for words, text, code in ((('-t',), b'Subject: nobody\n\n', EX_USAGE), ((), b'x', EX_USAGE), (('-Z', 'bob'), b'', EX_USAGE),
                              (('-bx',), b'', EX_USAGE), (('a b c',), b'', EX_DATAERR), (('-f', 'a b', 'bob'), b'', EX_USAGE),
                              (('-N', 'sometimes', 'bob'), b'x', EX_USAGE)):
        done = commands.run('sendmail', *words, text=text)
        checks.ok(f'{" ".join(words) or "no recipient"} gives {code}', done.returncode == code and done.stderr, done)
    done = commands.run('sendmail', 'bob', text=b'x', environment={'HOLDFAST_DROP': '/nonexistent'})
    checks.ok('without the directory: 75', done.returncode == EX_TEMPFAIL and b'/nonexistent' in done.stderr, done)


def down(server, commands):
    server.stop()
    done = commands.run('sendmail', '-oi', '-oem', '-F', 'A "Quoted" Name', '-f', 'alice@rcpt.test', '-N', 'never', '-V', 'id=7', 'bob',
                        text=b'Subject: while down\r\n\r\nA line that ends in CR LF\r\nand one in CR\rand \xc3\xa4\n')
    checks.ok('the server is down: 0', done.returncode == EX_OK, done.stderr)
    checks.ok('it lies in the drop directory', len(waiting(server)) == 1, os.listdir(drop_of(server)))
    path = os.path.join(drop_of(server), waiting(server)[0])
    text = open(path, 'rb').read()
    checks.ok('the file is a transaction', text.startswith(b'MAIL FROM:<alice@rcpt.test> BODY=8BITMIME ENVID=id+3D7\r\n'
                                                           b'RCPT TO:<bob@rcpt.test> NOTIFY=never\r\nDATA\r\n'), text)
    checks.ok('only owner and group may read it', os.stat(path).st_mode & 0o777 == 0o640, oct(os.stat(path).st_mode))
    smtp = (b'EHLO here\r\nMAIL FROM:<alice@rcpt.test>\r\nRCPT TO:<bob@rcpt.test>\r\nDATA\r\nSubject: by -bs\r\n\r\n..dot\r\n.\r\n'
            b'RCPT TO:<x@rcpt.test>\r\nNONSENSE\r\nMAIL FROM:<>\r\nRCPT TO:<bob@rcpt.test>\r\nDATA\r\nSubject: cut\r\n')
    done = commands.run('sendmail', '-bs', text=smtp)
    codes = [line[:3] for line in done.stdout.decode().splitlines() if line[3:4] == ' ']
    checks.ok('-bs speaks SMTP', codes == ['220', '250', '250', '250', '354', '250', '503', '502', '250', '250', '354', '451'], done)
    checks.ok('a message without its dot is none', len(waiting(server)) == 2, os.listdir(drop_of(server)))
    done = commands.run('sendmail', '-q')
    checks.ok('-q without a server: 75', done.returncode == EX_TEMPFAIL, done)


def hostile(server):
    """Files that somebody else could leave: none of them may hold up the others."""
    drop = drop_of(server)
    secret = os.path.join(server.folder, 'secret')
    with open(secret, 'w') as file:
        file.write('MAIL FROM:<alice@rcpt.test>\r\nRCPT TO:<carol@rcpt.test>\r\nDATA\r\nSubject: secret\r\n\r\n')
    os.symlink(secret, os.path.join(drop, 'mail-link'))
    os.link(secret, os.path.join(drop, 'mail-hard'))
    os.mkfifo(os.path.join(drop, 'mail-pipe'))
    os.mkdir(os.path.join(drop, 'mail-folder'))
    for name, text in (('empty', b''), ('garbage', os.urandom(5000)), ('nodata', b'MAIL FROM:<a@b.example>\r\nRCPT TO:<bob@rcpt.test>\r\n'),
                       ('order', b'RCPT TO:<bob@rcpt.test>\r\nMAIL FROM:<>\r\nDATA\r\n'), ('smuggle', b'MAIL FROM:<a@b.example>\r\n'
                        b'RCPT TO:<bob@rcpt.test>\r\nQUIT\r\nDATA\r\nx\r\n')):
        with open(os.path.join(drop, f'mail-{name}'), 'wb') as file:
            file.write(text)
    with open(os.path.join(drop, 'mail-bare'), 'wb') as file:
        file.write(b'MAIL FROM:<alice@rcpt.test>\r\nRCPT TO:<bob@rcpt.test>\r\nDATA\r\nSubject: bare\r\n\r\na\nb\r\n')


def up_again(server, commands):
    hostile(server)
    told = len(server.mails('alice'))
    server.start()
    mails = wait_until('mail from before the start', lambda: [mail for mail in server.mails('bob')
                                                              if b'while down' in mail or b'by -bs' in mail] if len(
        [mail for mail in server.mails('bob') if b'while down' in mail or b'by -bs' in mail]) == 2 else None)
    one = next(mail for mail in mails if b'while down' in mail)
    checks.ok('line ends are CR LF', b'CR LF\nand one in CR\nand \xc3\xa4\n' in one, one)
    checks.ok('-F is the name', b'From: "A Quoted Name" <alice@rcpt.test>' in one, one)
    checks.ok('dots of -bs are unstuffed', any(b'\n.dot\n' in mail for mail in mails), mails)
    bad = lambda: {name for name in os.listdir(drop_of(server)) if name.startswith('bad-')}
    wanted = {f'bad-mail-{name}' for name in ('hard', 'empty', 'garbage', 'nodata', 'order', 'smuggle')}
    wait_until('what is none to be set aside', lambda: wanted <= bad())
    left = lambda: {name for name in waiting(server) if name != 'mail-folder'}
    checks.ok('what is none is set aside or removed, whatever it is', wait_until('links and pipes to go', lambda: not left()))
    shutil.rmtree(os.path.join(drop_of(server), 'mail-folder'), ignore_errors=True)
    checks.ok('no link was followed', not any(b'secret' in mail for mail in server.mails('carol')))
    bounce = server.wait_mails('alice', told + 1)[-1]
    checks.ok('a message that is refused comes back', b'Subject: bare' in bounce and b'multipart/report' in bounce, bounce)
    done = commands.run('mailq')
    checks.ok('mailq: empty', done.returncode == EX_OK and b'Mail queue is empty' in done.stdout, done)


def queue(server, commands):
    commands.run('sendmail', '-f', 'alice@rcpt.test', 'x@away.example', text=b'Subject: stays\n\nx\n')
    def listed():
        done = commands.run('mailq')
        return done.stdout if b'x@away.example' in done.stdout and b'(' in done.stdout else None
    text = wait_until('the message in mailq', listed)
    checks.ok('mailq lists sender, reason and recipient', b'alice@rcpt.test' in text and b'in 1 Request.' in text, text)
    checks.ok('sendmail -bp is mailq', b'x@away.example' in commands.run('sendmail', '-bp').stdout)
    checks.ok('sendmail -q tries again', commands.run('sendmail', '-q').returncode == EX_OK)
    done = commands.run('newaliases')
    checks.ok('newaliases: nothing to build', done.returncode == EX_OK and b'rcpt.test' in done.stdout, done)
    with open(os.path.join(server.folder, 'aliases'), 'a') as file:
        file.write('broken line without a colon\n')
    done = commands.run('sendmail', '-bi')
    checks.ok('a mistake in the aliases is told', done.returncode in (EX_CONFIG, EX_TEMPFAIL) and b'aliases' in done.stderr, done)
    commands.run('sendmail', 'bob', text=b'Subject: patient\n\nx\n')
    server.wait_events('message.deferred', 1, cause='directory.misconfigured')
    checks.ok('what is deferred stays', len(waiting(server)) == 1, os.listdir(drop_of(server)))
    with open(os.path.join(server.folder, 'aliases'), 'w') as file:
        file.write(ALIASES)
    wait_until('the next try', lambda: any(b'patient' in mail for mail in server.mails('bob')))
    checks.ok('and is tried again', wait_until('the file to go', lambda: not waiting(server)))


def other_user(server, commands):
    """By a user who may neither read the configuration nor list the directory."""
    if os.getuid() != 0 or not shutil.which('setpriv'):
        checks.skip('another user', 'needs root and setpriv')
        return
    os.chmod(server.config, 0o600)
    os.chmod(server.folder, 0o711)
    shutil.copy(HOLDFAST, os.path.join(server.folder, 'sendmail'))
    os.chmod(os.path.join(server.folder, 'sendmail'), 0o755)
    def run(*words, text=b''):
        return subprocess.run(['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', *words], input=text,
                              capture_output=True, timeout=60, env=dict(commands.environment, HOLDFAST_DROP=drop_of(server)))
    done = run(os.path.join(server.folder, 'sendmail'), 'bob', text=b'Subject: by nobody\n\nx\n')
    checks.ok('another user may send', done.returncode == EX_OK, done)
    mail = wait_until('nobody\'s mail', lambda: next((mail for mail in server.mails('bob') if b'by nobody' in mail), None))
    checks.ok('its origin was told by the server', b'@rcpt.test' in mail.split(b'\n\n')[0] and b'uid-65534' in mail, mail)
    checks.ok('another user may not list', run('ls', drop_of(server)).returncode != 0)
    path = os.path.join(drop_of(server), 'new-private')
    with open(path, 'w') as file:
        file.write('x')
    os.chmod(path, 0o640)
    checks.ok('nor read or remove what others left', run('cat', path).returncode != 0 and run('rm', '-f', path).returncode != 0 and
              os.path.exists(path))
    os.utime(path, (1, time.time() - 25 * 3600))
    fresh = os.path.join(drop_of(server), 'new-fresh')
    with open(fresh, 'w') as file:
        file.write('x')
    server.stop()
    server.start()      # it looks at once, then hourly
    wait_until('what was never finished to go', lambda: not os.path.exists(path))
    checks.ok('what is being written stays', os.path.exists(fresh))
    os.remove(fresh)


def died(server, commands):
    """SIGKILL when the message is durable and its file is about to go: the next start gives the file in again, and is told that it has it."""
    if not shutil.which('strace'):
        checks.skip('a crash before the file is removed', 'strace is not installed')
        return
    server.stop()
    done = commands.run('sendmail', '-f', 'alice@rcpt.test', 'carol@rcpt.test', text=b'Subject: taken twice\n\nx\n')
    name, = waiting(server)
    path = os.path.join(drop_of(server), name)
    server.command = ['strace', '-f', '-qq', '-o', os.path.join(server.folder, 'trace'), '-P', path, '-e', 'trace=unlink,unlinkat',
                      '-e', 'inject=unlink,unlinkat:signal=KILL:error=EINTR']
    server.options.append('--one-process')
    server.start()
    wait_until('its death', lambda: not server.alive())
    server.reader.join(30)
    checks.ok('it died between 250 and the removal', done.returncode == EX_OK and os.path.exists(path) and server.events('message.accepted'), server.lines)
    server.command = []
    server.options.remove('--one-process')
    server.start()
    wait_until('the file to go', lambda: not os.path.exists(path))
    checks.ok('the file that came again is known', server.wait_events('message.repeated', 1))
    commands.run('sendmail', '-f', 'alice@rcpt.test', 'carol@rcpt.test', text=b'Subject: behind it\n\nx\n')
    wait_until('the one behind it', lambda: any(b'Subject: behind it' in mail for mail in server.mails('carol')))
    checks.ok('one copy', sum(b'Subject: taken twice' in mail for mail in server.mails('carol')) == 1, server.mails('carol'))


def main():
    folder = tempfile.mkdtemp(prefix='holdfast-test-')
    text = ('hostname = "rcpt.test"\nspool = "{folder}/spool"\nlisten smtp { address = "127.0.0.1:0" }\n'
            'domain "rcpt.test" { users = "file:{folder}/users"  aliases = "file:{folder}/aliases"  '
            'deliver = "maildir:{folder}/mail/{domain}/{user}" }\nroute "away.example" { via = "smtp:127.0.0.1:1" }\n'
            'log { format = json  level = info }\n')
    server = Server(text=text, start=False)
    try:
        with open(os.path.join(server.folder, 'aliases'), 'w') as file:
            file.write(ALIASES)
        server.start()
        commands = Commands(folder, server)
        wait_until('the drop directory', lambda: os.path.exists(os.path.join(drop_of(server), 'origin')))
        with_server(server, commands)
        refused(server, commands)
        usage(commands)
        down(server, commands)
        up_again(server, commands)
        queue(server, commands)
        other_user(server, commands)
        died(server, commands)
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
