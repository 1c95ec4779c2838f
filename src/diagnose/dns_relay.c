/*
 * Does a mail host relay for strangers? It is asked as a stranger would: a recipient that is not
 * its own, and never a message.
 *
 * Sleeps: on the host, some seconds. Never: says DATA.
 */
#include "diagnose/dns_inside.h"
#include "wire/wire.h"

#define RELAY_PATIENCE_US (15 * US_PER_S)
/* Reserved (RFC 2606), so that it belongs to nobody whom a host could rightly serve. */
#define STRANGER "relay-test@dns-check.example"

struct probe {
    struct dns_check *check;
    struct wire_input input;
    uint64_t deadline_us;
};

/* The reply's code; 0: none came. */
static unsigned say(struct probe *probe, struct bytes line)
{
    struct smtp_reply reply;

    if (line.count > 0 &&
        (stream_write(probe->input.stream, line, probe->deadline_us).status != IO_OK ||
         stream_write(probe->input.stream, BYTES_LITERAL("\r\n"), probe->deadline_us).status !=
             IO_OK))
        return 0;
    return smtp_read_reply(&probe->input, probe->check->arena, probe->deadline_us, &reply) ==
                   WIRE_OK
               ? reply.code
               : 0;
}

static void judge(struct probe *probe, struct bytes host, bool near)
{
    struct dns_check *check = probe->check;
    const struct bytes mail = arena_print(check->arena, "MAIL FROM:<dns-check@%.*s>",
                                          BYTES_PRINT(check->request->domain));

    if (say(probe, BYTES_EMPTY) / 100 != 2 ||
        say(probe, BYTES_LITERAL("EHLO dns-check.invalid")) / 100 != 2 ||
        say(probe, mail) / 100 != 2)
        return; /* not known: it does not talk to us, or not from this sender */
    const unsigned code = say(probe, BYTES_LITERAL("RCPT TO:<" STRANGER ">"));
    if (code / 100 == 2)
        dns_find(&check->findings, near ? FINDING_RELAY_FROM_HERE : FINDING_RELAY_OPEN, host, host);
    else if (code / 100 == 5)
        dns_find(&check->findings, FINDING_RELAY_CLOSED, host, host);
    const unsigned forgotten = say(probe, BYTES_LITERAL("RSET"));
    if (forgotten != 0 && say(probe, BYTES_LITERAL("QUIT")) == 0)
        return; /* it left first */
}

void dns_check_relay(struct dns_check *check, struct bytes host, const struct endpoint *to)
{
    CLEANUP(stream_close_ptr) struct stream *stream = NULL;
    struct probe probe = {.check = check,
                          .deadline_us =
                              MIN_OF(check->request->deadline_us, deadline_in(RELAY_PATIENCE_US))};

    if (stream_dial(to, NULL, probe.deadline_us, &stream).status != IO_OK)
        return; /* told already */
    wire_input_open(&probe.input, stream);
    judge(&probe, host, dns_check_is_private(&to->ip));
    wire_input_close(&probe.input);
}
