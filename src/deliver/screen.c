/*
 * What a peer can take of a message, settled before MAIL: its size, octets beyond ASCII in the body
 * (RFC 6152) and in addresses and header (RFC 6531), REQUIRETLS. What need not be carried is sent
 * without, what can be converted is.
 */
#include "deliver/transaction.h"

#include <idn2.h>

/* ------------------------------------------------------------------ what is sent */

uint64_t transaction_size(const struct transaction *transaction)
{
    return transaction->use_converted ? converted_size(*transaction->converted)
                                      : spool_body_size(transaction->body);
}

bool transaction_read(struct transaction *transaction, uint64_t offset, struct bytes *piece)
{
    struct deliver_channel *channel = transaction->channel;

    if (!channel->piece)
        channel->piece = malloc(DELIVER_PIECE_BYTES);
    if (!channel->piece)
        return false;
    const struct span into = {channel->piece, DELIVER_PIECE_BYTES};
    const struct io_result got = transaction->use_converted
                                     ? converted_read(*transaction->converted, into, offset)
                                     : spool_body_read(transaction->body, into, offset);
    *piece = bytes_of(channel->piece, got.count);
    return got.status == IO_OK && got.count > 0;
}

/* ------------------------------------------------------------------ what the peer can take */

static bool body_has_8bit(struct transaction *transaction, uint64_t until)
{
    struct bytes piece = BYTES_EMPTY;

    for (uint64_t offset = 0; offset < until; offset += piece.count) {
        if (!transaction_read(transaction, offset, &piece))
            return true; /* unread counts as unfit; sending will name the fault */
        for (size_t i = 0; i < piece.count && offset + i < until; i++) {
            if (piece.at[i] >= 0x80)
                return true;
        }
    }
    return false;
}

/* Length of the header, looked for in the first piece only: a longer header counts whole. */
static uint64_t body_header_bytes(struct transaction *transaction)
{
    struct bytes piece = BYTES_EMPTY;

    return transaction_read(transaction, 0, &piece) ? header_end(piece) : 0;
}

static void screen_all(struct transaction *transaction, enum cause cause, const char *why)
{
    const struct bytes words = bytes_of_text(why);
    struct outcome outcome =
        outcome_of_verdict(transaction->channel, STAGE_MAIL, verdict_with(cause, words));

    outcome.reply = words;
    attempt_fill(transaction->attempt, outcome);
}

/* ------------------------------------------------------------------ a policy that is waived */

/* One field of that name, and none with REQUIRETLS, which weighs more (RFC 8689 5). */
bool transaction_waives(struct transaction *transaction)
{
    struct bytes piece = BYTES_EMPTY;
    struct header_field field;

    if (transaction->attempt->message->envelope.requiretls ||
        !transaction_read(transaction, 0, &piece))
        return false;
    const struct bytes head = bytes_slice(piece, 0, header_end(piece));
    return header_count(head, "TLS-Required") == 1 && header_find(head, "TLS-Required", &field) &&
           bytes_equal_text_nocase(bytes_trim(field.value), "No");
}

/* ------------------------------------------------------------------ addresses beyond ASCII */

bool address_to_ascii(struct arena *arena, struct address address, struct address *ascii)
{
    char *domain = arena_text(arena, address.domain), *labels = NULL;

    *ascii = address;
    if (address_is_ascii(address))
        return true;
    if (!domain || !address_is_ascii((struct address){address.local, BYTES_EMPTY}) ||
        idn2_to_ascii_8z(domain, &labels, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) != IDN2_OK)
        return false;
    ascii->domain = arena_copy(arena, bytes_of_text(labels));
    idn2_free(labels);
    return ascii->domain.count > 0;
}

struct address transaction_address_of(const struct transaction *transaction, struct address address)
{
    struct address ascii = address;

    if (transaction->use_utf8 || !address_to_ascii(transaction->channel->arena, address, &ascii))
        return address;
    return ascii;
}

/* RFC 6531 3.6: without SMTPUTF8 only what is ASCII in envelope and header may go. A domain is as
 * good in A-labels (RFC 5890 2.3.2.1), a local part is not ours to translate. */
static void screen_utf8(struct transaction *transaction)
{
    struct attempt *attempt = transaction->attempt;
    struct address ascii;
    const char *why = "the next hop does not offer SMTPUTF8";

    if (!address_to_ascii(attempt->arena, transaction->sender, &ascii) ||
        body_has_8bit(transaction, body_header_bytes(transaction))) {
        screen_all(transaction, CAUSE_REMOTE_NO_SMTPUTF8, why);
        return;
    }
    for (uint32_t i = 0; i < attempt->recipient_count; i++) {
        if (attempt->outcomes[i].verdict.cause != CAUSE_UNDECIDED ||
            address_to_ascii(attempt->arena, attempt_recipient(attempt, i)->address, &ascii))
            continue;
        attempt->outcomes[i] =
            outcome_of_verdict(transaction->channel, STAGE_RCPT,
                               verdict_with(CAUSE_REMOTE_NO_SMTPUTF8, bytes_of_text(why)));
    }
}

/* ------------------------------------------------------------------ bodies beyond ASCII */

static bool somebody_is_left(const struct attempt *attempt)
{
    for (uint32_t i = 0; i < attempt->recipient_count; i++)
        if (attempt->outcomes[i].verdict.cause == CAUSE_UNDECIDED)
            return true;
    return false;
}

void transaction_tell(const struct transaction *transaction, struct bytes text)
{
    const struct deliver_channel *channel = transaction->channel;

    observe_event(&(struct event){.kind = EVENT_DELIVERY_NOTE,
                                  .message = transaction->attempt->message->id,
                                  .mx = bytes_of_text(channel->host),
                                  .destination = bytes_of_text(channel->to.key),
                                  .text = text});
}

/* A signature of the old form says nothing of the new one, so where it was ours there is another on
 * top; those of others stay as they are, and fail (RFC 6376 6.1 takes that for none). */
static struct bytes sign_anew(struct transaction *transaction)
{
    const struct deliver *deliver = transaction->channel->deliver;
    CLEANUP(buffer_free) struct buffer fields = BUFFER_WITH_LIMIT(64 * KIB);
    const struct auth_source source = {converted_read, *transaction->converted,
                                       transaction_size(transaction)};
    struct arena *arena = transaction->attempt->arena;
    struct header_field field;
    struct bytes piece = BYTES_EMPTY;

    if (!transaction_read(transaction, 0, &piece))
        return BYTES_EMPTY; /* sending will name the fault */
    const struct deliver_changed changed = {.envelope = &transaction->attempt->message->envelope,
                                            .head = arena_copy(arena, piece),
                                            .source = &source};
    if (deliver->sign)
        deliver->sign(deliver->sign_argument, arena, &changed, &fields);
    if (fields.count > 0 && !fields.failed) {
        transaction->trace = arena_print(arena, "%.*s%.*s", BYTES_PRINT(transaction->trace),
                                         BYTES_PRINT(buffer_view(&fields)));
        return BYTES_LITERAL("; signed anew");
    }
    return header_find(changed.head, "DKIM-Signature", &field)
               ? BYTES_LITERAL("; the DKIM signatures that it bears do not hold any more")
               : BYTES_EMPTY;
}

/* Surveyed once an attempt. */
static void screen_convert(struct transaction *transaction)
{
    struct arena *arena = transaction->attempt->arena;
    const bool is_notification = transaction->attempt->message->envelope.kind == ENVELOPE_DSN;

    if (!*transaction->converted) {
        const struct verdict opened = converted_open(transaction->body, transaction->converted);
        if (!verdict_accepts(&opened)) {
            converted_close(transaction->converted);
            if (is_notification && opened.cause == CAUSE_REMOTE_NO_8BIT)
                return; /* nobody would hear of its loss: it goes as it is */
            if (opened.cause != CAUSE_UNDECIDED)
                screen_all(transaction, opened.cause, arena_text(arena, opened.detail));
            return;
        }
    }
    transaction->use_converted = true;
    const struct bytes words = converted_words(*transaction->converted, arena);
    const struct bytes signature = sign_anew(transaction);
    transaction_tell(transaction,
                     arena_print(arena, "%.*s%.*s", BYTES_PRINT(words), BYTES_PRINT(signature)));
    dialogue_note(&transaction->channel->dialogue, "%.*s", BYTES_PRINT(words));
}

static void screen_8bit(struct transaction *transaction)
{
    const struct config_sending *sending = transaction->channel->to.sending;
    const enum downgrade way = sending ? sending->downgrade : DOWNGRADE_CONVERT;

    if (way == DOWNGRADE_SEND || !somebody_is_left(transaction->attempt) ||
        !body_has_8bit(transaction, transaction->attempt->message->size_bytes))
        return;
    if (way == DOWNGRADE_CONVERT)
        screen_convert(transaction);
    else
        screen_all(transaction, CAUSE_REMOTE_NO_8BIT, "the next hop does not offer 8BITMIME");
}

/* ------------------------------------------------------------------ all of it */

static void screen_size(struct transaction *transaction, uint64_t size)
{
    const uint64_t limit = transaction->channel->size_limit;

    if (limit > 0 && size > limit)
        screen_all(transaction, CAUSE_MESSAGE_TOO_BIG, "larger than the next hop's SIZE limit");
}

/* What need not be carried is sent without an extension: most mail declared 8BITMIME is plain
 * ASCII. */
void transaction_screen(struct transaction *transaction)
{
    const struct deliver_channel *channel = transaction->channel;
    const struct queued_message *message = transaction->attempt->message;
    const struct envelope *envelope = &message->envelope;
    const bool is_8bit = envelope->body != BODY_7BIT;

    screen_size(transaction, message->size_bytes);
    if (envelope->requiretls && /* channel_open saw to it; never without */
        (!channel->proved || !(channel->extensions & EXTENSION_REQUIRETLS)))
        screen_all(transaction, CAUSE_REQUIRETLS_UNMET, "the next hop does not offer REQUIRETLS");
    transaction->use_chunks = channel->extensions & EXTENSION_CHUNKING && !channel->no_chunking &&
                              channel->deliver->config->chunking && message->size_bytes > 0;
    transaction->use_utf8 = envelope->smtputf8 && channel->extensions & EXTENSION_SMTPUTF8;
    if (envelope->smtputf8 && !transaction->use_utf8)
        screen_utf8(transaction);
    transaction->use_8bit = is_8bit && channel->extensions & EXTENSION_8BITMIME;
    if (is_8bit && !transaction->use_8bit)
        screen_8bit(transaction);
    if (transaction->use_converted)
        screen_size(transaction, transaction_size(transaction) + transaction->trace.count);
}
