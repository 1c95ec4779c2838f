/*
 * Address lists (RFC 5322 3.4), as they stand in To, Cc and Bcc: display names and comments are
 * passed over, groups opened, a source route dropped. What is no address makes the walk malformed
 * and is skipped, so that one slip does not hide the others.
 */
#include "mail/mail.h"

struct mailbox {
    struct buffer *spec;
    bool gap;          /* a blank came after the last word */
    bool several;      /* words with nothing between them: a name without an address */
    bool opened, shut; /* the angle brackets */
};

/* Behind the comment that begins at the front; comments nest. */
static struct bytes comment_skip(struct bytes rest)
{
    unsigned depth = 0;

    while (rest.count > 0) {
        const uint8_t octet = rest.at[0];
        rest = bytes_skip(rest, octet == '\\' ? 2 : 1);
        depth += octet == '(';
        if (octet == ')' && --depth == 0)
            break;
    }
    return rest;
}

/* Length of the quoted string or domain literal at the front, its marks included. */
static size_t quoted_length(struct bytes rest, uint8_t end)
{
    size_t i = 1;

    while (i < rest.count && rest.at[i] != end)
        i += rest.at[i] == '\\' ? 2 : 1;
    return MIN_OF(i + 1, rest.count);
}

static bool joins(uint8_t octet)
{
    return octet == '.' || octet == '@';
}

static void mailbox_add(struct mailbox *mailbox, struct bytes word)
{
    const size_t count = mailbox->spec->count;

    if (mailbox->shut)
        return;
    if (mailbox->gap && count > 0 && !joins(word.at[0]) && !joins(mailbox->spec->at[count - 1]))
        mailbox->several = true;
    mailbox->gap = false;
    buffer_add(mailbox->spec, word);
}

/* What stood before was a display name, a group's name or a source route. */
static void mailbox_begin(struct mailbox *mailbox)
{
    if (mailbox->shut)
        return;
    buffer_clear(mailbox->spec);
    mailbox->gap = mailbox->several = false;
}

/* Takes what is at the front; how many octets that was. */
static size_t mailbox_take(struct mailbox *mailbox, struct bytes rest)
{
    const uint8_t octet = rest.at[0];
    size_t count = 1;

    switch (octet) {
    case ' ':
    case '\t':
    case '\r':
    case '\n':
        mailbox->gap = true;
        return 1;
    case '(':
        return rest.count - comment_skip(rest).count;
    case '<':
        mailbox_begin(mailbox);
        mailbox->opened = true;
        return 1;
    case '>':
        mailbox->shut = mailbox->opened;
        return 1;
    case ':':
        mailbox_begin(mailbox);
        return 1;
    case '"':
    case '[':
        count = quoted_length(rest, octet == '"' ? '"' : ']');
        break;
    default:
        break;
    }
    mailbox_add(mailbox, bytes_slice(rest, 0, count));
    return count;
}

static bool ends_mailbox(const struct mailbox *mailbox, uint8_t octet)
{
    const bool within = mailbox->opened && !mailbox->shut;

    return octet == ';' || (octet == ',' && !within);
}

bool address_list_next(struct address_list *list, struct buffer *spec)
{
    while (list->rest.count > 0) {
        struct mailbox mailbox = {.spec = spec};

        buffer_clear(spec);
        while (list->rest.count > 0 && !ends_mailbox(&mailbox, list->rest.at[0]))
            list->rest = bytes_skip(list->rest, mailbox_take(&mailbox, list->rest));
        list->rest = bytes_skip(list->rest, 1);
        const bool cut = mailbox.opened && !mailbox.shut;
        if (mailbox.several || cut || spec->failed)
            list->malformed = true;
        else if (spec->count > 0)
            return true;
    }
    return false;
}
