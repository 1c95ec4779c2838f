#!/usr/bin/env python3
"""What the resolver remembers: equal questions of many clients are asked once, an answer is not asked again before its TTL is
over, and with `serve_stale` an old answer lets mail in while the name server is silent, but never keeps it out."""
from lib import Checks, wait_until
from lib_dns import ScriptedDns
from lib_faults import FaultServer, Mail, expect, expect_accepted, write_file
from lib_load import Crowd, Letter, expect_fates

checks = Checks()


def house(names, more=''):
    server = FaultServer(f'resolver {{ forward = {{"127.0.0.1@{names.port}"}}  timeout = 3s  {more} }}\n'
                         'checks { sender_domain = require }\n', start=False)
    write_file(server, 'users', 'alice\n' + ''.join(f'r{number}\n' for number in range(100)))
    server.start()
    return server


def questions(server, answered):
    return server.metric('holdfast_dns_questions_total', answered=answered)


def together():
    """Two hundred clients with senders of one domain, while the name server is silent: one question goes out for all of a
    loop's clients, and for those of the other loop, too."""
    names = ScriptedDns({('', 'NS'): 'ns.example.', ('big.example', 'MX'): '10 mx.big.example.'}, dead=True)
    with house(names) as server:
        letters = [Letter(to=f'r{index % 100}@home.example', sender=f's{index}@big.example') for index in range(200)]
        with Crowd(server.address(), letters) as crowd:
            wait_until('200 to wait', lambda: sum(1 for _, stage in list(crowd.awaiting) if stage == 'mail') >= 200)
            names.dead = False
            crowd.heal()
            crowd.wait()
        expect_fates(letters, {('dns.sender.temperror', 451), ('dns.resolver.failed', 451)})    # it came back before or after the canary
        asked, joined, known = (questions(server, word) for word in ('by_server', 'with_another', 'from_memory'))
        print(f'# asked {asked:.0f}, with another {joined:.0f}, from memory {known:.0f}')
        assert asked <= 20 and joined + known >= 180, (asked, joined, known)
    names.close()


def stale():
    names = ScriptedDns({('', 'NS'): 'ns.example.', ('old.example', 'MX'): '10 mx.old.example.', ('null.example', 'MX'): '0 .'})
    with house(names, 'serve_stale = 1h') as server:
        expect_accepted(server, Mail(sender='a@old.example'))
        expect(server, Mail(sender='a@null.example'), '550 5.7.27', 'sender.null_mx', 'mail')
        names.dead = True
        before = questions(server, 'stale')
        wait_until('the answer to be too old', lambda: later(server, 'a@old.example') == 250 and questions(server, 'stale') > before)
        expect_accepted(server, Mail(sender='a@old.example'))
        for sender in ('a@null.example', 'a@never.example'):
            defers_as_ours(server, sender)
    names.close()


def defers_as_ours(server, sender):
    """Nobody answers our resolver: that is told as ours, at MAIL, or at connect once the breaker is open."""
    reply, where = Mail(sender=sender).play(server)
    line = reply.lines[-1]
    assert (where == 'mail' and line.startswith('451 4.4.3 ') and line.endswith('(dns.resolver.failed)') or
            where == 'connect' and line.startswith('421 4.4.3 ') and line.endswith('(dns.resolver.down)')), (where, reply.lines)


def later(server, sender):
    return Mail(sender=sender).play(server)[0].code


def not_stale():
    """Without the setting the same outage defers."""
    names = ScriptedDns({('', 'NS'): 'ns.example.', ('old.example', 'MX'): '10 mx.old.example.'})
    with house(names) as server:
        expect_accepted(server, Mail(sender='a@old.example'))
        names.dead = True
        wait_until('the answer to be too old', lambda: later(server, 'a@old.example') in (421, 451))
        defers_as_ours(server, 'a@old.example')
    names.close()


def main():
    checks.run('200 clients, one question', together)
    checks.run('serve_stale: an old answer lets in and never keeps out', stale)
    checks.run('without serve_stale it defers', not_stale)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
