/* What the ways of delivery have in common whose mail ends on this host: Maildir and commands. */
#include "deliver/inside.h"

/* ------------------------------------------------------------------ whose mail it is */

static void user_split_tag(const struct config_domain *domain, struct directory_user *user)
{
    const struct bytes local = user->address.local;
    const uint8_t separator = domain ? (uint8_t)domain->tag_separator : 0;
    const size_t at = separator ? bytes_find_byte(local, separator) : local.count;

    if (at > 0 && at < local.count) {
        user->address.local = bytes_slice(local, 0, at);
        user->tag = bytes_skip(local, at + 1);
    }
}

struct verdict local_user_find(const struct deliver_channel *channel, const struct attempt *attempt,
                               uint32_t position, struct directory_user *user)
{
    struct deliver *deliver = channel->deliver;
    struct address address = attempt_recipient(attempt, position)->address;
    const struct config_domain *domain = config_find_domain(
        deliver->config,
        address.domain.count > 0 ? address.domain : bytes_of_text(channel->to.domain));

    if (address.domain.count == 0)
        address.domain = bytes_of_text(channel->to.domain);
    *user = (struct directory_user){.address = address};
    if (!deliver->directory || !domain || !domain->users || domain->users[0] == 0) {
        user_split_tag(domain, user);
        return verdict_accept();
    }
    const struct lookup lookup =
        directory_find_user(deliver->directory, attempt->arena, address, user);
    switch (lookup.status) {
    case LOOKUP_FOUND:
        return verdict_accept();
    case LOOKUP_ABSENT:
        return verdict_of(CAUSE_RECIPIENT_UNKNOWN);
    case LOOKUP_FAILED:
        break;
    }
    return verdict_with(lookup.reason == LOOKUP_REASON_MISCONFIGURED ? CAUSE_DIRECTORY_MISCONFIGURED
                                                                     : CAUSE_DIRECTORY_UNAVAILABLE,
                        lookup.detail);
}

/* ------------------------------------------------------------------ the message */

void local_head_print(struct buffer *out, const struct attempt *attempt, uint32_t position)
{
    const struct recipient *recipient = attempt_recipient(attempt, position);

    buffer_add_text(out, "Return-Path: <");
    address_print(out, envelope_return_path(&attempt->message->envelope, recipient));
    buffer_add_text(out, ">\nDelivered-To: ");
    address_print(out, recipient->address);
    buffer_add_byte(out, '\n');
}

void local_lines_add(struct line_ends *state, struct buffer *into, struct bytes piece)
{
    for (size_t from = 0; from < piece.count;) {
        if (state->cr_pending && piece.at[from] != '\n')
            buffer_add_byte(into, '\r');
        state->cr_pending = false;
        const struct bytes rest = bytes_skip(piece, from);
        const size_t plain = bytes_find_byte(rest, '\r');
        buffer_add(into, bytes_slice(rest, 0, plain));
        from += plain;
        if (plain < rest.count) {
            state->cr_pending = true;
            from++;
        }
    }
}

void local_lines_end(struct line_ends *state, struct buffer *into)
{
    if (state->cr_pending)
        buffer_add_byte(into, '\r');
    state->cr_pending = false;
}

struct verdict local_body_read(struct deliver_channel *channel, struct spool_body *body,
                               uint64_t offset, struct bytes *piece)
{
    if (!channel->piece)
        channel->piece = malloc(DELIVER_PIECE_BYTES);
    if (!channel->piece)
        return verdict_of(CAUSE_LOCAL_FAILED);
    const struct io_result got =
        spool_body_read(body, (struct span){channel->piece, DELIVER_PIECE_BYTES}, offset);
    *piece = bytes_of(channel->piece, got.count);
    if (got.status == IO_OK && got.count > 0)
        return verdict_accept();
    return verdict_with(got.status == IO_CANCELLED ? CAUSE_UNDECIDED : CAUSE_LOCAL_FAILED,
                        BYTES_LITERAL("the stored body could not be read"));
}
