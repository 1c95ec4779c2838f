#!/usr/bin/env python3
"""Aliases that lead to other hosts: the sender is rewritten (SRS) and a bounce finds its way back to the original one, a loop is
noticed by Delivered-To, and what leaves is sealed with ARC. The next hops are scripted, so that what they were told is seen."""
import os
import re

from lib import Checks, Client, Server, wait_until
from lib_hop import NextHop
from test_delivery import send
from test_directory_delivery import changing

checks = Checks()
SECRET, OTHER = 'first-secret-of-the-test', 'second-secret-of-the-test'
TEXT = """
hostname = "mx.home.example"
spool = "{folder}/spool"
listen smtp { address = "127.0.0.1:0" }
retry { schedule = {200ms}  jitter = 0 }
domain "home.example" { users = "file:{folder}/users"  aliases = "file:{folder}/aliases"  deliver = "maildir:{folder}/mail/{domain}/{user}" }
forward { srs_domain = "home.example"  srs_secrets = "{folder}/secrets" }
relay { via = "smtp:127.0.0.1:ORIGIN" }
route "far.example" { via = "smtp:127.0.0.1:FAR" }
verp "owner-list@home.example" { }
verp "rewritten@origin.example" { }
log { format = json  level = info }
"""
ALIASES = 'fwd: x@far.example\nboth: x@far.example, y@far.example, alice\nother: z@far.example\nloop: loop@far.example\nlist: x@far.example, y@far.example\nowner-list: alice\n'


class House:
    def __init__(self, far, origin):
        self.far, self.origin = far, origin
        self.server = Server(text=TEXT.replace('FAR', str(far.port)).replace('ORIGIN', str(origin.port)), start=False)
        self.write('users', 'alice\n')
        self.write('aliases', ALIASES)
        self.write('secrets', f'# newest first\n{SECRET}\n')

    def write(self, name, text):
        with open(os.path.join(self.server.folder, name + '.new'), 'w') as file:
            file.write(text)
        os.rename(file.name, os.path.join(self.server.folder, name))

    def forwarded(self, to='fwd@home.example', sender='Bob.B=x@origin.example', **more):
        before = len(self.far.messages)
        message = send(self.server, to, sender=sender, **more)
        self.server.wait_events('message.ended', 1, message=message)
        return self.far.messages[before:]

    def rcpt(self, to, sender=''):
        with Client(self.server.address()) as client:
            client.command('EHLO c.example')
            client.command(f'MAIL FROM:<{sender}>')
            return client.command(f'RCPT TO:<{to}>')


CASES = {}


def case(function):
    CASES[function.__name__.replace('_', ' ')] = function
    return function


@case
def the_sender_is_rewritten(house):
    (sender, to, body), = house.forwarded()
    assert re.fullmatch(r'SRS0=[a-z2-7]{6}=[a-z2-7]{2}=origin\.example=Bob\.B=x@home\.example', sender), sender
    assert to == ['x@far.example'] and body.startswith(b'Delivered-To: fwd@home.example\r\nReceived: '), body[:200]
    house.address = sender


@case
def size_counts_what_goes_on_top(house):
    said = [line for hop in house.far.hops for line in hop.lines if line.startswith('MAIL')]
    assert any('SRS0=' in line for line in said), said


@case
def a_notification_finds_the_original_sender(house):
    house.server.wait_events('message.ended', 1, message=send(house.server, house.address, sender=''))
    sender, to, body = house.origin.messages[-1]
    assert sender == '' and to == ['Bob.B=x@origin.example'], (sender, to)
    assert b'Delivered-To: SRS0=' in body


@case
def case_may_be_folded(house):
    before = len(house.origin.messages)
    house.server.wait_events('message.ended', 1, message=send(house.server, house.address.lower(), sender=''))
    assert house.origin.messages[before:][0][1] == ['bob.b=x@origin.example']


@case
def only_for_notifications(house):
    reply = house.rcpt(house.address, sender='spammer@bad.example')
    assert reply.code == 550 and 'relay.denied' in reply.lines[-1], reply.lines


@case
def what_is_not_ours_is_refused(house):
    local = house.address.split('@')[0]
    tag, mark, day, domain, user = local.split('=', 4)
    wrong = [f'{tag}={mark}={day}={domain}={user}x', f'{tag}={mark}={day}=victim.example={user}', f'{tag}=aaaaaa={day}={domain}={user}',
             f'{tag}={mark}=zz={domain}={user}', f'{tag}={mark}={day}={domain}', f'{tag}={mark}', f'{tag}==', 'SRS0=', 'SRS1=a=b', 'SRS1=aaaaaa=b==c',
             f'SRS1={mark}={day}={domain}={user}', f'{tag}={mark}=', f'{tag}={mark}={day}==']
    for one in wrong:
        reply = house.rcpt(f'{one}@home.example')
        assert reply.code == 550 and 'recipient.unknown' in reply.lines[-1], (one, reply.lines)
    for cut in range(6, len(local)):
        assert house.rcpt(f'{local[:cut]}@home.example').code // 100 == 5, local[:cut]


@case
def rewritten_a_second_time(house):
    """SRS1 keeps the first forwarder, who checks the age, and this house; a third one keeps the same length."""
    (sender, _, _), = house.forwarded(sender='SRS0=HHH=TT=origin.example=bob@first.example')
    assert re.fullmatch(r'SRS1=[a-z2-7]{6}=first\.example==HHH=TT=origin\.example=bob@home\.example', sender), sender
    house.server.wait_events('message.ended', 1, message=send(house.server, sender, sender=''))
    assert house.origin.messages[-1][1] == ['SRS0=HHH=TT=origin.example=bob@first.example'], house.origin.messages[-1]
    (third, _, _), = house.forwarded(sender='SRS1=GGGG=first.example==HHH=TT=origin.example=bob@second.example')
    assert third == sender, third


@case
def nobody_else_is_rewritten(house):
    assert house.forwarded(sender='')[0][0] == ''
    assert house.forwarded(sender='alice@home.example')[0][0] == 'alice@home.example'
    (sender, _, body), = house.forwarded(to='both@home.example')
    assert sender.startswith('SRS0=') and body.count(b'Delivered-To: both@home.example') == 1
    copy = house.server.wait_mails('alice', 1, 'home.example')[0]
    assert copy.startswith(b'Return-Path: <Bob.B=x@origin.example>\nDelivered-To: alice@home.example\n'), copy[:200]


@case
def aliases_do_not_learn_of_each_other(house):
    got = house.forwarded(to=['fwd@home.example', 'other@home.example'])
    assert sorted((to, re.findall(rb'Delivered-To: (\S+)', body)) for _, to, body in got) == [
        (['x@far.example'], [b'fwd@home.example']), (['z@far.example'], [b'other@home.example'])], got


@case
def secrets_change_without_a_restart(house):
    house.write('secrets', f'{OTHER}\n{SECRET}\n')
    wait_until('the new secret to be used', lambda: house.forwarded()[0][0] != house.address)
    assert house.rcpt(house.address).code == 250        # the former one still counts
    (fresh, _, _), = house.forwarded()
    house.write('secrets', f'{OTHER}\n')
    wait_until('the former secret to be forgotten', lambda: house.rcpt(house.address).code == 550)
    assert house.rcpt(fresh).code == 250


@case
def secrets_that_cannot_be_read_defer(house):
    """Nothing leaves with a sender that SPF would fail for, and no bounce is refused."""
    path = os.path.join(house.server.folder, 'secrets')
    os.rename(path, path + '.away')
    wait_until('the server to notice', lambda: house.rcpt(house.address).code == 451)
    before = len(house.far.messages)
    message = send(house.server, 'fwd@home.example', sender='bob@origin.example')
    event = house.server.wait_events('delivery.deferred', 1, message=message)[0]
    assert event['cause'] == 'directory.misconfigured' and 'secrets: ' in event['text'], event
    assert len(house.far.messages) == before
    house.write('secrets', 'short\n')
    os.rename(path + '.away', path)
    house.server.wait_events('message.ended', 1, message=message)


@case
def a_loop_is_refused(house):
    """The far host sends it back: at its second round Delivered-To tells, with one 5yz in the session."""
    (_, _, body), = house.forwarded(to='loop@home.example')
    with Client(house.server.address()) as client:
        for line in ('EHLO far.example', 'MAIL FROM:<bob@origin.example>', 'RCPT TO:<LOOP@home.example>'):
            assert client.command(line).code == 250
        assert client.command('DATA').code == 354
        client.send(body.replace(b'\r\n.', b'\r\n..') + b'.\r\n')
        reply = client.reply()
        assert reply.code == 554 and 'message.loop' in reply.lines[-1], reply.lines
        for line in ('MAIL FROM:<bob@origin.example>', 'RCPT TO:<alice@home.example>'):
            assert client.command(line).code == 250
        assert client.command('DATA').code == 354
        client.send(body.replace(b'\r\n.', b'\r\n..') + b'.\r\n')
        assert client.reply().code == 250               # it was never delivered to alice


@case
def a_refused_forward_is_told_to_the_original_sender(house):
    house.far.refuse['rcpt'] = '550 5.7.1 not wanted'
    try:
        before = len(house.origin.messages)
        message = send(house.server, 'fwd@home.example', sender='bob@origin.example')
        house.server.wait_events('message.bounced', 1, message=message)
        wait_until('the bounce', lambda: len(house.origin.messages) > before)
        sender, to, body = house.origin.messages[-1]
        assert (sender, to) == ('', ['bob@origin.example']), (sender, to)
        assert b'Final-Recipient: rfc822; x@far.example' in body and b'not wanted' in body
    finally:
        house.far.refuse.clear()


@case
def the_owner_of_a_list_hears_whose_it_was(house):
    """VERP by the sender on the wire: the list's owner, for each member another; the answer finds the owner."""
    copies = house.forwarded('list@home.example', sender='author@origin.example')
    assert [(sender, to) for sender, to, _ in copies] == [(f'owner-list+{who}=far.example@home.example', [f'{who}@far.example']) for who in 'xy'], copies
    before = len(house.server.mails('alice', 'home.example'))
    house.server.wait_events('message.ended', 1, message=send(house.server, copies[0][0], sender=''))
    assert len(house.server.mails('alice', 'home.example')) == before + 1


@case
def a_rewritten_sender_has_no_verp(house):
    """The rule is for a sender of origin.example, which leaves as one of ours (SRS): that is another, and stays whole."""
    (sender, _, _), = house.forwarded(sender='rewritten@origin.example')
    assert re.fullmatch(r'SRS0=[a-z2-7]{6}=[a-z2-7]{2}=origin\.example=rewritten@home\.example', sender), sender


def main():
    with changing() as far, changing() as origin:
        house = House(far, origin)
        with house.server:
            house.server.start()
            for name, test in CASES.items():
                checks.run(name, lambda test=test: test(house))
            checks.ok('the next hops had no complaint', not far.faults + origin.faults, far.faults + origin.faults)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
