/*
 * The body on its way to the draft: every octet goes to the verifier as it was sent, and what goes
 * on into the draft lacks the Authentication-Results that claim to be ours (RFC 8601 5), wherever
 * they stand and however they are spelled. A body that has left its header behind passes without a
 * copy.
 */
#include "policy/authenticate.h"
#include "policy/filter.h"

enum {
    LINE_KEPT = 64 * 1024,  /* of one line, to tell what field it begins */
    FIELD_KEPT = 128 * 1024 /* of one suspect; a longer one is nobody's honest work and goes */
};
#define OUT_MOST (16 * MIB)

/* ------------------------------------------------------------------ fields */

static bool is_suspect(struct bytes line)
{
    struct bytes name = BYTES_EMPTY;

    if (bytes_find_byte(line, ':') == line.count)
        return false;
    bytes_cut(line, ':', &name);
    return bytes_equal_text_nocase(bytes_trim(name), "Authentication-Results");
}

/* The suspect is whole: does it claim our name? */
static void field_end(struct header_strip *strip)
{
    const struct bytes field = buffer_view(&strip->field);
    struct bytes name = BYTES_EMPTY;

    if (!strip->in_field)
        return;
    if (strip->field.failed || authres_claims(bytes_cut(field, ':', &name), strip->authserv_id))
        strip->dropped++;
    else
        buffer_add(&strip->out, field);
    buffer_clear(&strip->field);
    strip->in_field = false;
}

static void line_begin(struct header_strip *strip, struct bytes line)
{
    const bool goes_on = line.count > 0 && (line.at[0] == ' ' || line.at[0] == '\t');

    if (goes_on)
        return;
    field_end(strip);
    strip->in_field = is_suspect(line);
}

static void line_keep(struct header_strip *strip, struct bytes line)
{
    buffer_add(strip->in_field ? &strip->field : &strip->out, line);
}

/* Some of a line; `whole`: its end is there. */
static void line_add(struct header_strip *strip, struct bytes part, bool whole)
{
    if (strip->line_sent) {
        line_keep(strip, part);
        strip->line_sent = !whole;
        return;
    }
    buffer_add(&strip->line, part);
    strip->failed = strip->failed || strip->line.failed;
    if (!whole && strip->line.count < LINE_KEPT)
        return;
    const struct bytes line = buffer_view(&strip->line);
    line_begin(strip, line);
    line_keep(strip, line);
    strip->over = bytes_equal(line, BYTES_LITERAL("\r\n"));
    strip->line_sent = !whole;
    buffer_clear(&strip->line);
}

static struct bytes strip_add(struct header_strip *strip, struct bytes piece)
{
    if (strip->over)
        return piece;
    buffer_clear(&strip->out);
    while (piece.count > 0 && !strip->over) {
        const size_t end = bytes_find_byte(piece, '\n');
        const bool whole = end < piece.count;
        const struct bytes part = bytes_slice(piece, 0, whole ? end + 1 : end);

        line_add(strip, part, whole);
        piece = bytes_skip(piece, part.count);
    }
    if (piece.count > 0)
        buffer_add(&strip->out, piece);
    strip->failed = strip->failed || strip->out.failed;
    return buffer_view(&strip->out);
}

static struct bytes strip_end(struct header_strip *strip)
{
    buffer_clear(&strip->out);
    if (strip->over)
        return BYTES_EMPTY;
    if (strip->line.count > 0)
        line_add(strip, BYTES_EMPTY, true);
    field_end(strip);
    strip->over = true;
    strip->failed = strip->failed || strip->out.failed;
    return buffer_view(&strip->out);
}

static void strip_reset(struct header_strip *strip)
{
    buffer_free(&strip->line);
    buffer_free(&strip->field);
    buffer_free(&strip->out);
    *strip = (struct header_strip){.authserv_id = strip->authserv_id,
                                   .line = BUFFER_WITH_LIMIT(LINE_KEPT + OUT_MOST),
                                   .field = BUFFER_WITH_LIMIT(FIELD_KEPT),
                                   .out = BUFFER_WITH_LIMIT(OUT_MOST)};
}

/* ------------------------------------------------------------------ hooks of receive */

static bool needs_dkim(const struct config_checks *checks)
{
    return checks->dkim != CHECK_OFF || checks->arc != CHECK_OFF || checks->dmarc != CHECK_OFF;
}

struct verdict policy_body_begin(struct transaction *transaction)
{
    struct authentication *it = transaction->authentication;

    if (!it)
        return verdict_accept();
    strip_reset(&it->strip);
    dkim_close(&it->dkim);
    if (it->exempt || !needs_dkim(&it->policy->settings.config->checks))
        return verdict_accept();
    it->dkim = dkim_open(&it->arena);
    return it->dkim ? verdict_accept() : verdict_of(CAUSE_SERVER_BUSY);
}

bool policy_body_add(struct transaction *transaction, struct bytes piece, struct bytes *kept)
{
    struct authentication *it = transaction->authentication;

    *kept = piece;
    if (!it)
        return true;
    if (it->dkim)
        dkim_add(it->dkim, piece);
    *kept = strip_add(&it->strip, piece);
    return !it->strip.failed;
}

bool policy_body_end(struct transaction *transaction, struct bytes *kept)
{
    struct authentication *it = transaction->authentication;

    *kept = BYTES_EMPTY;
    if (!it)
        return true;
    *kept = strip_end(&it->strip);
    return !it->strip.failed;
}

void policy_transaction_end(struct transaction *transaction)
{
    struct authentication *it = transaction->authentication;

    filtering_close(transaction->filtering);
    transaction->filtering = NULL;
    transaction->rewrite = (struct message_rewrite){0};
    milters_forget(transaction);
    transaction->authentication = NULL;
    if (!it)
        return;
    dkim_close(&it->dkim);
    buffer_free(&it->strip.line);
    buffer_free(&it->strip.field);
    buffer_free(&it->strip.out);
    arena_clear(&it->arena);
    free(it);
}
