"""The cases of the torture list that try our own client: a scripted next hop or name server says something odd, and the
message has to be deferred, bounced or delivered as the case says; never lost, never twice, never in clear where that was
forbidden. Each starts a server of its own; test_smtp_torture.py runs them."""

from lib import Client, Server, wait_until
from lib_hop import Names, NextHop

RELAY = 'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "next.example" {{ via = "smtp:127.0.0.1:{port}"  tls = {tls} }}\n{more}\n'
FAST = 'retry { schedule = {1s}  warn_after = 4h  expire_after = 5d }'


def relay(hop, tls='may', more=FAST):
    return Server(extra=RELAY.format(port=hop.port, tls=tls, more=more))


def submit(server, to='someone@next.example', sender='a@b.test', body=b'Subject: relayed\r\n\r\nx\r\n', options=''):
    """Hands one message in; its id."""
    with Client(server.address()) as client:
        for line in ('EHLO c.test', f'MAIL FROM:<{sender}>{options}', f'RCPT TO:<{to}>'):
            reply = client.command(line)
            assert reply.code == 250, reply
        assert client.command('DATA').code == 354
        client.send(body + b'.\r\n')
        reply = client.reply()
        assert reply.code == 250, reply
        return reply.lines[-1].split()[-1]


def deferred(hop, stage=None, tls='may', causes=None):
    """Submits one message to a server that relays to this hop: it has to be deferred, and the server to live on."""
    with relay(hop, tls, more='') as server:
        message = submit(server)
        event = server.wait_events('delivery.deferred', 1, message=message)[0]
        assert causes is None or event.get('cause') in causes, event
        assert not server.events('delivery.done') and not server.events('delivery.failed'), 'ended, not deferred'
        assert not server.events('message.bounced'), 'bounced'
        assert server.alive()
        return event


def starttls_response_inject(house):
    def script(hop):
        hop.say('220 hop')
        hop.line()
        hop.raw(b'250-hop\r\n250 STARTTLS\r\n')
        assert hop.line().upper() == 'STARTTLS', hop.lines
        hop.raw(b'220 go\r\n250 injected\r\n')
        hop.start_tls(house.server.certificate, house.server.certificate.replace('cert', 'key'))
        assert hop.line().upper().startswith('EHLO'), hop.lines
        assert hop.quiet(), 'the injected reply was taken for the one to EHLO'
        hop.raw(b'250-hop\r\n250 HELP\r\n')
        hop.serve()
    with NextHop(script) as hop, relay(hop) as server:
        message = submit(server)
        wait_until('an end of the attempt', lambda: any(
            server.events(kind) for kind in ('delivery.done', 'delivery.deferred')))
        assert not hop.faults, hop.faults
        assert len(hop.messages) <= 1 and not server.events('delivery.failed'), message


def strip(house):
    seen = []

    def script(hop):
        hop.say('220 hop')
        hop.serve(ehlo='250-hop\r\n250 HELP', mail='250 ok', starttls='454 4.7.0 not now')
        seen.extend(hop.lines)
    with NextHop(script) as hop:
        deferred(hop, tls='must', causes=('tls.policy.unmet',))
        assert not any(line.upper().startswith('MAIL') for line in seen), seen


def reply_long(house):
    odd = (b''.join(b'250-line %d\r\n' % number for number in range(10000)) + b'250 end\r\n',
           b'250 ' + b'x' * (1 << 20) + b'\r\n', b'250-one\r\n550 two\r\n')
    for reply in odd:
        def script(hop):
            hop.say('220 hop')
            hop.line()
            hop.raw(reply)
            hop.serve(mail='451 not today')
        with NextHop(script) as hop:
            deferred(hop)


def reply_nocode(house):
    for reply in (b'hello\r\n', b'25\r\n', b'2500 x\r\n', b'999 x\r\n', b'\r\n'):
        def script(hop):
            hop.raw(reply)
            hop.line()
        with NextHop(script) as hop:
            deferred(hop)


def reply_421_mid(house):
    """At each stage the hop says 421 or closes, once; the message stays, and goes out later exactly once."""
    for answer in ('421 4.3.2 going', None):
        for stage in ('banner', 'ehlo', 'mail', 'rcpt', 'data'):
            attempts = []

            def script(hop):
                attempts.append(stage)
                if len(attempts) > 1:
                    hop.say('220 hop')
                    hop.serve()
                elif stage != 'banner':
                    hop.say('220 hop')
                    hop.serve(**{stage: answer})
                elif answer:
                    hop.say(answer)
            with NextHop(script) as hop, relay(hop) as server:
                message = submit(server)
                server.wait_events('delivery.deferred', 1, message=message)
                server.wait_events('delivery.done', 1, message=message)
                assert len(hop.messages) == 1, (stage, answer, hop.messages)
    for answer in ('421 4.3.2 going', None):    # after the dot
        def script(hop):
            hop.say('220 hop')
            hop.serve(dot=answer)
        with NextHop(script) as hop:
            deferred(hop)


def early_dot_reply(house):
    def script(hop):
        hop.say('220 hop')
        while True:
            line = hop.line().upper()
            if not line:
                return
            if line == 'DATA':
                hop.raw(b'354 go\r\n250 2.0.0 taken before it was sent\r\n')
                hop.body()
                hop.say('451 4.3.0 not taken in truth')
                return
            hop.say('250 ok')
    with NextHop(script) as hop:
        deferred(hop)


def null_mx(house):
    with Names({('nomail.example', 'MX'): ['0 .'], ('nomail.example', 'A'): ['127.0.0.1'], ('b.example', 'MX'): ['0 .']}) as names:
        more = f'relay {{ from = {{"127.0.0.0/8"}} }}\nresolver {{ forward = {{"{names.address}"}} }}'
        with Server(extra=more) as server:
            message = submit(server, 'x@nomail.example', 'alice@rcpt.test')
            event = server.wait_events('delivery.failed', 1, message=message)[0]
            assert event['cause'] == 'destination.null_mx', event
            bounce = server.wait_mails('alice', 1)[0]
            assert b'5.1.10' in bounce and b'multipart/report' in bounce
            assert ('nomail.example', 'A') not in names.asked, 'fell back to the address'


def mx_loop(house):
    with Names({('loop.example', 'MX'): ['10 mx.test', '20 backup.example'], ('backup.example', 'A'): ['127.0.0.1']}) as names:
        more = f'relay {{ from = {{"127.0.0.0/8"}} }}\nresolver {{ forward = {{"{names.address}"}} }}'
        with Server(extra=more) as server:
            message = submit(server, 'x@loop.example', 'alice@rcpt.test')
            event = server.wait_events('delivery.failed', 1, message=message)[0]
            assert event['cause'] == 'route.loop', event
            assert b'5.4.6' in server.wait_mails('alice', 1)[0]


def bounce_of_bounce(house):
    def script(hop):
        hop.say('220 hop')
        hop.serve(rcpt='550 5.1.1 no such user')
    with NextHop(script) as hop, relay(hop) as server:
        message = submit(server, sender='')
        server.wait_events('delivery.failed', 1, message=message)
        kept = submit(server, 'alice@rcpt.test', body=b'Subject: fence\r\n\r\n')
        server.wait_events('delivery.done', 1, message=kept)
        assert not server.events('message.bounced'), server.events('message.bounced')
        assert len(server.mails('alice')) == 1 and not server.mails('postmaster')


def smtputf8(house):
    """Offered and taken; a next hop without it gets nothing, and the sender a 5.6.7."""
    with house.client() as client:
        assert client.command('MAIL FROM:<\u00f6@b.test> SMTPUTF8').code == 250
        assert client.command('RCPT TO:<\u00fc@rcpt.test>').code in (250, 550)

    def script(hop):
        hop.say('220 hop')
        hop.serve(extensions=('8BITMIME',))
    with NextHop(script) as hop, relay(hop) as server:
        message = submit(server, '\u00fc@next.example', 'alice@rcpt.test', options=' SMTPUTF8')
        server.wait_events('delivery.failed', 1, message=message)
        assert b'5.6.7' in server.wait_mails('alice', 1)[0]
        assert not hop.messages


def register(cases):
    cases.update({
        'client-starttls-response-inject': starttls_response_inject, 'client-strip': strip, 'reply-client-long': reply_long,
        'reply-client-nocode': reply_nocode, 'reply-client-421-mid': reply_421_mid,
        'reply-client-early-dot-reply': early_dot_reply, 'null-mx': null_mx, 'mx-loop': mx_loop,
        'bounce-of-bounce': bounce_of_bounce, 'smtputf8': smtputf8})
