#!/usr/bin/env python3
"""Every cause of the receiving side, produced for real: the reply with its codes, the journal's line, the count at /metrics, and what
`holdfast why` tells of it. The table is held against src/verdict/causes.def: a cause without a row fails."""
import base64
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

from lib import HASHES, PATIENCE_S, ROOT, Checks, Client, make_certificate, wait_until
from lib_dns import ScriptedDns
from lib_faults import FaultServer, FromAddress, Mail, family, free_port, write_file
from lib_milter import CONTINUE, REJECT, SHUTDOWN, TEMPFAIL, Milter, MilterServer, reply
from test_auth_policy import NAMES, Keys, letter
from test_auth_policy import mail as letter_of
from test_auth_policy import Message
from test_faults_dns import CLIENTS, resolver_text
from test_faults_filter import CLEAN, FakeClamd, filter_text
from test_faults_spool import Disk, attached, can_mount, spool_on

checks = Checks()
DONE, SKIPPED = set(), {}

# What has to be said, and where. '-': at a command that has no stage in the journal.
TABLE = {
    'filter.unreachable': ('451 4.3.0', 'dot'), 'filter.timeout': ('451 4.3.0', 'dot'), 'filter.crashed': ('451 4.3.0', 'dot'),
    'filter.garbled': ('451 4.3.0', 'dot'), 'filter.overloaded': ('451 4.3.2', 'mail'), 'filter.down': ('421 4.3.2', 'connect'),
    'filter.misconfigured': ('451 4.3.5', 'dot'), 'filter.poison': ('451 4.6.0', 'dot'), 'filter.poison.final': ('554 5.6.0', 'dot'),
    'filter.refused': ('550 5.7.1', 'dot'), 'filter.unscannable': ('451 4.7.1', 'dot'), 'filter.unscannable.final': ('550 5.7.1', 'dot'),
    'filter.milter.reject': ('550 5.7.1', 'mail'), 'filter.milter.tempfail': ('451 4.7.1', 'mail'),
    'filter.milter.replycode.4': ('450 4.1.1', 'mail'), 'filter.milter.replycode.5': ('553 5.1.1', 'mail'),
    'filter.milter.shutdown': ('421 4.7.0', 'mail'),
    'dns.resolver.down': ('421 4.4.3', 'connect'), 'dns.resolver.failed': ('451 4.4.3', 'mail'),
    'dns.spf.temperror': ('451 4.7.24', 'rcpt'), 'spf.permerror': ('550 5.7.24', 'mail'),
    'spf.fail': ('550 5.7.23', 'mail'), 'dns.dkim.temperror': ('451 4.7.5', 'dot'), 'dkim.none_passed': ('550 5.7.20', 'dot'),
    'dns.dmarc.temperror': ('451 4.7.1', 'dot'), 'dmarc.reject': ('550 5.7.1', 'dot'), 'dmarc.reject.multiple': ('550 5.7.26', 'dot'),
    'arc.fail': ('550 5.7.29', 'dot'), 'dns.reverse.temperror': ('451 4.7.25', 'mail'), 'reverse.absent': ('550 5.7.25', 'mail'),
    'dns.sender.temperror': ('451 4.1.8', 'mail'), 'sender.unresolvable': ('550 5.1.8', 'mail'), 'sender.null_mx': ('550 5.7.27', 'mail'),
    'dnsbl.listed': ('550 5.7.1', 'mail'),
    'directory.unavailable': ('451 4.3.0', 'rcpt'), 'directory.misconfigured': ('451 4.3.5', 'rcpt'),
    'recipient.unknown': ('550 5.1.1', 'rcpt'), 'recipient.disabled': ('450 4.2.1', 'rcpt'), 'recipient.disabled.final': ('550 5.2.1', 'rcpt'),
    'recipient.full': ('452 4.2.2', 'rcpt'), 'recipient.full.final': ('552 5.2.2', 'rcpt'), 'recipient.too_many': ('452 4.5.3', 'rcpt'),
    'recipient.other_class': ('452 4.5.3', 'rcpt'),
    'relay.denied': ('550 5.7.1', 'rcpt'),
    'spool.full': ('452 4.3.1', 'mail'), 'spool.failed': ('451 4.3.0', 'dot'), 'spool.down': ('421 4.3.2', 'connect'),
    'server.busy': ('421 4.3.2', 'connect'), 'client.busy': ('421 4.7.0', 'connect'), 'server.stopping': ('421 4.3.2', '-'),
    'client.idle': ('421 4.4.2', '-'), 'client.lost': (None, 'data'),
    'message.too_big': ('552 5.3.4', 'mail'), 'message.loop': ('554 5.4.6', 'dot'), 'message.malformed': ('550 5.5.2', 'dot'),
    'message.malformed.header': ('550 5.6.0', 'dot'),
    'tls.required': ('530 5.7.0', 'mail'), 'tls.unavailable': ('454 4.7.0', 'tls'), 'auth.required': ('530 5.7.0', 'mail'), 'auth.failed': ('535 5.7.8', 'auth'),
    'auth.unavailable': ('454 4.7.0', 'auth'), 'auth.mechanism': ('504 5.5.4', 'auth'), 'auth.cancelled': ('501 5.7.0', 'auth'),
    'auth.failures': ('421 4.7.0', 'auth'), 'sender.not_owned': ('553 5.7.1', 'mail'),
    'greylisted': ('451 4.7.1', 'rcpt'), 'rate.limited': ('450 4.7.1', 'mail'), 'rate.exceeded': ('421 4.7.0', 'mail'),
    'protocol.unknown': ('500 5.5.2', '-'), 'protocol.syntax': ('501 5.5.4', 'ehlo'), 'protocol.address': ('501 5.1.3', 'mail'),
    'protocol.not_implemented': ('502 5.5.1', '-'), 'protocol.sequence': ('503 5.5.1', 'rcpt'), 'protocol.parameter': ('555 5.5.4', 'mail'),
    'protocol.no_recipients': ('554 5.5.1', 'data'), 'protocol.utf8': ('553 5.6.7', 'mail'), 'protocol.errors': ('421 4.7.0', '-'),
    'protocol.foreign': ('554 5.5.1', '-'),
}
# No client can be made to read these.
EXEMPT = {
    'accepted': 'nothing objected',
    'undecided': 'a defect of ours by definition; test_verdict and test_receive make it',
    'requiretls.unmet': 'said of a next hop; REQUIRETLS is not offered to clients',
}

Fact = namedtuple('Fact', 'cause reply stage play')


def causes():
    """The names of the catalogue above the section of sending."""
    with open(os.path.join(ROOT, 'src', 'verdict', 'causes.def')) as file:
        text = file.read().split('/* Sending. */')[0]
    return re.findall(r'^CAUSE\(\w+, "([^"]+)"', text, re.M)


# ------------------------------------------------------------------ one row

def why(server, event, cause):
    """The story of the message or the session names the cause and says what it means; what was deferred is in the account, too."""
    ident = event.get('message') or event.get('session')
    if ident:
        def told():
            code, out, _ = server.run('why', ident, '--json')
            return code == 0 and f'"{cause}"' in out and '"meaning"' in out
        wait_until(f'`why {ident}` to tell of {cause}', told)
    if str(event.get('code', '')).startswith('4') and (event.get('from') or event.get('side') == 'ours'):
        wait_until(f'`why --in` to count {cause}', lambda: f'"{cause}"' in server.run('why', '--in', '--json')[1])


def tell(server, fact):
    metric, name = family(fact.reply or '421')
    counted, told = server.metric(metric, cause=fact.cause), len(server.events(name))
    answer = fact.play(server)
    if fact.reply:
        line = answer.lines[-1]
        assert line.startswith(fact.reply + ' '), f'wanted {fact.reply} ({fact.cause}), read {answer.lines}'
        assert f'({fact.cause})' in line or fact.cause.startswith('filter.milter.'), f'the reply does not name {fact.cause}: {line}'
    found = server._wait(f'the journal to tell of {fact.cause}', lambda: [
        one for one in server.events(name)[told:] if one.get('cause') == fact.cause])
    event = found[-1]
    code, _, enhanced = (fact.reply or '421 4.4.2').partition(' ')
    assert event['code'] == int(code), event
    assert event['enhanced'] == enhanced or fact.cause.startswith('filter.milter.'), event
    assert event.get('stage', '-') == fact.stage, f'wanted the stage {fact.stage}: {event}'
    assert event['side'] in ('ours', 'theirs', 'policy') and (event['side'] != 'ours' or code[0] == '4'), event
    now = server.metric(metric, cause=fact.cause)
    assert now > counted, f'{metric}{{cause="{fact.cause}"}} went from {counted} to {now}'
    why(server, event, fact.cause)
    DONE.add(fact.cause)


def row(server, cause, play):
    reply_, stage = TABLE[cause]
    if checks.run(cause, lambda: tell(server, Fact(cause, reply_, stage, play))):
        return
    print('# the journal ends with ' + '\n# '.join(server.lines[-3:]), flush=True)


def skip(names, reason):
    for name in names:
        SKIPPED[name] = reason
        checks.skip(name, reason)


def lines(*said, source='127.0.0.1', listener='smtp', tls=False, hello=True, last_only=True):
    """Plays those lines; the last reply. Those before it have to be good."""
    def play(server):
        client = Client(server.address(listener), tls=tls) if tls or listener != 'smtp' else FromAddress(server.address(), source)
        with client:
            answer = client.banner
            if answer.code != 220:
                return answer
            for number, line in enumerate((('EHLO client.example',) if hello else ()) + said):
                assert answer.code < 400 or not last_only, f'{answer.lines} before {line!r}'
                if isinstance(line, bytes):
                    client.send(line)
                    answer = client.reply()
                else:
                    answer = client.command(line)
            return answer
    return play


def whole(mail):
    return lambda server: mail.play(server)[0]


MAIL, RCPT = 'MAIL FROM:<a@[127.0.0.1]>', 'RCPT TO:<alice@home.example>'


def body(text):
    return text.encode() + b'\r\n.\r\n'


# ------------------------------------------------------------------ a plain server: dialogue, recipients, submission

def plain_login(name, password):
    return 'AUTH PLAIN ' + base64.b64encode(f'\0{name}\0{password}'.encode()).decode()


def plain():
    extra = ('listen submission { address = "127.0.0.1:0"  kind = submission }\n'
             'domain "strict.example" { users = "file:{folder}/users"  deliver = "maildir:{folder}/mail/{domain}/{user}"\n'
             '    disabled = refuse  full = refuse }\n'
             'domain "gone.example" { users = "file:{folder}/gone"  deliver = "maildir:{folder}/mail/{domain}/{user}" }\n'
             f'domain "away.example" {{ users = "ldap://127.0.0.1:{free_port()}/dc=x?mail?sub?(mail={{address}})"\n'
             '    deliver = "maildir:{folder}/mail/{domain}/{user}" }\n'
             f'domain "dove.example" {{ passwords = "dovecot:127.0.0.1:{free_port()}"  deliver = "maildir:{{folder}}/mail/{{domain}}/{{user}}" }}\n'
             'limits { recipients = 2  errors = 3  message_size = 20K  hops = 10 }\nauth { failures = 2  delay = 0s  domain = "home.example" }\n')
    server = FaultServer(extra, start=False)
    certificate, key = make_certificate(server.folder)
    if certificate:
        with open(server.config, 'a') as file:
            file.write(f'tls {{ certificate = "{certificate}"  key = "{key}" }}\n'
                       'listen submissions { address = "127.0.0.1:0"  kind = submission  tls = implicit }\n')
    write_file(server, 'users', f'alice:{HASHES["user"]}\nbob\ncarol\ndora:disabled=yes\nfil:full=yes\n')
    write_file(server, 'gone', 'x\n')
    with server:
        server.start()
        os.unlink(os.path.join(server.folder, 'gone'))
        row(server, 'recipient.unknown', lines(MAIL, 'RCPT TO:<nobody@home.example>'))
        row(server, 'recipient.disabled', lines(MAIL, 'RCPT TO:<dora@home.example>'))
        row(server, 'recipient.disabled.final', lines(MAIL, 'RCPT TO:<dora@strict.example>'))
        row(server, 'recipient.full', lines(MAIL, 'RCPT TO:<fil@home.example>'))
        row(server, 'recipient.full.final', lines(MAIL, 'RCPT TO:<fil@strict.example>'))
        row(server, 'recipient.too_many', lines(MAIL, RCPT, 'RCPT TO:<bob@home.example>', 'RCPT TO:<carol@home.example>'))
        row(server, 'relay.denied', lines(MAIL, 'RCPT TO:<x@far.example>'))
        row(server, 'directory.misconfigured', vanished)
        row(server, 'directory.unavailable', lines(MAIL, 'RCPT TO:<x@away.example>'))
        row(server, 'message.too_big', lines(MAIL + ' SIZE=30000'))
        row(server, 'message.loop', lines(MAIL, RCPT, 'DATA', body('Received: by x; 1\r\n' * 11 + 'Subject: x\r\n\r\nx')))
        row(server, 'message.malformed', lines(MAIL, RCPT, 'DATA', body('Subject: x\r\n\r\na\nb')))
        row(server, 'message.malformed.header', lines(MAIL, RCPT, 'DATA', body('Subject: x\r\nno field\r\n\r\nx')))
        row(server, 'client.lost', lost)
        row(server, 'protocol.unknown', lines('FROB'))
        row(server, 'protocol.syntax', lines('EHLO', hello=False))
        row(server, 'protocol.address', lines('MAIL FROM:<a@@b>'))
        row(server, 'protocol.not_implemented', lines('ETRN x.example'))
        row(server, 'protocol.sequence', lines(RCPT))
        row(server, 'protocol.parameter', lines(MAIL + ' FROB=1'))
        row(server, 'protocol.no_recipients', lines(MAIL, 'DATA'))
        row(server, 'protocol.utf8', lines(b'MAIL FROM:<\xc3\xa4@x.example>\r\n'))
        row(server, 'protocol.errors', lines(*(['FROB'] * 4), last_only=False))
        row(server, 'protocol.foreign', lines('GET / HTTP/1.1'))
        submission = ('tls.required', 'tls.unavailable', 'auth.required', 'auth.failed', 'auth.unavailable', 'auth.mechanism', 'auth.cancelled',
                      'auth.failures', 'sender.not_owned')
        if not certificate:
            skip(submission, 'no openssl command to make a certificate')
            return
        row(server, 'tls.required', lines(MAIL, listener='submission'))
        safe = {'listener': 'submissions', 'tls': True}
        row(server, 'auth.required', lines(MAIL, **safe))
        row(server, 'auth.failed', lines(plain_login('alice', 'wrong'), **safe))
        row(server, 'auth.unavailable', lines(plain_login('x@dove.example', 'x'), **safe))
        row(server, 'auth.mechanism', lines('AUTH CRAM-MD5', **safe))
        row(server, 'auth.cancelled', lines('AUTH PLAIN', '*', **safe))
        row(server, 'auth.failures', lines(*([plain_login('alice', 'wrong')] * 2), last_only=False, **safe))
        row(server, 'sender.not_owned', lines(plain_login('alice', 'secretpassword'), 'MAIL FROM:<bob@home.example>', **safe))
        without_keeper(server)


def without_keeper(server):
    """The keeper of the private key dies; the parent, which would start another one at once, is stopped before."""
    with open(f'/proc/{server.process.pid}/task/{server.process.pid}/children') as file:
        keepers = [int(pid) for pid in file.read().split() if int(pid) != server.worker_pid]
    if len(keepers) != 1:
        skip(('tls.unavailable',), f'one process beside the worker was expected, found {keepers}')
        return
    server.process.send_signal(signal.SIGSTOP)
    try:
        os.kill(keepers[0], signal.SIGKILL)
        wait_until('the keeper to be gone', lambda: os.path.exists(f'/proc/{keepers[0]}/fd') and not open_files(keepers[0]))
        row(server, 'tls.unavailable', lines('STARTTLS'))
        checks.ok('mail is taken in clear all the same', lines(MAIL, RCPT)(server).code == 250)
    finally:
        server.process.send_signal(signal.SIGCONT)

    def encrypted():
        with Client(server.address('submissions'), tls=True) as client:
            return client.command('EHLO client.example').code == 250
    wait_until('a keeper anew', lambda: quietly(encrypted))


def open_files(pid):
    try:
        return os.listdir(f'/proc/{pid}/fd')
    except OSError:
        return []


def quietly(play):
    """False where there is no connection yet."""
    try:
        return play()
    except OSError:
        return False


def vanished(server):
    """Files are looked at once a second."""
    answers = []

    def missed():
        answers.append(lines(MAIL, 'RCPT TO:<x@gone.example>')(server))
        return answers[-1].code == 451
    wait_until('the file to be missed', missed)
    return answers[-1]


def lost(server):
    with FromAddress(server.address(), '127.0.0.1') as client:
        for line in ('EHLO client.example', MAIL, RCPT, 'DATA'):
            client.command(line)
        client.send('Subject: x\r\n\r\nhalf of i')
        client.reset()


# ------------------------------------------------------------------ limits

def crowded():
    with FaultServer('limits { connections = 3  connections_per_client = 2 }\n') as server:
        kept = [FromAddress(server.address(), '127.0.0.1') for _ in range(2)]
        row(server, 'client.busy', lines(hello=False))
        kept.append(FromAddress(server.address(), '127.0.0.2'))
        row(server, 'server.busy', lines(hello=False, source='127.0.0.3'))
        for client in kept:
            client.close()


def idle(server):
    with FromAddress(server.address(), '127.0.0.9') as client:
        client.command('EHLO client.example')
        return client.reply()


def impatient():
    with FaultServer('limits { command_timeout = 500ms  client_messages = 1 }\ngreylist { enabled = yes }\n', start=False) as server:
        write_file(server, 'users', 'alice\n')
        server.start()
        row(server, 'client.idle', idle)
        row(server, 'greylisted', lines(MAIL, RCPT, source='127.0.0.5'))
        row(server, 'rate.limited', lines(MAIL, 'RSET', MAIL, source='127.0.1.6'))
        row(server, 'rate.exceeded', lines(MAIL, 'RSET', MAIL, MAIL, source='127.0.2.7', last_only=False))


def stopping():
    """A message under way keeps a stopping server, and its page, for a while; who is idle is told to go at once."""
    with FaultServer('', start=False) as server:
        write_file(server, 'users', 'alice\n')
        server.start()
        busy = FromAddress(server.address(), '127.0.0.2')
        for line in ('EHLO client.example', MAIL, RCPT, 'DATA'):
            assert busy.command(line).code in (250, 354)
        busy.send('Subject: under way\r\n\r\nhalf of it, ')

        def told(server):
            with FromAddress(server.address(), '127.0.0.1') as client:
                client.command('EHLO client.example')
                server.process.send_signal(signal.SIGTERM)
                return client.reply()
        row(server, 'server.stopping', told)
        reply_ = busy.command(b'and the rest\r\n.')
        checks.ok('what was under way is taken all the same', reply_.code == 250, reply_.lines)
        busy.close()
        checks.ok('and then the server is gone', server.process.wait(PATIENCE_S) == 0)


# ------------------------------------------------------------------ filters

def clamd_rows():
    fake = FakeClamd()

    def saying(answer):
        def play(server):
            fake.answer = answer
            try:
                return Mail(body='about ' + re.sub(r'\W', ' ', str(answer))).play(server)[0]
            finally:
                fake.answer = CLEAN
                assert Mail(body='between').play(server)[0].code == 250     # keeps the breaker closed
        return play
    with FaultServer(filter_text(fake.address, 'timeout = 1s').replace('timeout = 3s  ', '', 1), start=False) as server:
        write_file(server, 'users', 'alice\n')
        server.start()
        row(server, 'filter.crashed', saying(''))
        row(server, 'filter.garbled', saying('stream: '))
        row(server, 'filter.misconfigured', saying('Can\'t open database ERROR\0'))
        row(server, 'filter.refused', saying('stream: Some.Virus FOUND\0'))
        row(server, 'filter.unscannable', saying('INSTREAM size limit exceeded. ERROR\0'))
        row(server, 'filter.timeout', saying(None))
        fake.close()
        row(server, 'filter.unreachable', whole(Mail(body='unreachable')))
        for number in range(5):
            Mail(body=f'again {number}').play(server)
        row(server, 'filter.down', lines(hello=False))
    refusing = FakeClamd()
    with FaultServer(filter_text(refusing.address, 'on_fault = refuse  poison_after = 1  on_poison = refuse') +
                     'domain "open.example" { deliver = "maildir:{folder}/mail/{domain}/{user}"  filters = {} }\n', start=False) as server:
        write_file(server, 'users', 'alice\n')
        server.start()
        row(server, 'recipient.other_class', lines(MAIL, RCPT, 'RCPT TO:<x@open.example>'))
        refusing.answer = 'INSTREAM size limit exceeded. ERROR\0'
        row(server, 'filter.unscannable.final', whole(Mail()))
        poison(server, refusing, 'filter.poison.final')
    deferring = refusing
    with FaultServer(filter_text(deferring.address, 'poison_after = 1'), start=False) as server:
        write_file(server, 'users', 'alice\n')
        server.start()
        poison(server, deferring, 'filter.poison')
    refusing.close()


def poison(server, fake, cause):
    def play(server):
        fake.answer = ''
        assert Mail(body='poison').play(server)[0].code == 451
        fake.answer = CLEAN
        assert Mail(body='fine').play(server)[0].code == 250
        return Mail(body='poison').play(server)[0]
    row(server, cause, play)


class Talker(Milter):
    ANSWERS = {'reject': REJECT, 'tempfail': TEMPFAIL, 'four': reply('450 4.1.1 not yet'), 'five': reply('553 5.1.1 never'),
               'shutdown': SHUTDOWN, 'overloaded': b'f'}

    def mail(self, sender, words):
        return self.ANSWERS.get(sender.split('@')[0], CONTINUE)


def milter_rows():
    with MilterServer(Talker) as milters, FaultServer(f'filter talker {{ speaks = milter  address = "{milters.address}" }}\n') as server:
        for cause, sender in (('filter.milter.reject', 'reject'), ('filter.milter.tempfail', 'tempfail'), ('filter.milter.replycode.4', 'four'),
                              ('filter.milter.replycode.5', 'five'), ('filter.milter.shutdown', 'shutdown'), ('filter.overloaded', 'overloaded')):
            row(server, cause, lines(f'MAIL FROM:<{sender}@x.example>'))


# ------------------------------------------------------------------ DNS and what is published

def dns_rows():
    names = ScriptedDns({**CLIENTS, ('', 'NS'): 'ns.example.', ('null.example', 'MX'): '0 .', ('sick.example', None): 'SERVFAIL',
                         ('good.example', 'MX'): '10 mx.good.example.', ('mx.home.example', None): 'EMPTY',
                         ('9.0.0.127.bl.example', 'A'): '127.0.0.4'})
    with FaultServer(resolver_text(names.port, 'reverse_dns = enforce  sender_domain = require') + 'dnsbl "bl.example" { }\n') as server:
        row(server, 'sender.null_mx', lines('MAIL FROM:<a@null.example>', source='127.0.0.2'))
        row(server, 'sender.unresolvable', lines('MAIL FROM:<a@none.example>', source='127.0.0.2'))
        row(server, 'dns.sender.temperror', lines('MAIL FROM:<a@sick.example>', source='127.0.0.2'))
        row(server, 'reverse.absent', lines('MAIL FROM:<a@good.example>', source='127.0.0.3'))
        row(server, 'dns.reverse.temperror', lines('MAIL FROM:<a@good.example>', source='127.0.0.5'))
        row(server, 'dnsbl.listed', lines('MAIL FROM:<a@good.example>', source='127.0.0.9'))
        names.dead = True
        row(server, 'dns.resolver.down', lines(hello=False, source='127.0.3.1'))
    names.dead = False
    with FaultServer(resolver_text(names.port, 'sender_domain = require')) as server:
        row(server, 'sender.null_mx', lines('MAIL FROM:<a@null.example>'))
        names.dead = True
        row(server, 'dns.resolver.failed', lines('MAIL FROM:<a@good.example>'))
    names.close()


def published():
    if not shutil.which('openssl'):
        skip(('spf.fail', 'spf.permerror', 'dns.spf.temperror', 'dmarc.reject', 'dmarc.reject.multiple', 'dns.dkim.temperror',
              'dns.dmarc.temperror', 'dkim.none_passed', 'arc.fail'), 'no openssl command to make a key')
        return
    server = FaultServer(start=False)
    keys = Keys(server.folder)
    names = ScriptedDns({**NAMES, **{(f'ed._domainkey.{name}', 'TXT'): keys.record for name in ('reject.example', 'any.example', 'list.example')}})

    def signed(domain, selector, author, **more):
        return Message(keys.sign(letter(author), domain, selector), **{'sender': 'x@client.example', **more})
    with FaultServer(resolver_text(names.port, 'spf = enforce')) as one:
        row(one, 'spf.fail', whole(letter_of('a.example', 'x@fail.example')))
        row(one, 'spf.permerror', whole(letter_of('a.example', 'x@wrong.example')))
        row(one, 'dns.spf.temperror', whole(letter_of('a.example', 'x@sick.example')))
    with FaultServer(resolver_text(names.port, 'spf = record  dkim = record  dmarc = enforce  arc = record')) as one:
        changed = keys.sign(letter('reject.example'), 'reject.example', 'ed').replace('hello', 'hullo')
        row(one, 'dmarc.reject', whole(letter_of('reject.example')))
        row(one, 'dmarc.reject.multiple', whole(Message(changed, sender='x@fail.example')))
        row(one, 'dns.dkim.temperror', whole(signed('reject.example', 'sickkey', 'reject.example')))
        row(one, 'dns.dmarc.temperror', whole(letter_of('dmarcsick.example')))
    with FaultServer(resolver_text(names.port, 'dkim = enforce  arc = enforce')) as one:
        row(one, 'dkim.none_passed', whole(letter_of('any.example')))
        good = keys.sign(letter('any.example'), 'any.example', 'ed')
        sealed = keys.sign(good, 'list.example', 'ed', '--arc')
        row(one, 'arc.fail', whole(Message(keys.sign(sealed.replace('Subject: test', 'Subject: tost'), 'any.example', 'ed'))))
    names.close()
    shutil.rmtree(server.folder, ignore_errors=True)


# ------------------------------------------------------------------ the disk

def spool_rows():
    if not can_mount():
        skip(('spool.full', 'spool.down'), 'no loop mount here (needs root and mkfs.ext4)')
    else:
        with Disk() as disk, spool_on(disk) as server:
            write_file(server, 'users', 'alice\n')
            filler = os.path.join(disk.at, 'filler')
            space = os.statvfs(disk.at)
            with open(filler, 'wb') as file:
                os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (2 << 20))
            row(server, 'spool.full', until('452', lines(MAIL)))
            os.unlink(filler)
        with Disk() as disk, spool_on(disk, 'history = "{folder}/history"\n') as server:
            write_file(server, 'users', 'alice\n')
            assert Mail().play(server)[0].code == 250
            disk.shut_down()
            for _ in range(10):
                answer = Mail().play(server)[0]
                assert 400 <= answer.code < 500, answer.lines
            row(server, 'spool.down', until('421', lines(hello=False)))
    if not shutil.which('strace'):
        skip(('spool.failed',), 'strace is not installed')
        return
    with FaultServer(start=False) as server:
        write_file(server, 'users', 'alice\n')
        server.start()
        assert Mail().play(server)[0].code == 250
        server.wait_events('message.ended', 1)          # so that the next sync is that of the next message
        trace = subprocess.Popen(['strace', '-f', '-qq', '-e', 'trace=fdatasync', '-e', 'inject=fdatasync:error=EIO:when=1',
                                  '-o', os.path.join(server.folder, 'trace'), '-p', str(server.worker_pid)],
                                 stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until('strace to be attached', lambda: attached(server.worker_pid))
            row(server, 'spool.failed', whole(Mail()))
        finally:
            trace.terminate()
            trace.wait()


def until(code, play):
    """The state of the disk is sampled, not asked for each message."""
    def again(server):
        answers = []

        def said():
            answers.append(play(server))
            assert answers[-1].code < 500, answers[-1].lines
            return answers[-1].lines[-1].startswith(code)
        wait_until(code, said)
        return answers[-1]
    return again


# ------------------------------------------------------------------ the table is whole

def complete():
    known = set(causes())
    missing = known - set(TABLE) - set(EXEMPT)
    assert not missing, f'causes of the receiving side without a row here: {sorted(missing)}'
    strange = (set(TABLE) | set(EXEMPT)) - known
    assert not strange, f'rows of no cause: {sorted(strange)}'
    idle_rows = set(TABLE) - DONE - set(SKIPPED)
    assert not idle_rows, f'rows that nothing produced: {sorted(idle_rows)}'


SETUPS = (plain, crowded, impatient, stopping, clamd_rows, milter_rows, dns_rows, published, spool_rows)


def main():
    wanted = sys.argv[1:]
    for setup in SETUPS:
        if not wanted or setup.__name__ in wanted:
            try:
                setup()
            except (AssertionError, OSError, subprocess.SubprocessError) as fault:
                checks.ok(setup.__name__, False, fault)
    if not wanted:
        checks.run('every cause of the receiving side has its row', complete)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
