#!/usr/bin/env python3
"""on_fault = scan_later: while clamd is down mail is taken, waits in the queue with the filter's cause, and is scanned by the server
itself: clean mail is delivered then, infected mail goes back to its sender, nothing is delivered before; restarts change nothing."""
import json
import os
import shutil

from lib import Checks, wait_until
from lib_faults import EICAR, FaultServer, Mail, expect, expect_accepted, write_file
from test_faults_filter import CLEAN, Clamd, FakeClamd

checks = Checks()
QUICK = 'retry { schedule = {200ms}  warn_after = 1h  expire_after = 5d  jitter = 0 }\n'


def later(address, more=''):
    return f'filter scan {{ speaks = clamd  address = "{address}"  timeout = 3s  on_fault = scan_later  {more} }}\n{QUICK}'


def take(server, body, sender='sender@home.example', to='alice@home.example'):
    answer, where = Mail(sender=sender, to=to, body=body).play(server)
    assert (answer.code, where) == (250, 'dot'), (answer.lines, where)
    return answer.lines[-1].split()[-1]


def waits(server, ident, cause):
    """In the queue, with the filter's cause; `why` says what it waits for."""
    def shown():
        _, out, _ = server.run('queue', '--json')
        return any(one['message'] == ident and one['state'] == 'deferred' and one.get('cause') == cause for one in json.loads(out))
    wait_until(f'{ident} to wait with {cause}', shown)
    told = server.run('why', ident)[1]
    assert 'to be scanned later' in told and cause in told, told
    assert server.events('message.held'), 'the journal does not say that it waits'


def mails(server, user='alice'):
    return server.mails(user, 'home.example')


def outage(server, clamd):
    clean, infected = take(server, 'one clean letter'), take(server, EICAR)
    two = take(server, 'to two', to='bob@home.example')
    for ident in (clean, infected, two):
        waits(server, ident, 'filter.unreachable')
    wait_until('the queue to be counted', lambda: server.metric('holdfast_queue_messages') == 3)
    assert server.metric('holdfast_deliveries_total', cause='filter.unreachable') >= 3
    server.stop()
    server.start()                                      # what is on the disk says that it is unscanned
    for ident in (clean, infected):
        waits_again(server, ident)
    server.kill()
    server.start()
    assert not mails(server) and not mails(server, 'bob'), 'delivered unscanned'
    clamd.start()
    wait_until('the clean letters', lambda: len(mails(server)) == 1 and len(mails(server, 'bob')) == 1)
    assert b'one clean letter' in mails(server)[0]
    wait_until('the sender to be told', lambda: len(mails(server, 'sender')) == 1)
    bounce = mails(server, 'sender')[0]
    assert b'5.7.1' in bounce and b'filter.refused' in bounce and b'Final-Recipient: rfc822; alice@home.example' in bounce, bounce
    wait_until('the queue to be empty', lambda: server.metric('holdfast_queue_messages') == 0)
    assert len(mails(server)) == 1, 'the infected message was delivered'
    assert any(event.get('text', '').startswith('scanned, and found clean') for event in server.events('message.released'))
    story = server.run('why', clean)[1]
    assert 'filter.unreachable' in story and 'scanned, and found clean' in story, story
    expect(server, Mail(body=EICAR), '550 5.7.1', 'filter.refused', 'dot')      # scanned in the session again
    expect_accepted(server, Mail(body='as ever'))


def waits_again(server, ident):
    assert ident in server.run('queue')[1], f'{ident} is not in the queue any more'


def real():
    if not shutil.which('clamd'):
        checks.skip('a real clamd', 'clamd is not installed (clamav-daemon)')
        return
    with FaultServer(later('unix:{folder}/clamd/clamd.sock'), start=False) as server:
        write_file(server, 'users', 'alice\nbob\nsender\n')
        clamd = Clamd(os.path.join(server.folder, 'clamd'))
        try:
            server.start()
            checks.run('clamd down: taken, kept through a restart and a kill, scanned later', lambda: outage(server, clamd))
        finally:
            clamd.kill()


def by_order(server, fake):
    """The operator's retry does not get round the scan; a verdict by half is none."""
    fake.answer = ''
    ident = take(server, 'wait for it')
    waits(server, ident, 'filter.crashed')
    for answer in ('', 'stream: ', 'stream: O'):
        fake.answer = answer
        assert server.run('retry', ident)[0] in (0, 1)
    assert not mails(server)
    fake.answer = CLEAN
    wait_until('it to be delivered', lambda: len(mails(server)) == 1)


def too_large(server, fake):
    """Later it would be as large: told at once."""
    fake.answer = 'INSTREAM size limit exceeded. ERROR\0'
    expect(server, Mail(body='large'), '451 4.7.1', 'filter.unscannable', 'dot')
    fake.answer = CLEAN


def many(server, fake):
    """More than are scanned at a time, with deliveries that fail first: each is delivered once."""
    fake.answer = ''
    before = len(mails(server))
    for number in range(60):
        take(server, f'number {number}')
    assert len(mails(server)) == before
    fake.answer = CLEAN
    wait_until('all of them', lambda: len(mails(server)) == before + 60)
    wait_until('the queue to be empty', lambda: server.metric('holdfast_queue_messages') == 0)
    assert len(mails(server)) == before + 60


def milter_is_refused():
    with FaultServer('', start=False) as server:
        with open(server.config, 'a') as file:
            file.write('filter m { speaks = milter  address = "127.0.0.1:9"  on_fault = scan_later }\n')
        code, _, err = server.run('config', 'check')
        assert code == 1 and 'scan_later is for clamd and spamd' in err + _, (code, err)


def main():
    real()
    fake = FakeClamd()
    with FaultServer(later(fake.address), start=False) as server:
        write_file(server, 'users', 'alice\nbob\nsender\n')
        server.start()
        checks.run('a retry by the operator is scanned, too', lambda: by_order(server, fake))
        checks.run('too large to be scanned at all', lambda: too_large(server, fake))
        checks.run('sixty at once', lambda: many(server, fake))
    fake.close()
    checks.run('a milter cannot scan later', milter_is_refused)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
