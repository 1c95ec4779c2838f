#!/usr/bin/env python3
"""docs/from-postfix.md: its configuration is taken, its settings and commands exist, and what a migrating postmaster reads there is so:
relayed domains with their recipients, aliases, catch-all, tags, a relay host beside a route, sizes, the queue's commands."""
import os
import re

from lib import ROOT, Checks, Client, Server, make_certificate, wait_until
from lib_hop import NextHop

checks = Checks()
PAGE = os.path.join(ROOT, 'docs/from-postfix.md')
# Words in backticks of the column "here" that are neither a setting nor a command.
OTHER = {'pipe:', 'smtp:', 'lmtp:', 'maildir:', 'deliver=', 'senders=', 'full=yes', 'disabled=yes', '{tag}'}


def page():
    with open(PAGE) as file:
        return file.read()


def settings():
    """{section: {names}} of docs/configuration.md; '' at the top."""
    found, section = {}, None
    with open(os.path.join(ROOT, 'docs/configuration.md')) as file:
        for line in file:
            if line.startswith('## '):
                name = re.match(r'## `?(\w+)', line).group(1)
                section = '' if name == 'At' else name
            elif line.startswith('| `'):
                found.setdefault(section, set()).add(line.split('`')[1])
    return found


def commands():
    with open(os.path.join(ROOT, 'src/app/commands.def')) as file:
        return set(re.findall(r'^COMMAND\("([\w-]+)"', file.read(), re.M))


def the_configuration(server):
    text = re.search(r'```\n(hostname.*?)```', page(), re.S).group(1)
    certificate, key = make_certificate(server.folder)
    folder = os.path.join(server.folder, 'page')
    os.mkdir(folder)
    for name in ('users', 'branch-users', 'aliases', 'login'):
        with open(os.path.join(folder, name), 'w') as file:
            file.write('name\npassword\n' if name == 'login' else '')
    os.chmod(os.path.join(folder, 'login'), 0o600)
    if not certificate:
        text = re.sub(r'listen submission .*\n|tls \{.*\n', '', text)
    text = text.replace('/etc/holdfast/cert.pem', certificate or '').replace('/etc/holdfast/key.pem', key or '').replace('/etc/holdfast', folder)
    text = text.replace('"/var/spool/holdfast"', f'"{server.folder}/spool-of-page"').replace('user     = "holdfast"\n', '')
    path = os.path.join(server.folder, 'page.conf')
    with open(path, 'w') as file:
        file.write(text)
    server.config, before = path, server.config
    code, out, error = server.run('config', 'check')
    server.config = before
    assert code == 0, out + error


def everything_exists():
    known, run = settings(), commands()
    names = set().union(*known.values()) | set(known)
    wrong = []
    for line in page().splitlines():
        cells = [cell.strip() for cell in re.split(r'(?<!\\)\|', line)][1:-1]
        if len(cells) != 2 or cells[0] in ('Postfix', '---'):
            continue
        here = re.findall(r'`([^`]+)`', cells[1])
        if all(word.startswith('--') for word in here) or any(word.startswith(('holdfast ', 'mailq', 'newaliases', 'sendmail')) for word in here):
            for word in here:
                if word.startswith('--'):
                    continue
                first = re.sub(r'^holdfast ', '', word).split()[0]
                if first not in run | {'mailq', 'newaliases', 'sendmail'} and not first.startswith('--') and word.split()[0] not in names:
                    wrong.append(word)
            continue
        for word in here:
            if word in OTHER or word.split(':')[0] + ':' in OTHER:
                continue
            section = re.match(r'(\w+)(?: "\w+")? \{ ([\w, ]+?)(?: = \w+)? \}$', word)
            if section:
                wrong += [f'{word}: {name}' for name in section.group(2).split(', ') if name not in known.get(section.group(1), ())]
            elif re.split(r' = ', word)[0] not in names:
                wrong.append(word)
    assert not wrong, f'named on the page and nowhere else: {wrong}'


def hop_script(hop):
    hop.say('220 hop')
    hop.serve()


TEXT = '''hostname = "mx.home.example"
spool = "{folder}/spool"
listen smtp {{ address = "127.0.0.1:0" }}
domain "home.example" {{ users = "file:{folder}/users"  aliases = "file:{folder}/aliases"  catch_all = "alice@home.example"
    deliver = "maildir:{folder}/mail/{{domain}}/{{user}}" }}
domain "virtual.example" {{ users = "file:{folder}/nobody"  aliases = "file:{folder}/virtual"  deliver = "maildir:{folder}/mail/x" }}
domain "branch.example" {{ users = "file:{folder}/branch-users"  deliver = "smtp:127.0.0.1:{branch}" }}
relay {{ from = {{"127.0.0.1/32"}}  via = "smtp:127.0.0.1:{relay}" }}
route "partner.example" {{ via = "smtp:127.0.0.1:{partner}" }}
route "away.example" {{ via = "smtp:127.0.0.1:1" }}
limits {{ message_size = 20K }}
retry {{ schedule = {{1h}} }}
'''


def say(server, to, source='127.0.0.1', size=''):
    """The reply that ends it."""
    with Client(server.address('smtp')) as client:
        client.command('EHLO client.example')
        answer = client.command(f'MAIL FROM:<a@there.example>{size}')
        if answer.code == 250:
            answer = client.command(f'RCPT TO:<{to}>')
        if answer.code == 250:
            client.command('DATA')
            client.send('Subject: x\r\n\r\nx\r\n.\r\n')
            answer = client.reply()
        client.command('QUIT')
        return answer.lines[-1]


def went_to(hop, recipient):
    wait_until(f'{recipient} at its hop', lambda: any(recipient in to for _, to, _ in hop.messages))


def mail_goes(server, branch, relay, partner):
    assert say(server, 'known@branch.example').startswith('250')
    went_to(branch, 'known@branch.example')
    assert say(server, 'unknown@branch.example').startswith('550 5.1.1')
    assert say(server, 'info@virtual.example').startswith('250')
    assert say(server, 'other@virtual.example').startswith('550 5.1.1')
    assert say(server, 'x@partner.example').startswith('250') and say(server, 'x@far.example').startswith('250')
    went_to(partner, 'x@partner.example')
    went_to(relay, 'x@far.example')
    for to in ('alice+tag@home.example', 'whoever@home.example', 'postmaster@home.example'):
        assert say(server, to).startswith('250'), to
    server.wait_mails('alice', 4, 'home.example')       # and that to info@virtual.example
    assert say(server, 'alice@home.example', size=' SIZE=30000').startswith('552 5.3.4')


def queue_commands(server):
    for number in range(4):
        assert say(server, f'q{number}@away.example').startswith('250')
    server.wait_events('delivery.deferred', 1)      # the fourth may not be tried: after three the destination pauses

    def run(*words):
        code, out, error = server.run(*words)
        assert code == 0, (words, code, out, error)
        return out

    def waiting():
        return re.findall(r'q(\d)@away\.example', run('queue'))
    assert sorted(set(waiting())) == ['0', '1', '2', '3'], run('queue')
    assert 'away.example' in run('queue', '--by', 'age') + run('queue', '--by', 'dest')
    first = server.events('delivery.deferred')[0]
    run('hold', first['message'])
    run('release', first['message'])
    assert '127.0.0.1:1' in run('route', 'x@away.example')
    assert first['message'] in run('why', first['message'])
    run('retry', '--all')
    run('drop', first['message'])
    wait_until('three', lambda: len(set(waiting())) == 3)
    run('drop', '--all')
    wait_until('none', lambda: not waiting())
    run('config', 'show')
    run('alias', 'expand', 'info@virtual.example')


def main():
    checks.run('each setting and command of the page exists', everything_exists)
    with NextHop(hop_script) as branch, NextHop(hop_script) as relay, NextHop(hop_script) as partner:
        server = Server(text=TEXT.replace('{folder}', '{{folder}}').format(branch=branch.port, relay=relay.port, partner=partner.port).replace('{{folder}}', '{folder}'),
                        start=False)
        for name, text in {'users': 'alice\n', 'nobody': '', 'branch-users': 'known\n', 'aliases': 'postmaster: alice\n',
                           'virtual': 'info: alice@home.example\n'}.items():
            with open(os.path.join(server.folder, name), 'w') as file:
                file.write(text)
        checks.run('the configuration of the page is taken', lambda: the_configuration(server))
        with server:
            server.start()
            checks.run('mail goes where the page says', lambda: mail_goes(server, branch, relay, partner))
            checks.run('the queue is worked on as the page says', lambda: queue_commands(server))
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
