/*
 * Lines of the shape that tools for Postfix's log read: "<time> <host> holdfast/<part>[<pid>]:
 * ...". The same events, other clothes; what has no counterpart there becomes a plain line.
 */
#include "observe/line.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *host_name(void)
{
    static _Thread_local char name[256];

    if (name[0] == 0 && gethostname(name, sizeof name - 1) != 0)
        snprintf(name, sizeof name, "localhost");
    name[strcspn(name, ".")] = 0;
    return name;
}

static void add_head(struct line *line, int64_t wall_us, const char *part)
{
    const time_t second = (time_t)(wall_us / 1000000);
    struct tm parts;
    char stamp[32];

    if (!localtime_r(&second, &parts) || !strftime(stamp, sizeof stamp, "%b %e %H:%M:%S", &parts))
        snprintf(stamp, sizeof stamp, "Jan  1 00:00:00");
    line_add_text(line, stamp);
    line_add_text(line, " ");
    line_add_text(line, host_name());
    line_add_text(line, " holdfast/");
    line_add_text(line, part);
    line_add_text(line, "[");
    line_add_u64(line, (uint64_t)getpid());
    line_add_text(line, "]: ");
}

static void add_head_of(struct line *line, const struct event *event, const char *part)
{
    add_head(line, event->wall_us, part);
    if (event->message != 0)
        line_add_id(line, event->message);
    else
        line_add_text(line, "NOQUEUE");
    line_add_text(line, ": ");
}

static void add_client(struct line *line, const struct event *event)
{
    line_add_text(line, "unknown[");
    line_add_safe(line, event->client, 128);
    line_add_text(line, "]");
}

static void add_address(struct line *line, const char *key, struct bytes address)
{
    const bool enclosed = address.count > 0 && address.at[0] == '<';

    line_add_text(line, key);
    line_add_text(line, enclosed ? "" : "<");
    line_add_safe(line, address, 400);
    line_add_text(line, enclosed ? "" : ">");
}

static void add_words(struct line *line, struct bytes words)
{
    line_add_text(line, " (");
    line_add_safe(line, words, 1500);
    line_add_text(line, ")");
}

static void add_seconds(struct line *line, uint64_t took_us)
{
    char text[32];

    snprintf(text, sizeof text, "%.2f", (double)took_us / 1e6);
    line_add_text(line, text);
}

static void line_accepted(struct line *line, const struct event *event)
{
    add_head_of(line, event, "smtpd");
    line_add_text(line, "client=");
    add_client(line, event);
    line_add_text(line, "\n");
    add_head_of(line, event, "qmgr");
    add_address(line, "from=", event->from);
    line_add_text(line, ", size=");
    line_add_u64(line, event->size_bytes);
    line_add_text(line, ", nrcpt=1 (queue active)");
}

/* "NOQUEUE: reject: RCPT from unknown[192.0.2.1]: 451 4.3.0 <to>: words; from=<..> to=<..> ..." */
static void line_rejected(struct line *line, const struct event *event)
{
    char enhanced[16];

    add_head(line, event->wall_us, "smtpd");
    line_add_text(line, "NOQUEUE: reject: ");
    for (const char *at = stage_name(event->stage); *at; at++)
        line_add(line, bytes_of(&(char){(char)(*at >= 'a' && *at <= 'z' ? *at - 32 : *at)}, 1));
    line_add_text(line, " from ");
    add_client(line, event);
    line_add_text(line, ": ");
    line_add_u64(line, event->code);
    line_add_text(line, " ");
    line_add_text(line, event_enhanced(event, enhanced));
    add_address(line, " ", event->to);
    line_add_text(line, ": ");
    line_add_safe(line, event->text, 1500);
    if (event->has_verdict) {
        line_add_text(line, " [");
        line_add_text(line, cause_name(event->verdict.cause));
        line_add_text(line, "]");
    }
    add_address(line, "; from=", event->from);
    add_address(line, " to=", event->to);
    line_add_text(line, " proto=ESMTP helo=<");
    line_add_safe(line, event->helo, 255);
    line_add_text(line, ">");
}

static void line_delivery(struct line *line, const struct event *event, const char *status)
{
    char enhanced[16];
    const char *dsn = event_enhanced(event, enhanced);

    add_head_of(line, event, event->stage == STAGE_MAILBOX ? "local" : "smtp");
    add_address(line, "to=", event->to);
    line_add_text(line, ", relay=");
    line_add_safe(line, event->mx.count > 0 ? event->mx : BYTES_LITERAL("none"), 300);
    line_add_text(line, ", delay=");
    add_seconds(line, event->took_us);
    line_add_text(line, ", delays=0/0/0/");
    add_seconds(line, event->took_us);
    line_add_text(line, ", dsn=");
    line_add_text(line, *dsn ? dsn : "2.0.0");
    line_add_text(line, ", status=");
    line_add_text(line, status);
    add_words(line, event->text);
}

static void line_queue(struct line *line, const struct event *event, const char *words)
{
    add_head_of(line, event, "qmgr");
    line_add_text(line, words);
}

static void line_plain(struct line *line, const struct event *event)
{
    add_head(line, event->wall_us, "master");
    line_add_text(line, event_name(event->kind));
    if (event->message != 0) {
        line_add_text(line, " ");
        line_add_id(line, event->message);
    }
    if (event->filter.count > 0) {
        line_add_text(line, " ");
        line_add_safe(line, event->filter, 128);
    }
    if (event->text.count > 0)
        add_words(line, event->text);
}

static void line_session(struct line *line, const struct event *event, const char *words)
{
    add_head(line, event->wall_us, "smtpd");
    line_add_text(line, words);
    add_client(line, event);
}

void line_of_event_postfix(struct line *line, const struct event *event, int64_t wall_us)
{
    struct event stamped = *event;

    stamped.wall_us = wall_us;
    switch (event->kind) {
    case EVENT_SESSION_OPEN:
        line_session(line, &stamped, "connect from ");
        break;
    case EVENT_SESSION_CLOSE:
        line_session(line, &stamped, "disconnect from ");
        break;
    case EVENT_MESSAGE_ACCEPTED:
        line_accepted(line, &stamped);
        break;
    case EVENT_MESSAGE_DEFERRED:
    case EVENT_MESSAGE_REFUSED:
        line_rejected(line, &stamped);
        break;
    case EVENT_DELIVERY_DONE:
        line_delivery(line, &stamped, "sent");
        break;
    case EVENT_DELIVERY_DEFERRED:
        line_delivery(line, &stamped, "deferred");
        break;
    case EVENT_DELIVERY_FAILED:
        line_delivery(line, &stamped, "bounced");
        break;
    case EVENT_MESSAGE_BOUNCED:
        line_queue(line, &stamped, "sender non-delivery notification");
        break;
    case EVENT_MESSAGE_EXPIRED:
        line_queue(line, &stamped, "status=expired, returned to sender");
        break;
    case EVENT_MESSAGE_ENDED:
        line_queue(line, &stamped, "removed");
        break;
    case EVENT_RECIPIENT_ACCEPTED:
    case EVENT_RECIPIENT_DEFERRED:
    case EVENT_RECIPIENT_REFUSED:
    case EVENT_MESSAGE_REPEATED:
    case EVENT_DELIVERY_NOTE:
    case EVENT_DELIVERY_UNRECORDED:
    case EVENT_MESSAGE_AUTHENTICATED:
    case EVENT_MESSAGE_DISCARDED:
    case EVENT_MESSAGE_HELD:
    case EVENT_MESSAGE_RELEASED:
    case EVENT_MESSAGE_DAMAGED:
    case EVENT_OPERATOR_ACTION:
    case EVENT_BREAKER_OPEN:
    case EVENT_BREAKER_CLOSED:
    case EVENT_INCIDENT_OPEN:
    case EVENT_INCIDENT_CLOSED:
    case EVENT_INCIDENT_MARK:
    case EVENT_OPERATOR_TOLD:
    case EVENT_CERTIFICATE_EXPIRING:
    case EVENT_CERTIFICATE_RENEWED:
    case EVENT_CLOCK_JUMPED:
    case EVENT_CONFIG_REFUSED:
    case EVENT_CONFIG_RELOADED:
    case EVENT_SERVER_STARTED:
    case EVENT_SERVER_STOPPED:
    case EVENT_KIND_COUNT:
        line_plain(line, &stamped);
        break;
    }
    line_add_text(line, "\n");
}

void line_of_note_postfix(struct line *line, const char *room, struct bytes words)
{
    add_head(line, clock_wall_us(), room);
    line_add_safe(line, words, 3000);
    line_add_text(line, "\n");
}
