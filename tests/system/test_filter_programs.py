#!/usr/bin/env python3
"""The real filters on loopback: opendkim signs, opendmarc and clamav-milter judge, rspamd through its milter proxy, spamd. Each is
started from a folder of its own, used, killed, and started again: what comes between is 451 with its cause."""
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from lib import Checks, wait_until
from lib_faults import EICAR, FaultServer, Mail, expect, expect_accepted, expect_healed, free_port
from test_faults_filter import Clamd

GTUBE = 'XJS*C4JDBQADN1.NSBN3*2IDNEN*' + 'GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X'  # in two, for scanners of this file


class FullMail(Mail):
    """With all the fields that strict filters ask for."""

    def text(self):
        return (f'From: A <{self.sender}>\r\nTo: <{self.to}>\r\nSubject: test\r\nDate: Fri, 10 Mar 2023 23:29:35 +0000\r\n'
                f'Message-ID: <{id(self)}@client.example>\r\n\r\n{self.body}\r\n')


START_PATIENCE_S = 180      # rspamd compiles its rules, spamd its own: more than half a minute on a busy machine


class Program:
    """A daemon in the foreground that listens on `port`."""

    def __init__(self, folder, words, port):
        self.folder, self.words, self.port, self.process = folder, words, port, None
        self.log = os.path.join(folder, words[0] + '.log')

    def start(self):
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                                            start_new_session=True)
        wait_until(f'{self.words[0]} to listen', self.listens, START_PATIENCE_S)

    def listens(self):
        assert self.process.poll() is None, f'{self.words[0]} ended: {self.tail()}'
        try:
            socket.create_connection(('127.0.0.1', self.port), timeout=5).close()
            return True
        except OSError:
            return False

    def tail(self):
        with open(self.log, encoding='utf-8', errors='replace') as file:
            return file.read()[-600:]

    def kill(self):
        """With all that it has started."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            wait_until('its port to be free', self.is_silent)

    def is_silent(self):
        try:
            socket.create_connection(('127.0.0.1', self.port), timeout=5).close()
            return False
        except OSError:
            return True


def write(folder, name, text, mode=0o600):
    path = os.path.join(folder, name)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    os.chmod(path, mode)
    return path


def opendkim(folder):
    port = free_port()
    subprocess.run(['openssl', 'genrsa', '-out', f'{folder}/key.pem', '2048'], check=True, capture_output=True)
    conf = write(folder, 'opendkim.conf', f'Socket inet:{port}@127.0.0.1\nDomain home.example\nSelector s\nKeyFile {folder}/key.pem\n'
                 'Mode sv\nCanonicalization relaxed/simple\nSyslog no\nInternalHosts 127.0.0.1\nRequireSafeKeys no\n')
    return Program(folder, ['opendkim', '-f', '-x', conf], port)


def opendmarc(folder):
    port = free_port()
    conf = write(folder, 'opendmarc.conf', f'Socket inet:{port}@127.0.0.1\nAuthservID mx.home.example\nSyslog false\n'
                 f'IgnoreHosts {write(folder, "ignore", "")}\nRejectFailures false\nRequiredHeaders true\n')
    return Program(folder, ['opendmarc', '-f', '-c', conf], port)


def rspamd(folder):
    port = free_port()
    conf = write(folder, 'rspamd.conf', f'''
options {{ pidfile = "{folder}/rspamd.pid"; filters = "regexp"; cache_file = "{folder}/cache"; rrd = false; control_socket = "{folder}/control";
    gtube_patterns = "all"; dns {{ nameserver = ["127.0.0.1:{free_port()}"]; timeout = 0.1s; retransmits = 1; }} }}
logging {{ type = "console"; level = "warning"; }}
actions {{ reject = 15; add_header = 6; }}
lua = "/usr/share/rspamd/rules/rspamd.lua";
milter_headers {{ use = ["x-spamd-result"]; skip_local = false; skip_authenticated = false; }}
worker "rspamd_proxy" {{ bind_socket = "127.0.0.1:{port}"; count = 1; milter = true; timeout = 20s;
    upstream "local" {{ default = true; self_scan = true; }} }}
''')
    return Program(folder, ['rspamd', '-f', '-i', '-c', conf], port)


def spamd(folder):
    port = free_port()
    os.makedirs(f'{folder}/site', exist_ok=True)
    for pre in glob.glob('/etc/spamassassin/*.pre') + glob.glob('/etc/mail/spamassassin/*.pre'):
        shutil.copy(pre, f'{folder}/site')
    write(f'{folder}/site', 'local.cf', 'use_bayes 0\nuse_auto_whitelist 0\nskip_rbl_checks 1\ndns_available no\nrequired_score 5.0\n', 0o644)
    return Program(folder, ['spamd', '-L', '-x', '-m', '2', '-i', '127.0.0.1', '-p', str(port), '-A', '127.0.0.1',
                            f'--siteconfigpath={folder}/site', '-u', 'nobody', '-s', 'stderr'], port)


def clamav_milter(folder, clamd):
    port = free_port()
    conf = write(folder, 'clamav-milter.conf', f'MilterSocket inet:{port}@127.0.0.1\nForeground yes\nClamdSocket unix:{clamd.socket}\n'
                 'OnInfected Reject\nOnFail Defer\nAddHeader Replace\nRejectMsg Virus %v\nLogVerbose no\nUser root\n')
    return Program(folder, ['clamav-milter', '--config-file', conf], port)


def server_with(program, speaks='milter', more=''):
    return FaultServer(f'filter real {{ speaks = {speaks}  address = "127.0.0.1:{program.port}"  timeout = 20s  {more} }}\n'
                       'relay { from = {"127.0.0.0/8"} }\n')


def last(server, user='alice'):
    return server.mails(user, 'home.example')[-1].decode()


def check_down_and_up(checks, name, server, program, refused='filter.unreachable'):
    """Killed between messages: the connection that waits is found dead and nothing is taken; started again: taken."""
    def down():
        program.kill()
        expect(server, FullMail(), '451 4.3.0', refused, 'mail')

    def up():
        program.start()
        expect_healed(server, FullMail())
    checks.run(f'{name}: killed', down)
    checks.run(f'{name}: started again', up)


# ------------------------------------------------------------------ one program each

def check_opendkim(checks, folder):
    program = opendkim(folder)
    try:
        program.start()
        with server_with(program) as server:
            def signs():
                expect_accepted(server, FullMail(sender='a@home.example', body='one\r\n..two'))
                mail = last(server)
                assert mail.count('DKIM-Signature: v=1') == 1 and 'd=home.example' in mail.split('From:')[0], mail

            def unfolds():
                mail = Mail(sender='a@home.example')
                mail.text = lambda: 'From: A <a@home.example>\r\nTo:  x@y.example,\r\n\tz@y.example\r\nSubject:\r\n s\r\n\r\nbody\r\n'
                expect_accepted(server, mail)
                verify(last(server), folder)
            checks.run('opendkim signs', signs)
            if has_dkimpy():
                checks.run('opendkim: the signature is good, folded fields and all', unfolds)
            else:
                checks.skip('opendkim: the signature is good', 'no dkimpy')
            check_down_and_up(checks, 'opendkim', server, program)
    finally:
        program.kill()


def has_dkimpy():
    try:
        import dkim  # pylint: disable=import-outside-toplevel,unused-import
        return True
    except ImportError:
        return False


def verify(mail, folder):
    import dkim  # pylint: disable=import-outside-toplevel
    public = subprocess.run(['openssl', 'rsa', '-in', f'{folder}/key.pem', '-pubout'], check=True, capture_output=True, text=True).stdout
    record = 'v=DKIM1; k=rsa; p=' + ''.join(public.split('\n')[1:-2])
    assert dkim.verify(mail.encode(), dnsfunc=lambda name, timeout=5: record.encode()), f'bad signature:\n{mail}'


def check_opendmarc(checks, folder):
    program = opendmarc(folder)
    try:
        program.start()
        with server_with(program) as server:
            def refuses():
                mail = Mail()
                mail.text = lambda: 'Subject: no author\r\n\r\nbody\r\n'
                reply, _ = mail.play(server)
                assert reply.code == 550 or reply.code == 554, reply.lines
            checks.run('opendmarc refuses a message without From', refuses)
            check_down_and_up(checks, 'opendmarc', server, program)
    finally:
        program.kill()


def check_rspamd(checks, folder):
    program = rspamd(folder)
    try:
        program.start()
        with server_with(program) as server:
            def refuses():
                reply, at = Mail(body=GTUBE).play(server)
                assert reply.code // 100 == 5 and at == 'dot', (reply.lines, at)
            checks.run('rspamd passes plain mail', lambda: expect_accepted(server, Mail()))
            checks.run('rspamd passes 2 MB', lambda: expect_accepted(server, Mail(body='x' * 70 + ('\r\n' + 'y' * 70) * 28000)))
            checks.run('rspamd refuses GTUBE', refuses)
            check_down_and_up(checks, 'rspamd', server, program)
    finally:
        program.kill()


def check_spamd(checks, folder):
    program = spamd(folder)
    try:
        program.start()
        with server_with(program, 'spamd', 'reject_score = 500.0') as server:
            def marks():
                mail = Mail()
                mail.text = lambda: 'From: <a@b.example>\r\nX-Spam-Status: No, forged\r\nSubject: x\r\n\r\nhello\r\n'
                expect_accepted(server, mail)
                text = last(server)
                assert text.count('X-Spam-Status:') == 1 and 'forged' not in text, text
                assert 'X-Spam-Checker-Version:' in text, text
            checks.run('spamd marks, and forged marks go', marks)
            checks.run('spamd refuses GTUBE', lambda: expect(server, Mail(body=GTUBE), '550 5.7.1', 'filter.refused', 'dot'))

            def down():
                program.kill()
                expect(server, Mail(), '451 4.3.0', 'filter.unreachable', 'dot')

            def up():
                program.start()
                expect_healed(server, Mail())
            checks.run('spamd: killed', down)
            checks.run('spamd: started again', up)
    finally:
        program.kill()


def check_clamav_milter(checks, folder):
    clamd = Clamd(folder)
    program = clamav_milter(folder, clamd)
    try:
        clamd.start()
        program.start()
        with server_with(program) as server:
            def clean():
                expect_accepted(server, Mail())
                assert 'X-Virus-Status: Clean' in last(server), last(server)

            def infected():
                reply, at = Mail(body=EICAR).play(server)
                assert reply.lines[0].startswith('550 5.7.1 Virus Holdfast.Test') and at == 'dot', (reply.lines, at)

            def broken():
                clamd.kill()
                reply, _ = Mail().play(server)
                assert reply.code // 100 == 4, reply.lines

            def mended():
                clamd.start()
                expect_healed(server, Mail())
            checks.run('clamav-milter marks clean mail', clean)
            checks.run('clamav-milter refuses in its own words', infected)
            checks.run('clamav-milter: clamd behind it killed', broken)
            checks.run('clamav-milter: clamd behind it started again', mended)
            check_down_and_up(checks, 'clamav-milter', server, program)
    finally:
        program.kill()
        clamd.kill()


def main():
    checks = Checks()
    for words, check in ((('opendkim', 'openssl'), check_opendkim), (('opendmarc',), check_opendmarc), (('rspamd',), check_rspamd),
                         (('spamd',), check_spamd), (('clamav-milter', 'clamd'), check_clamav_milter)):
        missing = [word for word in words if not shutil.which(word)]
        if missing:
            checks.skip(words[0], f'no {missing[0]}')
            continue
        folder = tempfile.mkdtemp(prefix='holdfast-filter-')
        os.chmod(folder, 0o755)
        try:
            checks.run(words[0], lambda check=check, folder=folder: check(checks, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
