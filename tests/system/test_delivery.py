#!/usr/bin/env python3
"""What becomes of accepted mail: Maildirs, a real Dovecot's LMTP, scripted and real next hops, retries, bounces, expiry,
and a server that is killed in the middle. Every message ends exactly once."""
import email
import email.policy
import grp
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading

from lib import Checks, Client, Server, wait_until
from lib_hop import NextHop

checks = Checks()
RETRY = 'retry {{ schedule = {{{every}}}  warn_after = {warn}  expire_after = {expire}  ambiguous_pause = {pause}  jitter = 0 }}\n'


def retry(every='200ms', warn='1h', expire='5d', pause='1s'):
    return RETRY.format(every=every, warn=warn, expire=expire, pause=pause)


def far(port, domain='far.example'):
    return f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "{domain}" {{ via = "smtp:127.0.0.1:{port}" }}\n'


def send(server, to, sender='alice@rcpt.test', body='Subject: hello\r\n\r\nline\r\n..dots\r\n', mail='', rcpt=''):
    """Hands a message in; its id, when the journal has it."""
    with Client(server.address('smtp')) as client:
        assert client.command('EHLO client.example').code == 250
        assert client.command(f'MAIL FROM:<{sender}>{mail}').code == 250
        for address in [to] if isinstance(to, str) else to:
            reply = client.command(f'RCPT TO:<{address}>{rcpt}')
            assert reply.code == 250, reply
        assert client.command('DATA').code == 354
        client.send(body.replace('\r\n.', '\r\n..') + '.\r\n')
        reply = client.reply()
        assert reply.code == 250, reply
        client.command('QUIT')
    message = re.search(r'Accepted as (\S+)', reply.lines[-1]).group(1)
    server.wait_events('message.accepted', 1, message=message)
    return message


def reset(hop):
    hop.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))


def planned(*plan):
    """A next hop whose connections go by the plan, one entry each; then it is an ordinary one."""
    left, lock = list(plan), threading.Lock()

    def script(hop):
        with lock:
            entry = left.pop(0) if left else None
        if entry:
            entry(hop)
        else:
            hop.say('220 hop')
            hop.serve()
    return script


def answers(**replies):
    def script(hop):
        hop.say('220 hop')
        hop.serve(**replies)
    return script


def once(stage, text):
    """Says `text` the first time that a reply of this stage is due; an ordinary next hop from then on."""
    def script(hop):
        left = [text]
        hop.say('220 hop')
        recipients = []
        while True:
            verb = hop.line()[:4].lower()
            if verb == 'quit' or not verb:
                return
            if verb == 'rcpt':
                recipients.append(hop.lines[-1][8:].rstrip('>').lstrip('<'))
            if verb == stage and left:
                hop.say(left.pop())
                continue
            hop.say('354 go' if verb == 'data' else '250 fine')
            if verb == 'data':
                body = hop.body()
                if stage == 'dot' and left:
                    hop.say(left.pop())
                else:
                    hop.owner.messages.append(('', recipients, body))
                    hop.say('250 taken')
                recipients = []
    return script


def cut(stage, hard):
    """Ends the connection where the reply of that stage is due."""
    def script(hop):
        if stage != 'banner':
            hop.say('220 hop')
            while True:
                verb = hop.line()[:4].lower()
                if verb == stage or not verb:
                    break
                hop.say('354 go' if verb == 'data' else '250 hop')
                if verb == 'data':
                    hop.body()
                    break
        if hard:
            reset(hop)
    return script


def banner(text):
    def script(hop):
        hop.say(text)
        hop.line()
    return script


# ---------------------------------------------------------------- Maildir

def maildir():
    with Server() as server:
        message = send(server, ['alice@rcpt.test', 'bob@demo.example'], sender='x@elsewhere.example')
        server.wait_events('delivery.done', 2, message=message)
        for user, domain in (('alice', 'rcpt.test'), ('bob', 'demo.example')):
            mail, = server.wait_mails(user, 1, domain)
            assert mail.startswith(b'Return-Path: <x@elsewhere.example>\nDelivered-To: %s@%s\n' % (user.encode(), domain.encode())), mail
            assert b'\r' not in mail and mail.endswith(b'\n\nline\n..dots\n'), mail
            assert mail.count(b'\nReceived: ') == 1
        server.wait_events('message.ended', 1, message=message)
        assert server.stop() == 0


def maildir_large():
    body = 'Subject: large\r\n\r\n' + ''.join(f'{number} {"x" * 60}\r\n' for number in range(60000))
    with Server() as server:
        send(server, 'alice@rcpt.test', body=body)
        mail, = server.wait_mails('alice', 1)
        assert mail.endswith(body.replace('\r\n', '\n').split('\n\n', 1)[1].encode())


def maildir_broken_then_mended():
    with Server(extra=retry()) as server:
        folder = os.path.join(server.folder, 'mail', 'rcpt.test')
        with open(folder, 'w') as file:
            file.write('in the way')
        message = send(server, 'alice@rcpt.test')
        event = server.wait_events('delivery.deferred', 2, message=message)[0]
        assert event['cause'] == 'mailbox.misconfigured' and event['side'] == 'ours', event
        os.unlink(folder)
        server.wait_events('delivery.done', 1, message=message)
        assert len(server.wait_mails('alice', 1)) == 1


# ---------------------------------------------------------------- SMTP next hop

def next_hop():
    with NextHop(planned()) as hop, Server(extra=far(hop.port)) as server:
        message = send(server, ['a@far.example', 'b@far.example'])
        server.wait_events('delivery.done', 2, message=message)
        (sender, recipients, body), = hop.messages
        assert sender == 'alice@rcpt.test' and sorted(recipients) == ['a@far.example', 'b@far.example']
        assert body.endswith(b'Subject: hello\r\n\r\nline\r\n...dots\r\n'), body    # stuffed, as seen on the wire


STAGES = [
    ('banner', banner('421 4.3.2 come back'), 'remote.deferred', 421),
    ('ehlo', once('ehlo', '450 4.3.2 come back'), 'remote.deferred', 450),
    ('mail', once('mail', '452 4.3.1 come back'), 'remote.deferred', 452),
    ('rcpt', once('rcpt', '450 4.2.1 come back'), 'remote.deferred', 450),
    ('data', once('data', '451 4.3.0 come back'), 'remote.deferred', 451),
    ('dot', once('dot', '451 4.7.1 come back'), 'remote.deferred', 451),
    ('banner', banner('SSH-2.0-OpenSSH_9.2'), 'remote.garbled', None),
    ('rcpt', once('rcpt', 'what is this?'), 'remote.garbled', None),
    ('banner', cut('banner', False), 'session.lost', None),
    ('banner', cut('banner', True), 'session.lost', None),
    ('ehlo', cut('ehlo', True), 'session.lost', None),
    ('mail', cut('mail', True), 'session.lost', None),
    ('rcpt', cut('rcpt', True), 'session.lost', None),
    ('data', cut('data', True), 'session.lost', None),
    ('dot', cut('dot', False), 'ambiguous.dot', None),
    ('dot', cut('dot', True), 'ambiguous.dot', None),
]


def one_stage(stage, fault, cause, code):
    with NextHop(planned(fault)) as hop, Server(extra=far(hop.port) + retry()) as server:
        message = send(server, 'a@far.example')
        event = server.wait_events('delivery.deferred', 1, message=message)[0]
        assert (event['stage'], event['cause'], event.get('code')) == (stage, cause, code), event
        assert event['attempt'] == 1 and event['to'] == 'a@far.example' and '127.0.0.1' in event['mx'], event
        if code:
            assert 'come back' in event['text'], event
        done = server.wait_events('delivery.done', 1, message=message)[0]
        assert done['attempt'] == 2, done
        server.wait_events('message.ended', 1, message=message)
        assert len(hop.messages) == 1, hop.messages


def slow_bytes():
    """A reply that dribbles in, byte by byte, is a reply."""
    def script(hop):
        for byte in b'220-slow\r\n220 hop\r\n':
            hop.raw(bytes([byte]))
        hop.serve(dot='250-2.0.0 many\r\n250 2.0.0 lines')
    with NextHop(script) as hop, Server(extra=far(hop.port)) as server:
        message = send(server, 'a@far.example')
        done = server.wait_events('delivery.done', 1, message=message)[0]
        assert done['code'] == 250, done


def greylisted():
    """The time that the reply names is kept: not earlier, though the schedule is shorter."""
    with NextHop(planned(once('rcpt', '451 4.7.1 Greylisted, try again in 3 seconds'))) as hop, \
            Server(extra=far(hop.port) + retry()) as server:
        message = send(server, 'a@far.example')
        event = server.wait_events('delivery.deferred', 1, message=message)[0]
        done = server.wait_events('delivery.done', 1, message=message)[0]
        assert done['time'] >= event['next'] > event['time'], (event, done)


def refused_connection():
    listener = socket.create_server(('127.0.0.1', 0))
    port = listener.getsockname()[1]
    listener.close()
    with Server(extra=far(port) + retry()) as server:
        message = send(server, 'a@far.example')
        event = server.wait_events('delivery.deferred', 1, message=message)[0]
        assert event['cause'] == 'connect.refused' and event['stage'] == 'connect', event
        with socket.create_server(('127.0.0.1', port)) as late:
            late.settimeout(30)
            connection, _ = late.accept()   # it comes again by itself
            connection.close()


# ---------------------------------------------------------------- bounces

def report_of(mail):
    """The parts of an RFC 3464 report: (top, text, [fields of each block], returned part)."""
    top = email.message_from_bytes(mail, policy=email.policy.default)
    assert top.get_content_type() == 'multipart/report' and top.get_param('report-type') == 'delivery-status', top['Content-Type']
    text, status, returned = top.iter_parts()
    assert status.get_content_type() == 'message/delivery-status'
    return top, text.get_content(), list(status.iter_parts()) or status.get_payload(), returned


def bounce():
    lines = '550-5.1.1 The account does not exist.\r\n550 5.1.1 Check the spelling. q123'
    with NextHop(answers(rcpt=lines)) as hop, Server(extra=far(hop.port)) as server:
        message = send(server, 'nobody@far.example')
        failed = server.wait_events('delivery.failed', 1, message=message)[0]
        assert failed['cause'] == 'remote.refused' and failed['code'] == 550 and failed['enhanced'] == '5.1.1', failed
        server.wait_events('message.bounced', 1, message=message)
        mail, = server.wait_mails('alice', 1)
        assert mail.startswith(b'Return-Path: <>\n')
        top, text, blocks, returned = report_of(mail)
        assert top['To'] and 'alice@rcpt.test' in top['To'] and top['Auto-Submitted'], top.items()
        assert 'nobody@far.example' in text
        about, recipient = blocks[0], blocks[1]
        assert 'mx.test' in about['Reporting-MTA'] and about['Arrival-Date']
        assert recipient['Action'] == 'failed' and recipient['Status'] == '5.1.1'
        assert recipient['Final-Recipient'].replace(' ', '') == 'rfc822;nobody@far.example'
        assert 'does not exist' in recipient['Diagnostic-Code'] and 'q123' in recipient['Diagnostic-Code']
        assert 'Subject: hello' in returned.as_string()
        assert len(server.events('message.accepted')) >= 1 and len(server.mails('alice')) == 1


def no_bounce_of_a_bounce():
    with NextHop(answers(rcpt='550 5.1.1 no')) as hop, Server(extra=far(hop.port)) as server:
        message = send(server, 'nobody@far.example', sender='')
        server.wait_events('delivery.failed', 1, message=message)
        server.wait_events('message.ended', 1, message=message)
        never = send(server, 'nobody@far.example', rcpt=' NOTIFY=NEVER')
        server.wait_events('message.ended', 1, message=never)
        last = send(server, 'alice@rcpt.test')    # goes the same way, behind whatever a bounce would be
        server.wait_events('delivery.done', 1, message=last)
        assert not server.events('message.bounced') and len(server.mails('alice')) == 1


def expiry():
    with NextHop(answers(rcpt='451 4.2.2 try once more')) as hop, \
            Server(extra=far(hop.port) + retry(expire='2s')) as server:
        message = send(server, 'a@far.example')
        server.wait_events('message.expired', 1, message=message)
        assert len(server.events('delivery.deferred')) >= 2
        mail, = server.wait_mails('alice', 1)
        recipient = report_of(mail)[2][1]
        assert recipient['Action'] == 'failed' and recipient['Status'] == '4.2.2', recipient.items()
        assert 'try once more' in recipient['Diagnostic-Code']


def delay_notice():
    with NextHop(answers(rcpt='451 4.2.1 busy')) as hop, Server(extra=far(hop.port) + retry(warn='1s')) as server:
        message = send(server, 'a@far.example', rcpt=' NOTIFY=DELAY,FAILURE ORCPT=rfc822;first@asked.example')
        mail, = server.wait_mails('alice', 1)
        attempts = len(server.events('delivery.deferred'))
        server.wait_events('delivery.deferred', attempts + 3, message=message)
        assert len(server.mails('alice')) == 1
        recipient = report_of(mail)[2][1]
        assert recipient['Action'] == 'delayed' and recipient['Will-Retry-Until'], recipient.items()
        assert 'first@asked.example' in recipient['Original-Recipient']


def success_notice():
    with NextHop(planned()) as hop, Server(extra=far(hop.port)) as server:
        send(server, 'a@far.example', rcpt=' NOTIFY=SUCCESS', mail=' ENVID=my+2Bid RET=HDRS')
        mail, = server.wait_mails('alice', 1)
        blocks = report_of(mail)[2]
        assert blocks[1]['Action'] == 'relayed' and blocks[0]['Original-Envelope-Id'] == 'my+id'


# ---------------------------------------------------------------- Dovecot's LMTP

DOVECOT = '''
base_dir = {folder}/run
log_path = {folder}/log
protocols = lmtp
ssl = no
default_internal_user = {user}
default_login_user = {user}
default_internal_group = {group}
mail_location = maildir:{folder}/mail/%n
first_valid_uid = 0
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {folder}/users
}}
lda_mailbox_autocreate = yes
service lmtp {{
  chroot =
  user = {user}
  unix_listener {folder}/lmtp {{
    mode = 0600
    user = {user}
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
'''


def dovecot_start(folder):
    """As whoever runs the test; Dovecot refuses mailboxes of root's, so those are nobody's then."""
    own = pwd.getpwuid(os.getuid())
    user = pwd.getpwnam('nobody') if own.pw_uid == 0 else own
    names = {'folder': folder, 'user': own.pw_name, 'group': grp.getgrgid(own.pw_gid).gr_name}
    os.chmod(folder, 0o755)
    for sub in ('mail', 'home'):
        os.mkdir(os.path.join(folder, sub))
        os.chown(os.path.join(folder, sub), user.pw_uid, user.pw_gid)
    with open(os.path.join(folder, 'users'), 'w') as file:
        for name in ('alice', 'bob'):
            file.write(f'{name}:{{PLAIN}}x:{user.pw_uid}:{user.pw_gid}::{folder}/home/{name}\n')
        # A user whose mail cannot be written: a file stands where the folder would be.
        file.write(f'carol:{{PLAIN}}x:{user.pw_uid}:{user.pw_gid}::{folder}/home/carol::userdb_mail=maildir:{folder}/users/no\n')
    config = os.path.join(folder, 'dovecot.conf')
    with open(config, 'w') as file:
        file.write(DOVECOT.format(**names))
    process = subprocess.Popen(['dovecot', '-F', '-c', config], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def ready():
        assert process.poll() is None, open(os.path.join(folder, 'log')).read() if os.path.exists(os.path.join(folder, 'log')) else 'dovecot ended'
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(os.path.join(folder, 'lmtp'))
                return True
        except OSError:
            return False
    wait_until('dovecot', ready)
    return process


def dovecot_lmtp():
    folder = tempfile.mkdtemp(prefix='holdfast-dovecot-')
    process = dovecot_start(folder)
    try:
        extra = f'domain "lmtp.example" {{ deliver = "lmtp:unix:{folder}/lmtp" }}\n' + retry(every='500ms')
        with Server(extra=extra) as server:
            message = send(server, [f'{name}@lmtp.example' for name in ('alice', 'bob', 'carol', 'unknown')])
            done = server.wait_events('delivery.done', 2, message=message)
            assert sorted(event['to'] for event in done) == ['alice@lmtp.example', 'bob@lmtp.example'], done
            failed, = server.wait_events('delivery.failed', 1, message=message)
            assert failed['to'] == 'unknown@lmtp.example' and failed['code'] == 550 and failed['stage'] == 'rcpt', failed
            deferred = server.wait_events('delivery.deferred', 2, message=message)
            assert {event['to'] for event in deferred} == {'carol@lmtp.example'} and deferred[0]['code'] in (450, 451, 452), deferred
            stored = wait_until('mail of alice', lambda: [os.path.join(base, name) for base, _, names in os.walk(f'{folder}/mail/alice/new') for name in names])
            with open(stored[0], 'rb') as file:
                assert b'\n\nline\n..dots\n' in file.read()
            bounce_mail, = server.wait_mails('alice', 1)
            assert report_of(bounce_mail)[2][1]['Final-Recipient'].endswith('unknown@lmtp.example')
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------- many, and a real sink

def many_to_smtp_sink():
    count = 300
    with socket.create_server(('127.0.0.1', 0)) as probe:
        port = probe.getsockname()[1]
    user = ['-u', 'nobody'] if os.getuid() == 0 else []
    sink = subprocess.Popen(['smtp-sink', *user, f'127.0.0.1:{port}', '100'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def up():
            try:
                return socket.create_connection(('127.0.0.1', port)).close() is None
            except OSError:
                return False
        wait_until('smtp-sink', up)
        with Server(extra=far(port)) as server:
            with Client(server.address('smtp')) as client:
                client.command('EHLO c.example')
                for number in range(count):
                    client.send(f'MAIL FROM:<alice@rcpt.test>\r\nRCPT TO:<u{number}@far.example>\r\nDATA\r\n')
                    assert [reply.code for reply in client.replies(3)] == [250, 250, 354]
                    client.send('Subject: x\r\n\r\nx\r\n.\r\n')
                    assert client.reply().code == 250
            done = server.wait_events('delivery.done', count)
            assert len({event['to'] for event in done}) == count and len(done) == count
            assert not server.events('delivery.deferred'), server.events('delivery.deferred')[:1]
    finally:
        sink.terminate()
        sink.wait()


# ---------------------------------------------------------------- killed in the middle

def accepted_burst(server, count, domain, tag):
    """Hands in `count` messages; the subjects of those that were answered 250."""
    taken = []
    with Client(server.address('smtp')) as client:
        client.command('EHLO c.example')
        for number in range(count):
            client.send(f'MAIL FROM:<>\r\nRCPT TO:<alice@{domain}>\r\nDATA\r\n')
            assert [reply.code for reply in client.replies(3)] == [250, 250, 354]
            client.send(f'Subject: {tag}-{number}\r\n\r\nx\r\n.\r\n')
            assert client.reply().code == 250
            taken.append(f'{tag}-{number}')
    return taken


def subjects(mails):
    return sorted(email.message_from_bytes(mail)['Subject'] for mail in mails)


def killed_with_maildir():
    """Killed while Maildirs are written, several times: one copy of each, none lost."""
    folder = tempfile.mkdtemp(prefix='holdfast-test-')
    try:
        taken = []
        for turn in range(4):
            server = Server(folder=folder)
            taken += accepted_burst(server, 60, 'rcpt.test', f'turn{turn}')
            wait_until('some deliveries', lambda: len(server.mails('alice')) > len(taken) - 60 + 5 * turn)
            server.kill()
        with Server(folder=folder) as server:
            server.wait_mails('alice', len(taken))
            last = send(server, 'bob@rcpt.test')
            server.wait_events('delivery.done', 1, message=last)
            assert subjects(server.mails('alice')) == sorted(taken)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def killed_with_next_hop():
    """Killed while the next hop has not answered the dot: sent again, never lost; what was settled before is not repeated."""
    folder = tempfile.mkdtemp(prefix='holdfast-test-')
    stuck, gone = threading.Event(), threading.Event()

    def hang_at_the_dot(hop):
        hop.say('220 hop')
        for reply in ('250 hop', '250 ok', '250 ok', '354 go'):
            hop.line()
            hop.say(reply)
        hop.body()
        stuck.set()
        gone.wait(60)

    try:
        with NextHop(planned()) as hop:
            server = Server(folder=folder, extra=far(hop.port) + retry())
            first = [send(server, f'first{number}@far.example') for number in range(5)]
            server.wait_events('message.ended', len(first))
            hop.script = hang_at_the_dot
            wait_until('kept connections to go', lambda: all(line.lines and line.lines[-1] == 'QUIT' for line in hop.hops))
            second = send(server, 'second@far.example')
            assert stuck.wait(30)
            server.kill()
            gone.set()
            hop.script = planned()
            with Server(folder=folder, extra=far(hop.port) + retry()) as server:
                server.wait_events('delivery.done', 1, message=second)
                server.wait_events('message.ended', 1, message=second)
                counts = [sum(to == [f'first{number}@far.example'] for _, to, _ in hop.messages) for number in range(5)]
                assert counts == [1] * 5, counts
                assert sum(to == ['second@far.example'] for _, to, _ in hop.messages) == 1
    finally:
        gone.set()
        shutil.rmtree(folder, ignore_errors=True)


def killed_while_relaying():
    """Killed again and again under load: nothing is lost, and only what was between its dot and its record may come twice."""
    folder = tempfile.mkdtemp(prefix='holdfast-test-')
    kills, most_in_flight = 4, 20
    try:
        with NextHop(planned()) as hop:
            extra, taken = far(hop.port) + retry(), []
            for turn in range(kills):
                server = Server(folder=folder, extra=extra)
                before = len(hop.messages)
                taken += accepted_burst(server, 80, 'far.example', f'turn{turn}')
                wait_until('some deliveries', lambda: len(hop.messages) > before + 20 * turn)
                server.kill()
            with Server(folder=folder, extra=extra) as server:
                def arrived():
                    return [email.message_from_bytes(body)['Subject'] for _, _, body in hop.messages]
                wait_until('all messages', lambda: set(arrived()) == set(taken))
                last = send(server, 'bob@rcpt.test')
                server.wait_events('delivery.done', 1, message=last)
                twice = len(arrived()) - len(taken)
                assert twice <= kills * most_in_flight, twice
                assert server.stop() == 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def deferred_over_a_restart():
    """What waits for its next try is tried when it is due, by the server of then."""
    folder = tempfile.mkdtemp(prefix='holdfast-test-')
    try:
        with NextHop(planned(once('rcpt', '451 4.3.0 later'))) as hop:
            extra = far(hop.port) + retry(every='2s')
            with Server(folder=folder, extra=extra) as server:
                message = send(server, 'a@far.example')
                server.wait_events('delivery.deferred', 1, message=message)
            with Server(folder=folder, extra=extra) as server:
                done = server.wait_events('delivery.done', 1, message=message)[0]
                assert done['attempt'] == 2, done
                assert len(hop.messages) == 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


TESTS = [maildir, maildir_large, maildir_broken_then_mended, next_hop, slow_bytes, greylisted, refused_connection, bounce,
         no_bounce_of_a_bounce, expiry, delay_notice, success_notice, killed_with_maildir, killed_with_next_hop, killed_while_relaying,
         deferred_over_a_restart]


def main():
    only = sys.argv[1:]
    for test in TESTS:
        if not only or test.__name__ in only:
            checks.run(test.__name__, test)
    for number, row in enumerate(STAGES):
        if not only or 'stages' in only:
            checks.run(f'stage {row[0]} {row[2]} {number}', lambda: one_stage(*row))
    for test, tool in ((dovecot_lmtp, 'dovecot'), (many_to_smtp_sink, 'smtp-sink')):
        if only and test.__name__ not in only:
            continue
        if not shutil.which(tool) or (tool == 'dovecot' and not os.path.exists('/usr/lib/dovecot/lmtp')):
            checks.skip(test.__name__, f'{tool} is not installed')
        else:
            checks.run(test.__name__, test)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
