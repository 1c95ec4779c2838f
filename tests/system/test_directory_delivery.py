#!/usr/bin/env python3
"""Where the directory sends mail: users with a `deliver` of their own (file, SQLite, LDAP, PostgreSQL), and lists with an
owner, who is the sender of what goes to the members and hears of failures."""
import os
import re
import sqlite3

from lib import Checks, Server, wait_until
from lib_directory import SLAPD, Postgres, Slapd, postgres_program, skip_without
from lib_faults import Mail
from lib_hop import NextHop
from test_delivery import send

checks = Checks()
BASE = Slapd.SUFFIX
USERS = """alice:deliver=maildir:{folder}/other/{domain}/{user}/{tag}
bob:deliver=lmtp:127.0.0.1:PORT
carol
dan:deliver=smtp:127.0.0.1:PORT
"""
ALIASES = """staff: alice, bob, carol
news: :include:{folder}/members
owner-news: carol
quiet: :include:{folder}/members
"""
TEXT = """
hostname = "mx.home.example"
spool = "{folder}/spool"
listen smtp { address = "127.0.0.1:0" }
relay { from = {"127.0.0.0/8"} }
retry { schedule = {200ms}  jitter = 0 }
directory { own_delivery = "maildir:{folder}/other lmtp:127.0.0.1:PORT smtp:127.0.0.1:PORT" }
DOMAINS
route "far.example" { via = "smtp:127.0.0.1:FAR" }
log { format = json  level = info }
"""


def domain(name, users, more=''):
    return f'domain "{name}" {{ users = "{users}"  {more}  deliver = "maildir:{{folder}}/mail/{{domain}}/{{user}}" }}\n'


def build(port, far, domains):
    server = Server(text=TEXT.replace('DOMAINS', domains).replace('FAR', str(far)).replace('PORT', str(port)), start=False)
    for name, text in (('users', USERS), ('aliases', ALIASES), ('members', 'carol\nx@far.example\ny@far.example\n')):
        with open(os.path.join(server.folder, name), 'w') as file:
            text = text.replace('{folder}', server.folder)
            file.write(text.replace('PORT', str(port)))
    return server


def ended(server, message):
    server.wait_events('message.ended', 1, message=message)


def own_maildir(server, *parts):
    folder = os.path.join(server.folder, 'other', *parts, 'new')
    return [open(os.path.join(folder, name), 'rb').read() for name in os.listdir(folder)] if os.path.isdir(folder) else []


def own_ways(server, hop, name):
    before = len(hop.messages)
    for user in ('alice+tag', 'bob', 'carol', 'dan'):
        ended(server, send(server, f'{user}@{name}'))
    assert len(own_maildir(server, name, 'alice', 'tag')) == 1, os.listdir(server.folder)
    assert not server.mails('alice', name) and not server.mails('bob', name)
    assert len(server.mails('carol', name)) == 1
    got = [(sender, to) for sender, to, _ in hop.messages[before:]]
    assert got == [('alice@rcpt.test', [f'bob@{name}']), ('alice@rcpt.test', [f'dan@{name}'])], got


def by_alias(server, hop):
    before = len(hop.messages)
    ended(server, send(server, 'staff@home.example'))
    assert len(own_maildir(server, 'home.example', 'alice')) == 1
    assert hop.messages[before:][0][1] == ['bob@home.example']


def outlives_a_restart(server, hop):
    """What waits for a user's own next hop still goes there after a kill -9."""
    hop.refuse['rcpt'] = '451 later'
    before = len(hop.messages)
    message = send(server, 'bob@home.example')
    server.wait_events('delivery.deferred', 1, message=message)
    server.kill()
    hop.refuse.clear()
    server.start()
    ended(server, message)
    assert hop.messages[before:][-1][1] == ['bob@home.example']


def told_by_commands(server, port):
    code, out, _ = server.run('route', 'bob@home.example')
    assert code == 0 and out.startswith(f'lmtp:127.0.0.1:{port}\n'), (code, out)
    code, out, _ = server.run('route', 'alice@home.example')
    assert code == 0 and 'maildir:home.example\n' in out and f'maildir:{server.folder}/other/' in out, (code, out)
    code, out, _ = server.run('alias', 'expand', 'news@home.example')
    assert code == 0 and 'x@far.example\n    as mail from owner-news@home.example\n' in out, (code, out)


def misconfigured(server):
    got, stage = Mail(to='mallory@sql.example').play(server)
    assert got.code == 451 and stage == 'rcpt' and 'directory.misconfigured' in got.lines[-1], got.lines
    got, stage = Mail(to='trudy@sql.example').play(server)
    assert got.code == 451 and 'directory.misconfigured' in got.lines[-1], got.lines
    assert 'own_delivery' in server.wait_events('message.deferred', 2)[-1]['text']
    assert 'pipe: is for the configuration only' in server.wait_events('message.deferred')[-2]['text']


def list_with_owner(server, far):
    """The members get it from owner-news; its author, from himself; the header stays as it was."""
    ended(server, send(server, 'news@home.example', body='From: a@rcpt.test\r\nSubject: news\r\n\r\nhello\r\n',
                       mail=' RET=HDRS ENVID=E1', rcpt=' NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;news@home.example'))
    sender, to, body = far.messages[-1]
    assert sender == 'owner-news@home.example' and sorted(to) == ['x@far.example', 'y@far.example'], (sender, to)
    assert b'\r\nList-' not in body and b'Subject: news\r\n' in body
    copy = wait_until('the local copy', lambda: [m for m in server.mails('carol', 'home.example') if b'Subject: news' in m])[0]
    assert copy.startswith(b'Return-Path: <owner-news@home.example>\n'), copy[:200]


def success_is_told(server, address, action, rcpt=' NOTIFY=SUCCESS,FAILURE'):
    """Once, of the alias or list itself; its members are not asked to tell of theirs."""
    message = send(server, address, sender='carol@home.example', rcpt=rcpt + ' ORCPT=rfc822;asked@old.example', mail=' ENVID=E2')
    ended(server, message)
    def mine():
        return [mail for mail in server.mails('carol', 'home.example') if message.encode() in mail and b'report-type=delivery-status' in mail]
    told = wait_until('the notification', mine)
    server.wait_events('message.ended', 3)
    assert len(told) == 1, told
    facts = (b'Action: ' + action, b'Final-Recipient: rfc822; ' + address.encode(), b'Original-Recipient: rfc822;asked@old.example', b'Status: 2.0.0', b'Original-Envelope-Id: E2')
    assert all(fact + b'\n' in told[0] for fact in facts) and told[0].count(b'Action: ') == 1, told[0]


def list_without_owner(server, far):
    ended(server, send(server, 'quiet@home.example'))
    assert far.messages[-1][0] == 'alice@rcpt.test', far.messages[-1]


def refused_at_a_list(server, far):
    """The owner gets the bounce, whose recipient is the member; the author gets nothing."""
    far.refuse['rcpt'] = '550 5.1.1 left us'
    try:
        before = len(server.mails('carol', 'home.example'))
        message = send(server, 'news@home.example', sender='author@far.example')
        server.wait_events('message.bounced', 2, message=message)
        mails = wait_until('copy and bounce', lambda: len(server.mails('carol', 'home.example')) >= before + 2 and
                           server.mails('carol', 'home.example'))
        bounces = [mail for mail in mails if b'report-type=delivery-status' in mail]
        assert len(bounces) == 1 and b'To: <owner-news@home.example>' in bounces[0], bounces
        assert re.search(rb'Final-Recipient: rfc822; x@far.example', bounces[0]), bounces[0]
    finally:
        far.refuse.clear()
    assert not any('author@far.example' in to for _, tos, _ in far.messages for to in tos)


def bounced_by_hand(server, far):
    """An operator's bounce of a message with members and others tells each his own."""
    far.refuse['rcpt'] = '451 later'
    try:
        mails = len(server.mails('carol', 'home.example'))
        message = send(server, ['news@home.example', 'z@far.example'], sender='carol@home.example')
        server.wait_events('delivery.deferred', 3, message=message)
        wait_until('the bounce', lambda: server.run('bounce', message)[0] == 0)
        wait_until('copy and two bounces', lambda: len(server.mails('carol', 'home.example')) >= mails + 3)
        bounces = [mail for mail in server.mails('carol', 'home.example') if message.encode() in mail and b'delivery-status' in mail]
        found = sorted((re.search(rb'\nTo: <(.*?)>', mail).group(1), re.findall(rb'Final-Recipient: rfc822; (\S+)', mail)) for mail in bounces)
        assert found == [(b'carol@home.example', [b'z@far.example']), (b'owner-news@home.example', [b'x@far.example', b'y@far.example'])], found
    finally:
        far.refuse.clear()


def changing(greeting='ehlo'):
    """A next hop whose replies the test may change: hop.refuse."""
    refuse = {}

    def script(hop):
        hop.say('220 hop')
        hop.serve(changing=refuse, lhlo='250 hop')
    hop = NextHop(script)
    hop.refuse = refuse
    return hop


def sql_users(path):
    database = sqlite3.connect(path)
    database.execute('CREATE TABLE users(address TEXT PRIMARY KEY, deliver TEXT)')
    return database


def rows(name, folder, port):
    return [(f'alice@{name}', f'maildir:{folder}/other/{{domain}}/{{user}}/{{tag}}'), (f'bob@{name}', f'lmtp:127.0.0.1:{port}'),
            (f'carol@{name}', ''), (f'dan@{name}', f'smtp:127.0.0.1:{port}'), (f'mallory@{name}', 'pipe:/bin/sh'), (f'trudy@{name}', 'maildir:/etc')]


def files_and_sqlite():
    with changing() as hop, changing() as far:
        server = build(hop.port, far.port, domain('home.example', 'file:{folder}/users', 'aliases = "file:{folder}/aliases"')
                       + domain('sql.example', 'sqlite:{folder}/users.db?table=users'))
        database = sql_users(os.path.join(server.folder, 'users.db'))
        database.executemany('INSERT INTO users VALUES(?, ?)', rows('sql.example', server.folder, hop.port))
        database.commit()
        with server:
            server.start()
            checks.run('file: users with a delivery of their own', lambda: own_ways(server, hop, 'home.example'))
            checks.run('file: through an alias', lambda: by_alias(server, hop))
            checks.run('file: after a restart', lambda: outlives_a_restart(server, hop))
            checks.run('route and alias expand tell it', lambda: told_by_commands(server, hop.port))
            checks.run('SQLite: users with a delivery of their own', lambda: own_ways(server, hop, 'sql.example'))
            checks.run('SQLite: a table that names a command', lambda: misconfigured(server))
            checks.run('a list with an owner', lambda: list_with_owner(server, far))
            checks.run('a list without one', lambda: list_without_owner(server, far))
            checks.run('a member is refused: the owner hears of it', lambda: refused_at_a_list(server, far))
            checks.run('an operator bounces for two senders', lambda: bounced_by_hand(server, far))
            checks.run('success at a list is told as delivered', lambda: success_is_told(server, 'news@home.example', b'delivered'))
            checks.run('success at an alias of several is told as expanded', lambda: success_is_told(server, 'staff@home.example', b'expanded'))
            checks.run('success alone, too', lambda: success_is_told(server, 'staff@home.example', b'expanded', ' NOTIFY=SUCCESS'))
            checks.run('success at an alias of one is told of the one', lambda: success_is_told(server, 'carol@home.example', b'delivered'))
            checks.ok('the next hops had no complaint', not hop.faults + far.faults, hop.faults + far.faults)


def ldap():
    if skip_without(checks, 'slapd', SLAPD):
        return
    with changing() as hop:
        server = build(hop.port, 9, '')
        people = ''.join(f'dn: cn={address.split("@")[0]},{BASE}\nobjectClass: inetOrgPerson\ncn: x\nsn: x\nmail: {address}\n'
                         + (f'description: {deliver}\n' if deliver else '') + '\n'
                         for address, deliver in rows('ldap.example', server.folder, hop.port)).replace('cn: x\nsn', 'sn')
        ldif = f'dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Home\ndc: home\n\n' + people
        with Slapd(ldif, tls=False) as slapd:
            setting = domain('ldap.example', f'ldap://127.0.0.1:{slapd.port}/{BASE}????x-deliver=description')
            with open(server.config, 'a') as file:
                file.write(setting.replace('{folder}', server.folder))
            with server:
                server.start()
                checks.run('LDAP: users with a delivery of their own', lambda: own_ways(server, hop, 'ldap.example'))


def postgresql():
    if skip_without(checks, 'PostgreSQL', postgres_program('postgres'), postgres_program('initdb')):
        return
    with changing() as hop:
        server = build(hop.port, 9, '')
        values = ', '.join(f"('{address}', '{deliver}')" for address, deliver in rows('pg.example', server.folder, hop.port))
        with Postgres(f'CREATE TABLE users(address text PRIMARY KEY, deliver text); INSERT INTO users VALUES {values}') as database:
            with open(server.config, 'a') as file:
                file.write(domain('pg.example', database.uri('?table=users')).replace('{folder}', server.folder))
            with server:
                server.start()
                checks.run('PostgreSQL: users with a delivery of their own', lambda: own_ways(server, hop, 'pg.example'))


def main():
    files_and_sqlite()
    ldap()
    postgresql()
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
