#!/usr/bin/env python3
"""`filters` of a domain: one message, recipients whose domains have different filters. Under SMTP the later ones are told 452 4.5.3 and
taken in a transaction of their own; under PRDR and LMTP each gets its own reply at the dot. Real clamd and spamd where they are
installed, and a milter of the tests'. Nobody's mail goes past a filter that his domain has."""
import os
import re
import shutil
import tempfile

from lib import Checks, Client, wait_until
from lib_faults import EICAR, FaultServer, FromAddress, write_file
from lib_load import why_in
from lib_milter import CONTINUE, REJECT, Milter, MilterServer
from test_faults_filter import CLEAN, Clamd, FakeClamd
from test_filter_memory import SlowSpamd
from test_filter_programs import spamd

checks = Checks()
GTUBE = 'XJS*C4JDBQADN1.NSBN3*2IDNEN*' + 'GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X'
DOMAINS = {'virus.example': '{"clamav"}', 'spam.example': '{"spam"}', 'both.example': '{"all"}', 'open.example': '{}'}


def house(clamav, spam, more=''):
    text = ''.join(f'domain "{name}" {{ users = "file:{{folder}}/users"  aliases = "file:{{folder}}/aliases"  filters = {filters}\n'
                   '    deliver = "maildir:{folder}/mail/{domain}/{user}" }\n' for name, filters in DOMAINS.items())
    server = FaultServer(f'{text}listen lmtp {{ address = "127.0.0.1:0"  kind = lmtp }}\n'
                         f'filter clamav {{ speaks = clamd  address = "{clamav}"  timeout = 100s  connect_timeout = 60s }}\n'
                         f'filter spam {{ speaks = spamd  address = "{spam}"  reject_score = 100  timeout = 100s  connect_timeout = 60s }}\n'
                         f'limits {{ after_dot = 500s }}\n{more}', start=False)
    write_file(server, 'users', 'alice\nbob\n')
    write_file(server, 'aliases', 'list: alice@virus.example\n')
    return server


def letter(number, body):
    return f'From: <a@client.example>\r\nTo: <x@y.example>\r\nSubject: {number}\r\nMessage-ID: <{number}@client.example>\r\n\r\n{body}\r\n.\r\n'


def begin(server, kind, sender='a@[127.0.0.1]', source='127.0.0.5'):
    if kind == 'lmtp':
        client = Client(server.address('lmtp'))
        assert client.command('LHLO client.example').code == 250
    else:
        client = FromAddress(server.address(), source)
        assert client.command('EHLO client.example').code == 250
    client.socket.settimeout(520)       # spamd is slow on a busy machine, and is asked once for each class
    assert client.command(f'MAIL FROM:<{sender}>{" PRDR" if kind == "prdr" else ""}').code == 250
    return client


def send(server, kind, recipients, text, **more):
    """The replies to RCPT, and those after the dot."""
    with begin(server, kind, **more) as client:
        said = [client.command(f'RCPT TO:<{to}>') for to in recipients]
        taken = sum(1 for one in said if one.code == 250)
        assert client.command('DATA').code == 354
        client.send(text)
        if kind == 'prdr' and taken > 1:
            assert client.reply().code == 353
        count = {'smtp': 1, 'lmtp': taken, 'prdr': taken + 1 if taken > 1 else 1}[kind]
        return said, client.replies(count)


def lines(replies):
    return [one.lines[-1] for one in replies]


def accepted(reply):
    return reply.code == 250 and re.search(r'Accepted as ([0-9A-Z]+)', reply.lines[-1])


def in_mailbox(server, address, number):
    user, domain = address.split('@')
    return sum(1 for mail in server.mails(user, domain) if f'Subject: {number}\r\n'.encode() in mail.replace(b'\r\n', b'\n').replace(b'\n', b'\r\n'))


def expect_only(server, number, wanted):
    """In these mailboxes once, in no other; the queue is empty."""
    wait_until(f'{number} in {wanted}', lambda: all(in_mailbox(server, address, number) for address in wanted))
    wait_until('the queue to be empty', lambda: server.metric('holdfast_queue_messages') == 0)
    found = {f'{user}@{domain}': in_mailbox(server, f'{user}@{domain}', number) for domain in DOMAINS for user in ('alice', 'bob')}
    assert {address for address, count in found.items() if count} == set(wanted) and max(found.values(), default=0) <= 1, found


# ------------------------------------------------------------------ one message, two answers

def by_smtp(server):
    """The first recipient's class is the transaction's; the rest is told to come again, and does."""
    said, dot = send(server, 'smtp', ['alice@virus.example', 'bob@open.example', 'bob@virus.example'], letter('smtp-1', EICAR))
    assert [one.code for one in said] == [250, 452, 250], lines(said)
    assert said[1].lines[-1].startswith('452 4.5.3 ') and said[1].lines[-1].endswith('(recipient.other_class)'), lines(said)
    assert dot[0].code == 550 and dot[0].lines[-1].endswith('(filter.refused)'), lines(dot)
    assert why_in(server)['by_cause'].get('recipient.other_class') == 1, why_in(server)
    said, dot = send(server, 'smtp', ['bob@open.example'], letter('smtp-1', EICAR))
    assert accepted(dot[0]), lines(dot)
    expect_only(server, 'smtp-1', ['bob@open.example'])
    wait_until('the account to say that it came back', lambda: why_in(server)['came_back'] == 1)
    assert server.metric('holdfast_deferrals_total', cause='recipient.other_class') == 1


def by_prdr(server):
    to = ['alice@virus.example', 'bob@open.example', 'bob@virus.example']
    said, dot = send(server, 'prdr', to, letter('prdr-1', EICAR))
    assert [one.code for one in said] == [250, 250, 250], lines(said)
    assert [one.code for one in dot] == [550, 250, 550, 250], lines(dot)
    assert dot[3].lines[-1] == '250 2.0.0 Accepted for 1 of 3 recipients', lines(dot)
    expect_only(server, 'prdr-1', ['bob@open.example'])
    refused = [one for one in server.events('message.refused') if one.get('from') == 'a@[127.0.0.1]'][-1]
    assert (refused['cause'], refused['filter'], refused['to']) == ('filter.refused', 'clamav', 'alice@virus.example'), refused
    said, dot = send(server, 'prdr', to[::2], letter('prdr-2', EICAR))              # one class: as ever
    assert [one.code for one in dot] == [550, 550, 550], lines(dot)
    said, dot = send(server, 'prdr', to, letter('prdr-3', 'clean'))
    assert [one.code for one in dot] == [250, 250, 250, 250] and dot[3].lines[-1].endswith('3 of 3 recipients'), lines(dot)
    expect_only(server, 'prdr-3', to)


def by_lmtp(server):
    to = ['bob@open.example', 'alice@virus.example', 'bob@spam.example', 'alice@both.example']
    said, dot = send(server, 'lmtp', to, letter('lmtp-1', EICAR))
    assert [one.code for one in dot] == [250, 550, 250, 550], lines(dot)
    assert len({accepted(one).group(1) for one in dot if one.code == 250}) == 2, 'one message for two classes'
    expect_only(server, 'lmtp-1', ['bob@open.example', 'bob@spam.example'])
    said, dot = send(server, 'lmtp', to, letter('lmtp-2', GTUBE))
    assert [one.code for one in dot] == [250, 250, 550, 550], lines(dot)
    expect_only(server, 'lmtp-2', ['bob@open.example', 'alice@virus.example'])


def fields_of_each(server):
    """What a filter writes into the message is in the messages of its domains alone."""
    to = ['alice@virus.example', 'bob@spam.example', 'alice@both.example', 'bob@open.example']
    _, dot = send(server, 'lmtp', to, letter('fields', 'clean'))
    assert [one.code for one in dot] == [250] * 4, lines(dot)
    expect_only(server, 'fields', to)
    for address in to:
        user, domain = address.split('@')
        mail = next(mail for mail in server.mails(user, domain) if b'Subject: fields' in mail)
        assert (b'X-Spam-' in mail) == (domain in ('spam.example', 'both.example')), mail[:800]
        assert mail.count(b'Received: ') == 1 and b'\nclean' in mail.replace(b'\r', b''), mail


def aliases(server):
    """open.example has no filter, but its alias leads to a domain that has one."""
    said, dot = send(server, 'smtp', ['list@open.example'], letter('alias-1', EICAR))
    assert dot[0].code == 550, lines(dot)
    said, dot = send(server, 'lmtp', ['list@open.example', 'bob@open.example'], letter('alias-2', EICAR))
    assert [one.code for one in dot] == [550, 250], lines(dot)
    expect_only(server, 'alias-2', ['bob@open.example'])


def own_clients(server):
    """A mail program does not come again by itself: all the filters of its recipients judge the whole."""
    to = ['bob@open.example', 'alice@virus.example']
    said, dot = send(server, 'smtp', to, letter('own-1', EICAR), source='127.0.9.9')
    assert [one.code for one in said] == [250, 250] and dot[0].code == 550, lines(said + dot)
    said, dot = send(server, 'smtp', to, letter('own-2', 'clean'), source='127.0.9.9')
    assert accepted(dot[0]), lines(dot)
    expect_only(server, 'own-2', to)


def large(server):
    """A body that has a file of its own on the disk, copied for each class; more than clamd scans (StreamMaxLength)."""
    to = [f'{user}@{domain}' for user in ('alice', 'bob') for domain in ('virus.example', 'open.example', 'spam.example')]
    body = '\r\n'.join(f'{number:060d}' for number in range(8000))
    _, dot = send(server, 'lmtp', to, letter('large', body))
    assert [one.code for one in dot] == [451, 250, 250] * 2 and '(filter.unscannable)' in dot[0].lines[-1], lines(dot)
    assert len({accepted(one).group(1) for one in dot if one.code == 250}) == 2, lines(dot)
    to = [address for address in to if 'virus' not in address]
    expect_only(server, 'large', to)
    for address in to:
        mail = next(mail for mail in server.mails(*address.split('@')) if b'Subject: large' in mail)
        assert body.encode() in mail.replace(b'\r\n', b'\n').replace(b'\n', b'\r\n'), 'not the whole body'


def down(server, kill, start):
    """A filter that only some domains have is down: the others' mail goes on, under each protocol; theirs is deferred, never taken."""
    kill()
    for number in range(5):
        said, dot = send(server, 'lmtp', ['alice@virus.example', 'bob@open.example'], letter(f'down-{number}', f'clean {number}'))
        assert [one.code for one in dot] == [451, 250], lines(dot)

    def breaker():
        return server.metric('holdfast_breaker_open', dependency='clamav') == 1
    wait_until('the breaker to open', breaker)
    with begin(server, 'smtp') as client:       # no 421 at connect, no 451 at MAIL: nobody is named yet
        reply = client.command('RCPT TO:<alice@virus.example>')
        assert reply.code == 451 and re.search(r'\(filter\.(unreachable|crashed)\)$', reply.lines[-1]), reply.lines
        assert client.command('RCPT TO:<bob@open.example>').code == 250
        assert client.command('DATA').code == 354
        client.send(letter('down-9', 'clean'))
        assert client.reply().code == 250
    expect_only(server, 'down-9', ['bob@open.example'])
    for number in range(5):
        expect_only(server, f'down-{number}', ['bob@open.example'])
    start()
    wait_until('the breaker to close', lambda: not breaker())
    _, dot = send(server, 'lmtp', ['alice@virus.example', 'bob@open.example'], letter('healed', 'clean'))
    assert [one.code for one in dot] == [250, 250], lines(dot)


def real():
    if not shutil.which('clamd') or not shutil.which('spamd'):
        checks.skip('classes with real clamd and spamd', 'clamav-daemon or spamd is not installed')
        return
    folder = tempfile.mkdtemp(prefix='holdfast-spamd-')
    os.chmod(folder, 0o755)
    program = spamd(folder)
    server = house('unix:{folder}/clamd/clamd.sock', f'127.0.0.1:{program.port}', 'relay { from = {"127.0.9.0/24"} }\n')
    clamd = Clamd(os.path.join(server.folder, 'clamd'))
    try:
        clamd.start()
        program.start()
        with server:
            server.start()
            checks.run('SMTP: 452 4.5.3 for the other class, which comes again', lambda: by_smtp(server))
            checks.run('PRDR: each its own reply', lambda: by_prdr(server))
            checks.run('LMTP: each its own reply, by clamd and by spamd', lambda: by_lmtp(server))
            checks.run('fields of a filter are in the mail of its domains alone', lambda: fields_of_each(server))
            checks.run('an alias brings the filters of where it leads', lambda: aliases(server))
            checks.run('a client of our own: all filters judge the whole', lambda: own_clients(server))
            checks.run('three classes of a large body', lambda: large(server))
            checks.run('clamd down: the others go on', lambda: down(server, clamd.kill, clamd.start))
    finally:
        clamd.kill()
        program.kill()
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------ milters

class Picky(Milter):
    """Hates a sender at MAIL, a recipient at RCPT, and a subject at the end; remembers what it heard of each message."""

    def mail(self, sender, words):
        return REJECT if sender.startswith('hated') else CONTINUE

    def rcpt(self, recipient, words):
        return REJECT if recipient.startswith('bob@milter') else CONTINUE

    def end(self):
        self.owner.heard.append(list(self.recipients))
        return [REJECT if ('Subject', 'hated') in self.headers else CONTINUE]


def milters():
    with MilterServer(Picky) as picky:
        picky.heard = []
        text = ''.join(f'domain "{name}" {{ users = "file:{{folder}}/users"  filters = {filters}\n'
                       '    deliver = "maildir:{folder}/mail/{domain}/{user}" }\n'
                       for name, filters in (('milter.example', '{"picky"}'), ('open.example', '{}')))
        server = FaultServer(f'{text}listen lmtp {{ address = "127.0.0.1:0"  kind = lmtp }}\n'
                             f'filter picky {{ speaks = milter  address = "{picky.address}" }}\n', start=False)
        write_file(server, 'users', 'alice\nbob\ncarol\n')

        def at_mail():
            """What it says of the sender is told to its recipients alone, each time."""
            for kind in ('smtp', 'lmtp'):
                with begin(server, kind, sender='hated@[127.0.0.1]') as client:
                    answers = [client.command(f'RCPT TO:<{to}>').code for to in (
                        'alice@milter.example', 'carol@milter.example', 'alice@open.example', 'carol@open.example')]
                    assert answers == [550, 550, 250, 250], answers

        def at_rcpt():
            with begin(server, 'lmtp') as client:
                answers = [client.command(f'RCPT TO:<{to}>').code for to in (
                    'bob@open.example', 'bob@milter.example', 'carol@milter.example')]
                assert answers == [250, 550, 250], answers

        def at_the_dot():
            picky.heard.clear()
            to = ['alice@open.example', 'alice@milter.example', 'carol@open.example', 'carol@milter.example']
            text = letter('hated', 'x')
            _, dot = send(server, 'lmtp', to, text)
            assert [one.code for one in dot] == [250, 550, 250, 550], lines(dot)
            assert picky.heard == [['alice@milter.example', 'carol@milter.example']], picky.heard
            _, dot = send(server, 'lmtp', to, letter('liked', 'x'))
            assert [one.code for one in dot] == [250] * 4, lines(dot)
            assert picky.heard[1:] == [['alice@milter.example', 'carol@milter.example']], picky.heard
            with begin(server, 'smtp') as client:
                answers = [client.command(f'RCPT TO:<{name}>').code for name in (to[0], to[1], to[2])]
                assert answers == [250, 452, 250], answers
                assert client.command('DATA').code == 354
                client.send(letter('hated', 'y'))
                assert client.reply().code == 250
            assert len(picky.heard) == 2, 'a milter was asked about mail that is not its domain\'s'
        with server:
            server.start()
            checks.run('a milter of some domains objects to a sender', at_mail)
            checks.run('a milter of some domains objects to a recipient', at_rcpt)
            checks.run('a milter of some domains hears of their recipients alone', at_the_dot)


def fakes():
    """Where the real programs are absent, and for what they cannot be made to do."""
    fake, other = FakeClamd(), FakeClamd()
    text = ''.join(f'domain "{name}" {{ users = "file:{{folder}}/users"  filters = {filters}  deliver = "maildir:{{folder}}/mail/{{domain}}/{{user}}" }}\n'
                   for name, filters in (('a.example', '{"one"}'), ('b.example', '{"two"}'), ('open.example', '{}')))
    server = FaultServer(f'{text}listen lmtp {{ address = "127.0.0.1:0"  kind = lmtp }}\n'
                         f'filter one {{ speaks = clamd  address = "{fake.address}"  timeout = 3s }}\n'
                         f'filter two {{ speaks = clamd  address = "{other.address}"  timeout = 3s  on_fault = hold }}\n', start=False)
    write_file(server, 'users', 'alice\n')

    def each():
        fake.answer, other.answer = '', ''
        to = ['alice@a.example', 'alice@b.example', 'alice@open.example']
        _, dot = send(server, 'lmtp', to, letter('each', 'x'))
        assert [one.code for one in dot] == [451, 250, 250], lines(dot)
        wait_until('the one without filters', lambda: server.mails('alice', 'open.example'))
        wait_until('b.example\'s to be held', lambda: server.metric('holdfast_queue_messages', state='held') == 1)
        assert not server.mails('alice', 'b.example')
        fake.answer = other.answer = CLEAN

    def wrong():
        write_file(server, 'wrong.conf', 'hostname = "x.example"\nspool = "s"\nfilter one { speaks = clamd  address = "127.0.0.1:1" }\n'
                   'domain "a.example" { deliver = "maildir:/x/{user}"\n filters = {"one", "nope"} }\n')
        server.config, kept = os.path.join(server.folder, 'wrong.conf'), server.config
        code, out, err = server.run('config', 'check')
        server.config = kept
        assert code == 1 and 'wrong.conf:5: domain "a.example": filters: "nope" is none of the filters here' in out + err, (code, out, err)
    try:
        with server:
            server.start()
            checks.run('a fault, a hold and no filter: each its own', each)
            checks.run('a filter that is none is an error with its line', wrong)
    finally:
        fake.close()
        other.close()


def scores():
    """A reject score for each domain: a section `filter` each, with the same spamd behind them."""
    scanner = SlowSpamd()
    scanner.let.set()
    scanner.score = 7
    text = ''.join(f'domain "{name}.example" {{ users = "file:{{folder}}/users"  filters = {{"{name}"}}  deliver = "maildir:{{folder}}/mail/{{domain}}/{{user}}" }}\n'
                   f'filter {name} {{ speaks = spamd  address = "{scanner.address}"  reject_score = {score}  timeout = 100s }}\n'
                   for name, score in (('patient', 15), ('strict', 5)))
    with FaultServer(text, start=False) as server:
        write_file(server, 'users', 'alice\n')
        server.start()

        def play():
            said, dot = send(server, 'smtp', ['alice@strict.example'], letter('score-1', 'x'))
            assert dot[0].code == 550 and dot[0].lines[-1].endswith('(filter.refused)'), lines(dot)
            said, dot = send(server, 'smtp', ['alice@patient.example', 'alice@strict.example'], letter('score-2', 'x'))
            assert [one.code for one in said] == [250, 452] and accepted(dot[0]), (lines(said), lines(dot))
            wait_until('the mail', lambda: in_mailbox(server, 'alice@patient.example', 'score-2'))
        checks.run('a reject score for each domain', play)
    scanner.close()


def main():
    scores()
    fakes()
    milters()
    real()
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
