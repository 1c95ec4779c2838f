/*
 * docs/451.md: what an operator does about a 451, from both sides, printed from the catalogue of
 * causes and the table of next steps, so that the page cannot say anything else than the program.
 */
#include "diagnose/diagnose_private.h"

#include <string.h>

static const char HEAD[] =
    "# 451: from both sides\n"
    "\n"
    "SMTP 451 says that a server had a local fault, and that the same mail may be taken later. "
    "Both\n"
    "sides keep the mail: the sender in its queue, nobody loses anything by waiting. This page is\n"
    "printed by `holdfast explain --manual` from the catalogue of causes that the server itself\n"
    "answers with; a test compares the two.\n"
    "\n"
    "Each reply of this server ends with the cause's name in brackets, each line of the journal "
    "has\n"
    "it in `cause`, each metric in the label `cause`. `side` says who has to act: `ours` this "
    "host,\n"
    "`theirs` the other side or its records, `policy` a rule that somebody set.\n"
    "\n";

static const char RECEIVING[] =
    "## This server said 4yz to a client\n"
    "\n"
    "1. `holdfast why --in`: who was deferred, by dependency and by client; who came back, who is\n"
    "   still out; below, what is wrong now, and what to run.\n"
    "2. Mend the cause, by the table below. Nothing has to be told to the clients: they come back "
    "by\n"
    "   themselves, each by its own schedule, mostly within minutes and at the latest after "
    "hours.\n"
    "3. `holdfast why --in` again, later: `still out` falls to 0. What is overdue (24 h) may need "
    "a\n"
    "   word to the sender; the addresses are listed.\n"
    "4. One client's story: `holdfast why SESSION`, word by word with `holdfast why --transcript\n"
    "   SESSION`; live: `holdfast trace in --client IP`.\n"
    "\n";

static const char SENDING[] =
    "## Another server said 4yz to this one, or did not answer\n"
    "\n"
    "1. `holdfast incidents`: what fails for one reason, since when, whose fault, who waits.\n"
    "2. `holdfast why ID` or `holdfast why --dest DOMAIN`: each attempt with stage, host, TLS, "
    "reply\n"
    "   and time; what the reply means; the next try; when the mail would be returned.\n"
    "3. Before 4 hours: mostly nothing. The mail is tried again by schedule, and delivered when "
    "the\n"
    "   other side is well again. After 4 hours the sender is told of the delay, and the operator "
    "a\n"
    "   second time.\n"
    "4. After 24 hours: `holdfast report INCIDENT` prints a letter to the other side's "
    "postmaster.\n"
    "   It is never sent by itself; one a site and day is enough.\n"
    "5. Once the cause is gone: `holdfast retry ID` or `holdfast retry --dest DOMAIN`.\n"
    "\n";

static void print_steps(struct buffer *into, const char *cause, bool out)
{
    const struct step_facts facts = {.cause = cause,
                                     .out = out,
                                     .subject = "NAME",
                                     .domain = "DOMAIN",
                                     .queued = "DOMAIN",
                                     .id = "ID",
                                     .recipient = "ADDRESS",
                                     .incident = "INCIDENT",
                                     .spool = "SPOOL"};
    json_t *steps = diagnose_steps(&facts);

    for (size_t i = 0; i < json_array_size(steps); i++)
        buffer_print(into, "- `%s`: %s\n", diagnose_word(json_array_get(steps, i), "command"),
                     diagnose_word(json_array_get(steps, i), "purpose"));
    json_decref(steps);
    buffer_add_text(into, "\n");
}

/* Causes of an attempt of ours; all others are said to clients. */
static bool is_of_sending(const char *name)
{
    static const char *const prefixes[] = {"dns.mx.",    "connect.", "session.", "ambiguous.",
                                           "tls.policy", "remote.",  "mailbox.", "local.",
                                           "login.",     "pipe."};

    for (size_t i = 0; i < COUNT_OF(prefixes); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return true;
    return false;
}

static void print_causes(struct buffer *into, bool out)
{
    for (unsigned i = 0; i < CAUSE_COUNT; i++) {
        const struct cause_row *row = cause_row((enum cause)i);
        if (row->kind != VERDICT_DEFER || is_of_sending(row->name) != out)
            continue;
        buffer_print(into, "### `%s`\n\n`%u %u.%s`, side: %s. %s\n\n%s\n\n", row->name, row->code,
                     row->code / 100, row->enhanced, side_name(row->side), row->meaning,
                     row->advice);
        print_steps(into, row->name, out);
    }
}

void diagnose_print_manual(struct buffer *into)
{
    buffer_add_text(into, HEAD);
    buffer_add_text(into, RECEIVING);
    print_causes(into, false);
    buffer_add_text(into, SENDING);
    print_causes(into, true);
}
